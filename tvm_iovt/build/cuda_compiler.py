"""The compilers that turn CUDA source into machine code: nvcc, or NVRTC from pip.

Fast math stays off: its approximate division, square root and exponential and its flushing of
denormals cost more accuracy than the tolerance against the reference leaves room for, and on
vision networks they gain next to nothing, because convolutions do not use them.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm_iovt.errors import TargetError, ToolchainError, UsageError

COMPILE_TIMEOUT_S = 900.0

_ARCH = re.compile(r"sm_\d+[af]?")
_STDERR_LINES = 20

INSTALL = (
    'pip install "tvm-iovt[cuda]", or install the CUDA toolkit 12.x'
    " (https://developer.nvidia.com/cuda-toolkit-archive) and put its nvcc on PATH"
)


@dataclass(frozen=True)
class CudaCompiler:
    """A CUDA compiler on this machine.

    Attributes:
        kind: `nvcc` or `nvrtc`.
        version: Of the CUDA toolkit it belongs to, e.g. `(12, 9)`. A driver loads code made by
            toolkits of its own major version or older.
        archs: The architectures it can compile for, without suffixes.
        path: The nvcc executable; empty for NVRTC.
    """

    kind: str
    version: tuple[int, int]
    archs: tuple[str, ...]
    path: str = ""

    @property
    def name(self) -> str:
        """For listings, e.g. `nvcc 12.9 (/usr/local/cuda/bin/nvcc)`."""
        where = f" ({self.path})" if self.path else ""
        return f"{self.kind} {self.version[0]}.{self.version[1]}{where}"

    def supports(self, arch: str) -> bool:
        """Whether it compiles for an architecture; a suffix (`sm_90a`) is left to the compiler."""
        return arch.rstrip("af") in self.archs

    def compile(self, source: str, arch: str) -> bytes:
        """CUDA source to a cubin for one architecture.

        Raises:
            TargetError: `arch` is not the name of an architecture.
            ToolchainError: The compiler refuses the architecture or the source.
        """
        check_arch(arch)
        if not self.supports(arch):
            raise ToolchainError(
                f"{self.name} cannot compile for {arch}",
                seen=f"it knows {', '.join(self.archs)}",
                do="CUDA 13 dropped everything before sm_75: " + INSTALL,
            )
        return self._nvcc(source, arch) if self.kind == "nvcc" else self._nvrtc(source, arch)

    def _nvcc(self, source: str, arch: str) -> bytes:
        with tempfile.TemporaryDirectory(prefix="tvm-iovt-nvcc-") as folder:
            written, cubin = Path(folder) / "kernels.cu", Path(folder) / "kernels.cubin"
            written.write_text(source)
            number = arch.removeprefix("sm_")
            # A cubin rather than a fat binary: it holds exactly one architecture, uncompressed.
            command = [
                *(self.path, "--cubin", "-O3", "-w"),
                *("-gencode", f"arch=compute_{number},code=sm_{number}"),
                *("--expt-relaxed-constexpr", "-o", str(cubin), str(written)),
            ]
            done = _run(command, COMPILE_TIMEOUT_S)
            if done.returncode != 0:
                raise _failed(self, arch, f"{done.stdout}\ncommand: {shlex.join(command)}")
            return cubin.read_bytes()

    def _nvrtc(self, source: str, arch: str) -> bytes:
        from cuda.bindings import nvrtc

        options = [
            f"--gpu-architecture={arch}",
            "-default-device",
            "--device-int128",
            # nvcc has these two from the host's <math.h>.
            "-DINFINITY=__int_as_float(0x7f800000)",
            "-DNAN=__int_as_float(0x7fffffff)",
            *(f"-I{folder}" for folder in _pip_headers(self.version[0])),
        ]
        program = _nvrtc_value(
            nvrtc, nvrtc.nvrtcCreateProgram(source.encode(), b"kernels.cu", 0, None, None)
        )
        try:
            (status,) = nvrtc.nvrtcCompileProgram(
                program, len(options), [option.encode() for option in options]
            )
            if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
                log = bytearray(_nvrtc_value(nvrtc, nvrtc.nvrtcGetProgramLogSize(program)))
                _nvrtc_value(nvrtc, nvrtc.nvrtcGetProgramLog(program, log))
                text = log.decode("utf-8", "replace").rstrip("\0")
                raise _failed(self, arch, f"{text}\noptions: {shlex.join(options)}")
            cubin = bytearray(_nvrtc_value(nvrtc, nvrtc.nvrtcGetCUBINSize(program)))
            _nvrtc_value(nvrtc, nvrtc.nvrtcGetCUBIN(program, cubin))
            return bytes(cubin)
        finally:
            nvrtc.nvrtcDestroyProgram(program)


def check_arch(arch: str) -> None:
    """Make sure that an architecture is named the way CUDA's compilers name machine code.

    Raises:
        TargetError: It is not, or it is empty: the architecture is never guessed.
    """
    if not _ARCH.fullmatch(arch):
        raise TargetError(
            "A CUDA target needs the architecture of its GPU",
            seen=f"arch {arch!r}",
            do="name it, e.g. cuda:sm_87 (Jetson Orin) or cuda:sm_90 (H100); see"
            " https://developer.nvidia.com/cuda-gpus",
        )


def find_compiler(arch: str = "", *, prefer: str = "") -> CudaCompiler:
    """The compiler to use for an architecture: nvcc if it can, else NVRTC.

    Args:
        arch: The architecture, e.g. `sm_87`; empty for whatever the compiler knows.
        prefer: `nvcc` or `nvrtc` to allow only that one.

    Raises:
        TargetError: `arch` is not the name of an architecture.
        ToolchainError: No compiler is installed, or none that is knows the architecture.
        UsageError: `prefer` is something else.
    """
    if arch:
        check_arch(arch)
    if prefer not in ("", "nvcc", "nvrtc"):
        raise UsageError("The CUDA compiler is nvcc or nvrtc", seen=repr(prefer))
    installed = [c for c in compilers() if prefer in ("", c.kind)]
    if not installed:
        raise ToolchainError(
            "No CUDA compiler on this machine",
            seen="neither nvcc with gcc (PATH, CUDA_HOME, /usr/local/cuda) nor NVRTC "
            f"({nvrtc_state()})"
            if not prefer
            else f"{prefer} was asked for and is not installed",
            do=INSTALL,
        )
    for compiler in installed:
        if not arch or compiler.supports(arch):
            return compiler
    raise ToolchainError(
        f"No CUDA compiler on this machine can compile for {arch}",
        seen="; ".join(f"{c.name} knows {', '.join(c.archs)}" for c in installed),
        do="CUDA 13 dropped everything before sm_75: " + INSTALL,
    )


def compilers() -> tuple[CudaCompiler, ...]:
    """The CUDA compilers that this machine has and that answer, nvcc first.

    nvcc calls gcc even to compile device code alone, and does not count without it.
    """
    path = _nvcc_path() if shutil.which("gcc") else ""
    found = (_nvcc_compiler(path) if path else None, _nvrtc_compiler())
    return tuple(compiler for compiler in found if compiler)


def nvrtc_state() -> str:
    """Why NVRTC cannot be used, in a few words; empty if it can."""
    try:
        bindings = importlib.util.find_spec("cuda.bindings.nvrtc")
    except ModuleNotFoundError:
        bindings = None
    if bindings is None:
        return "cuda-bindings is not installed"
    version = _nvrtc_version()
    if version is None:
        return "cuda-bindings is installed, the NVRTC library is not"
    headers = _pip_headers(version[0])
    for wanted in ("cuda_fp16.h", "cuda/std/cstdint"):
        if not any((folder / wanted).is_file() for folder in headers):
            return f"the CUDA {version[0]} header {wanted} is not installed"
    return ""


def _nvcc_path() -> str:
    if path := shutil.which("nvcc"):
        return path
    homes = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda")
    for home in homes:
        if home and (path := shutil.which("nvcc", path=str(Path(home) / "bin"))):
            return path
    return ""


@functools.cache
def _nvcc_compiler(path: str) -> CudaCompiler | None:
    try:
        version = re.search(r"release (\d+)\.(\d+)", _run([path, "--version"], 60).stdout)
        archs = re.findall(r"^sm_\d+", _run([path, "--list-gpu-code"], 60).stdout, re.MULTILINE)
    except ToolchainError:
        return None
    if not version or not archs:
        return None
    return CudaCompiler("nvcc", (int(version[1]), int(version[2])), tuple(archs), path)


@functools.cache
def _nvrtc_compiler() -> CudaCompiler | None:
    if nvrtc_state():
        return None
    from cuda.bindings import nvrtc

    version = _nvrtc_version()
    archs = _nvrtc_value(nvrtc, nvrtc.nvrtcGetSupportedArchs())
    return CudaCompiler("nvrtc", version, tuple(f"sm_{a}" for a in archs)) if version else None


@functools.cache
def _nvrtc_version() -> tuple[int, int] | None:
    try:
        from cuda.bindings import nvrtc

        status, major, minor = nvrtc.nvrtcVersion()
    # The bindings look for the library on first use, with exceptions of several kinds.
    except Exception:
        return None
    return (int(major), int(minor)) if status == nvrtc.nvrtcResult.NVRTC_SUCCESS else None


def _pip_headers(major: int) -> tuple[Path, ...]:
    """Folders of CUDA's device headers in NVIDIA's pip packages of one major version.

    Up to CUDA 12 every package has a folder of its own; from 13 on they share one.
    """
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(root) for root in (spec.submodule_search_locations or ())] if spec else []
    names = (
        ("cuda_runtime/include", "cuda_cccl/include")
        if major <= 12
        else (f"cu{major}/include", f"cu{major}/include/cccl")
    )
    return tuple(root / name for root in roots for name in names if (root / name).is_dir())


def _nvrtc_value(nvrtc: Any, answer: tuple[Any, ...]) -> Any:
    status, *values = answer
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        _, text = nvrtc.nvrtcGetErrorString(status)
        raise ToolchainError("NVRTC failed", seen=text.decode(), do=INSTALL)
    return values[0] if values else None


def _run(command: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        raise ToolchainError(
            f"Cannot start {command[0]}",
            seen=f"{error}; command: {shlex.join(command)}",
            do=INSTALL,
        ) from error
    except subprocess.TimeoutExpired:
        raise ToolchainError(
            f"{command[0]} took more than {timeout_s:g} s", seen=f"command: {shlex.join(command)}"
        ) from None


def _failed(compiler: CudaCompiler, arch: str, output: str) -> ToolchainError:
    lines = output.strip().splitlines()[-_STDERR_LINES:]
    return ToolchainError(
        f"{compiler.name} failed to compile the kernels for {arch}",
        seen="\n        ".join(lines),
        do="check that the architecture exists and that the compiler works (nvcc needs g++ beside"
        " it); else report this",
    )
