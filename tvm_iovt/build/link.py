"""Linking object files into a shared library for any CPU that tvm-iovt has targets for."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvm_iovt.build.elf import elf_machine
from tvm_iovt.errors import ToolchainError
from tvm_iovt.types import CpuSpec

__all__ = ["Linker", "elf_machine", "find_linker", "host_arch", "host_linker", "linkers"]

LINK_TIMEOUT_S = 300.0

_NATIVE = ("g++", "clang++", "c++")

# Debian's names first, then those of Arm's own downloads and of Yocto's default distribution.
_CROSS = {
    "x86_64": ("x86_64-linux-gnu-g++", "x86_64-linux-gnu-gcc"),
    "aarch64": (
        "aarch64-linux-gnu-g++",
        "aarch64-linux-gnu-gcc",
        "aarch64-none-linux-gnu-g++",
        "aarch64-poky-linux-g++",
    ),
    "armv7l": (
        "arm-linux-gnueabihf-g++",
        "arm-linux-gnueabihf-gcc",
        "arm-none-linux-gnueabihf-g++",
        "arm-poky-linux-gnueabi-g++",
    ),
}

# glibc 2.28 (2018) is what the manylinux_2_28 wheels of the runtime ask of a board anyway.
_ZIG_TARGETS = {
    "x86_64": "x86_64-linux-gnu.2.28",
    "aarch64": "aarch64-linux-gnu.2.28",
    "armv7l": "arm-linux-gnueabihf.2.28",
}

_DEBIAN_PACKAGES = {
    "x86_64": "g++-x86-64-linux-gnu",
    "aarch64": "g++-aarch64-linux-gnu",
    "armv7l": "g++-arm-linux-gnueabihf",
}

_CXX_SUFFIXES = (".cc", ".cpp", ".cxx")
_STDERR_LINES = 20


@dataclass(frozen=True)
class Linker:
    """A command that links shared libraries for one CPU architecture.

    Attributes:
        command: The C++ compiler driver and the arguments that select the architecture.
        arch: What its output must be for, as `uname -m` prints it.
        triple: LLVM triple of the objects it is given.
        name: For listings, e.g. `aarch64-linux-gnu-g++` or `zig (aarch64-linux-gnu.2.28)`.
        c_command: The same for inputs without C++ sources; empty if `command` will do.
    """

    command: tuple[str, ...]
    arch: str
    triple: str
    name: str
    c_command: tuple[str, ...] = ()

    def link(
        self,
        objects: Sequence[Path],
        output: Path,
        options: Sequence[str] = (),
        *,
        timeout_s: float = LINK_TIMEOUT_S,
    ) -> None:
        """Link objects (and C or C++ sources, which are compiled) into a shared library.

        Args:
            objects: `.o`, `.c` or `.cc` files.
            output: The library to write; on failure there is none.
            options: Further arguments of the compiler driver.
            timeout_s: Give up after that many seconds.

        Raises:
            ToolchainError: The linker failed, took too long, or wrote a file for another
                architecture. The message carries the whole command.
        """
        has_cxx = any(file.suffix in _CXX_SUFFIXES for file in objects)
        command = [
            *(self.command if has_cxx else self.c_command or self.command),
            *("-shared", "-fPIC", "-O2", "-Wl,--as-needed", "-o", str(output)),
            *map(str, objects),
            *options,
            # Kernels call expf and friends; a C driver, unlike a C++ one, does not add it.
            "-lm",
        ]
        try:
            self._run(command, output, timeout_s)
            arch = elf_machine(output)
            if arch != self.arch:
                raise ToolchainError(
                    f"{self.name} wrote {output.name} for the wrong architecture",
                    seen=f"{arch} instead of {self.arch}; command: {shlex.join(command)}",
                    do=_install(self.arch),
                )
        except ToolchainError:
            output.unlink(missing_ok=True)
            raise

    def fcompile(self) -> Callable[..., None]:
        """The same as the `fcompile` argument of TVM's `export_library`."""

        def fcompile(
            output: str, objects: str | Sequence[str], options: str | Sequence[str] | None = None
        ) -> None:
            files = [objects] if isinstance(objects, str) else objects
            extra = [options] if isinstance(options, str) else list(options or ())
            self.link([Path(file) for file in files], Path(output), extra)

        # TVM reads these two from the function object.
        fcompile.output_format = "so"  # type: ignore[attr-defined]
        fcompile.get_target_triple = lambda: self.triple  # type: ignore[attr-defined]
        return fcompile

    def _run(self, command: list[str], output: Path, timeout_s: float) -> None:
        shown = f"command: {shlex.join(command)}"
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,
            )
        except OSError as error:
            raise ToolchainError(
                f"Cannot start {self.name}", seen=f"{error}; {shown}", do=_install(self.arch)
            ) from error
        try:
            printed, _ = process.communicate(timeout=timeout_s)
        except BaseException as error:
            # The driver's own children (collect2, ld) hold the pipe: end the whole session.
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise ToolchainError(
                f"Linking {output.name} took more than {timeout_s:g} s",
                seen=shown,
                do="run the command by hand to see where it hangs",
            ) from None
        if process.returncode == 0:
            return
        lines = printed.decode("utf-8", "replace").strip().splitlines()[-_STDERR_LINES:]
        text = "\n        ".join([f"exit status {process.returncode}", *lines, shown])
        if any("No space left on device" in line for line in lines):
            raise ToolchainError(
                f"Linking {output.name} failed: the disk is full",
                seen=text,
                do=f"free space in {output.parent} and in {tempfile.gettempdir()}",
            )
        raise ToolchainError(
            f"Linking {output.name} for {self.arch} failed",
            seen=text,
            do="choose another linker with --cross-compiler, or " + _install(self.arch),
        )


