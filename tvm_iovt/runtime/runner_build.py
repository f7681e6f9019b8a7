"""Build the C++ runner, which runs a bundle on machines without Python."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tvm_iovt import host_cpu, resources
from tvm_iovt.build.link import Linker, find_linker, linkers
from tvm_iovt.errors import ToolchainError
from tvm_iovt.types import CpuSpec

COMPILE_TIMEOUT_S = 900.0  # zig builds its C++ library on first use, which takes minutes

_SOURCES = Path(__file__).resolve().parent


def find_compiler(cpu: CpuSpec, *, portable: bool, prefer: str = "") -> Linker:
    """The C++ compiler to build the runner with.

    Args:
        cpu: The CPU that the runner is for.
        portable: Whether the runner goes to another machine. Then zig is taken where it is
            installed: its output asks for glibc 2.28 only and brings its own C++ library, while
            a cross gcc asks for the C and C++ libraries of the distribution that it comes from.
        prefer: A command to use instead of those found on `PATH`.

    Raises:
        ToolchainError: There is none.
    """
    if not prefer and portable and cpu.arch != host_cpu.machine():
        zig = next((c for c in linkers(cpu) if c.name.startswith("zig ")), None)
        if zig is not None:
            return zig
    return find_linker(cpu, prefer=prefer)


def build_runner(
    arch: str,
    libraries: Path,
    out: Path,
    compiler: Sequence[str],
    *,
    tvm_version: str,
    tvm_ffi_version: str,
) -> None:
    """Compile `iovt-runner`, linked to the libraries of one architecture.

    The runner looks for the libraries in `../lib` of its own folder. A runner that was built
    before from the same sources, by the same command, is taken from the user's cache.

    Args:
        arch: Architecture of the libraries, as `uname -m` prints it.
        libraries: Folder with `libtvm_runtime.so` and `libtvm_ffi.so`.
        out: The executable to write.
        compiler: C++ compiler command with the arguments that select `arch`.
        tvm_version: Version of `libtvm_runtime.so`; the runner refuses bundles of any other.
        tvm_ffi_version: Version of `libtvm_ffi.so`, likewise up to the patch number.

    Raises:
        ToolchainError: The compiler failed, or `tvm_ffi` is not installed or of another version.
    """
    options = [
        "-std=c++17",
        "-O2",
        "-s",  # zig's C++ library is ten times larger with its debug information
        f'-DIOVT_TVM_VERSION="{tvm_version}"',
        f'-DIOVT_TVM_FFI_VERSION="{tvm_ffi_version}"',
        "-isystem",
        str(_headers(tvm_ffi_version)),
        str(_SOURCES / "runner.cc"),
    ]
    link = [
        f"-L{libraries}",
        # The runtime registers its functions when it is loaded; no symbol of it is named.
        *("-Wl,--no-as-needed", "-ltvm_runtime", "-ltvm_ffi", "-ldl"),
        # A cross gcc's C library may be older than the one that the libraries were linked to.
        "-Wl,--allow-shlib-undefined",
        "-Wl,-rpath,$ORIGIN/../lib",
    ]
    cached = resources.cache("runner") / f"{arch}-{_digest([*compiler, *options, *link[1:]])}"
    if not cached.is_file():
        _compile([*compiler, *options, *link], cached)
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(cached, out)


def _compile(command: list[str], out: Path) -> None:
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        made = Path(folder) / "iovt-runner"
        command = [*command, "-o", str(made)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ToolchainError(
                "The runner cannot be compiled",
                seen=f"{error}; command: {shlex.join(command)}",
                do="run the command by hand, or choose another compiler",
            ) from error
        if done.returncode != 0:
            raise ToolchainError(
                "The runner cannot be compiled",
                seen=f"{done.stderr.strip()[-2000:]}\n        command: {shlex.join(command)}",
                do="choose another compiler: apt-get install g++, or pip install ziglang",
            )
        made.replace(out)  # in one step: another process may be building the same runner


def _headers(tvm_ffi_version: str) -> Path:
    spec = importlib.util.find_spec("tvm_ffi")
    include = Path(spec.origin).parent / "include" if spec and spec.origin else None
    if include is None or not (include / "tvm" / "ffi").is_dir():
        raise ToolchainError(
            "The runner needs the headers of TVM's FFI",
            seen="no tvm_ffi package with an include folder",
            do=f"pip install apache-tvm-ffi=={tvm_ffi_version}",
        )
    installed = importlib.metadata.version("apache-tvm-ffi")
    if installed.split(".")[:3] != tvm_ffi_version.split(".")[:3]:
        raise ToolchainError(
            "The headers of TVM's FFI are of another version than the bundle",
            seen=f"apache-tvm-ffi {installed} is installed; the bundle has {tvm_ffi_version}",
            do=f"pip install apache-tvm-ffi=={tvm_ffi_version}",
        )
    return include


def _digest(command: Sequence[str]) -> str:
    digest = hashlib.sha256("\0".join(command).encode())
    for source in sorted((*_SOURCES.glob("*.cc"), *_SOURCES.glob("*.h"))):
        digest.update(source.read_bytes())
    compiler = shutil.which(command[0])
    if compiler:
        digest.update(str(Path(compiler).stat().st_mtime_ns).encode())
    return digest.hexdigest()[:24]
