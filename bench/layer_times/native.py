"""The two small C files beside this one, compiled for this very machine."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tvm_iovt.errors import ToolchainError

_HERE = Path(__file__).resolve().parent
# A millisecond each, so that some repetitions are not interrupted even on a busy machine.
_LOOPS, _REPEATS = 200_000, 200


def fma_peak_flops() -> float:
    """Measured peak rate of float32 multiply-adds of one core, FLOPs a second."""
    library = ctypes.CDLL(str(_compiled("fma_peak")))
    library.fma_peak.restype = ctypes.c_double
    return float(library.fma_peak(_LOOPS, _REPEATS))


class Recorder:
    """Time stamps of the calls that a virtual machine makes.

    Attributes:
        path: Library whose function `record` is the instrument.
    """

    def __init__(self) -> None:
        self.path = _compiled("recorder")
        self._library = ctypes.CDLL(str(self.path))
        self._calls = ctypes.c_int32.in_dll(self._library, "calls")

    def clear(self) -> None:
        self._calls.value = 0

    def durations_s(self) -> npt.NDArray[np.float64]:
        """Of the calls since `clear`, in the order in which they began."""
        count = self._calls.value
        stamps = ctypes.c_int64 * count
        began, ended = (
            np.array(stamps.in_dll(self._library, name)) for name in ("began_ns", "ended_ns")
        )
        return np.asarray((ended - began) * 1e-9, np.float64)


@functools.cache
def _compiled(name: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tvm-iovt-bench-"))
    out = folder / f"{name}.so"
    command = [*_compiler(), "-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC"]
    if platform.machine() == "x86_64":
        command.append("-mprefer-vector-width=512")
    command += [str(_HERE / f"{name}.c"), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolchainError(
            f"{name}.c cannot be compiled",
            seen=done.stderr.strip()[-600:],
            do="apt-get install gcc, or pip install ziglang",
        )
    return out


def _compiler() -> list[str]:
    for command in ("cc", "gcc", "clang"):
        if shutil.which(command):
            return [command]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise ToolchainError(
        "There is no C compiler",
        seen="none of cc, gcc, clang, python -m ziglang",
        do="apt-get install gcc, or pip install ziglang",
    )