def find_linker(cpu: CpuSpec, *, prefer: str = "") -> Linker:
    """The linker to use for a CPU.

    Args:
        cpu: The CPU to link for.
        prefer: A command to use instead of those found on `PATH`; it may carry arguments
            (`aarch64-poky-linux-g++ --sysroot=/opt/sdk`). `zig` alone selects zig.

    Raises:
        ToolchainError: There is none, or the preferred one cannot be run.
    """
    if prefer:
        return _preferred(cpu.arch, cpu.triple, prefer)
    return _first(cpu.arch, cpu.triple)


def host_linker() -> Linker:
    """The linker for libraries that this Python process can load.

    Raises:
        ToolchainError: There is none.
    """
    arch = host_arch()
    return _first(arch, f"{arch}-linux-gnu" + ("eabihf" if arch == "armv7l" else ""))


def linkers(cpu: CpuSpec) -> tuple[Linker, ...]:
    """Every linker for a CPU that this machine has, the preferred one first."""
    return _available(cpu.arch, cpu.triple)


def host_arch() -> str:
    """The architecture of this Python process, as `uname -m` prints it.

    A 32-bit system on a 64-bit ARM kernel counts as `armv7l`, although `uname` says `aarch64`.
    """
    machine = platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64", "armv8l": "armv7l"}.get(machine, machine)
    return "armv7l" if machine == "aarch64" and struct.calcsize("P") == 4 else machine


def _first(arch: str, triple: str) -> Linker:
    available = _available(arch, triple)
    if available:
        return available[0]
    raise ToolchainError(
        f"No linker for {arch} on this machine",
        seen=f"none of {', '.join(_commands(arch))}, python -m ziglang, zig is installed",
        do=_install(arch),
    )


def _commands(arch: str) -> tuple[str, ...]:
    return _NATIVE if arch == host_arch() else _CROSS.get(arch, ())


def _available(arch: str, triple: str) -> tuple[Linker, ...]:
    found = [
        Linker((path,), arch, triple, name)
        for name in _commands(arch)
        if (path := shutil.which(name))
    ]
    zig = _zig(arch, triple)
    return (*found, zig) if zig else tuple(found)


def _zig(arch: str, triple: str) -> Linker | None:
    if arch not in _ZIG_TARGETS:
        return None
    if importlib.util.find_spec("ziglang"):
        zig: tuple[str, ...] = (sys.executable, "-m", "ziglang")
    elif path := shutil.which("zig"):
        zig = (path,)
    else:
        return None
    target = _ZIG_TARGETS[arch]
    return Linker(
        (*zig, "c++", "-target", target),
        arch,
        triple,
        f"zig ({target})",
        # The C++ driver builds libc++ first, which takes more than a minute when its cache is cold.
        (*zig, "cc", "-target", target),
    )


def _preferred(arch: str, triple: str, prefer: str) -> Linker:
    try:
        words = shlex.split(prefer)
    except ValueError as error:
        raise ToolchainError(
            f"Cannot read the linker command {prefer!r}", seen=str(error)
        ) from None
    if words == ["zig"] and (zig := _zig(arch, triple)):
        return zig
    path = shutil.which(words[0]) if words else None
    if path is None:
        raise ToolchainError(
            f"The linker {prefer!r} cannot be run",
            seen=f"{words[0] if words else 'an empty command'} is not an executable on PATH",
            do=f"correct --cross-compiler or the target's cross_compiler, or {_install(arch)}",
        )
    return Linker((path, *words[1:]), arch, triple, Path(path).name)


def _install(arch: str) -> str:
    package = "g++" if arch == host_arch() else _DEBIAN_PACKAGES.get(arch, "g++")
    return f'pip install "tvm-iovt[cross]", or apt-get install {package}'


def _environment() -> dict[str, str]:
    """The environment of the linker: zig needs a cache folder that it can write."""
    environment = dict(os.environ)
    base = environment.get("XDG_CACHE_HOME") or environment.get("HOME", "")
    if "ZIG_GLOBAL_CACHE_DIR" not in environment and not (base and os.access(base, os.W_OK)):
        environment["ZIG_GLOBAL_CACHE_DIR"] = _temporary_cache().name
    return environment


@functools.cache
def _temporary_cache() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tvm-iovt-zig-")
