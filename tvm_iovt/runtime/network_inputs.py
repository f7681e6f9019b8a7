"""From a caller's arrays to tensors that kernels can read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tvm_iovt.errors import UsageError
from tvm_iovt.types import TensorSpec

_ALIGNMENT_BYTES = 64  # what compiled kernels assume of their arguments
_SMALL_BYTES = 16384  # what is copied in less time than it takes to describe it to TVM


def check_inputs(specs: Sequence[TensorSpec], inputs: Mapping[str, np.ndarray]) -> None:
    """Compare a caller's arrays with what a network takes.

    Raises:
        UsageError: An input is missing, unknown, or of another shape or dtype.
    """
    if inputs.keys() != {spec.name for spec in specs}:
        wanted = "; ".join(map(str, specs))
        given = ", ".join(map(repr, inputs)) or "none"
        raise UsageError("The inputs have the wrong names", seen=given, do=f"give {wanted}")
    for spec in specs:
        check_input(spec, inputs[spec.name])


def check_input(spec: TensorSpec, array: object) -> None:
    """Compare one array with what a network takes.

    Raises:
        UsageError: It is no array, or of another shape or dtype.
    """
    if not isinstance(array, np.ndarray):
        raise UsageError(f"Input {spec.name} is not a NumPy array", seen=type(array).__name__)
    if array.shape != spec.shape or array.dtype != np.dtype(spec.dtype):
        shape = "x".join(map(str, array.shape)) or "scalar"
        raise UsageError(
            f"Input {spec.name} has the wrong shape or dtype",
            seen=f"{shape} {array.dtype}",
            do=f"give {spec}",
        )


class InputPlace:
    """Where an input is put that kernels cannot read as it is: aligned, and made only once."""

    def __init__(self, spec: TensorSpec, ffi: Any) -> None:
        self._ffi = ffi
        self._spec = spec
        self._array: np.ndarray | None = None
        self._start = 0
        self._tensor: Any = None

    def tensor(self, array: np.ndarray) -> Any:
        """The array as a tensor; a copy of it if it is small, unaligned or not contiguous.

        The copy is overwritten by the next call.
        """
        if array.nbytes > _SMALL_BYTES and _readable(array):
            return self._ffi.from_dlpack(array, require_alignment=_ALIGNMENT_BYTES)
        if self._array is None:
            self._array = _aligned(self._spec.shape, np.dtype(self._spec.dtype))
            self._start = self._array.ctypes.data
            self._tensor = self._ffi.from_dlpack(self._array, require_alignment=_ALIGNMENT_BYTES)
        np.copyto(self._array, array)
        return self._tensor

    def leave_to(self, outputs: Iterable[Any]) -> None:
        """Use another place from now on if one of these tensors in memory is a view of this one.

        A network that only reshapes an input returns such a view.
        """
        if self._array is not None:
            start, end = self._start, self._start + self._array.nbytes
            if any(start <= tensor.data_ptr() < end for tensor in outputs):
                self._array = self._tensor = None


def _readable(array: np.ndarray) -> bool:
    flags = array.flags
    aligned = array.ctypes.data % _ALIGNMENT_BYTES == 0
    return bool(flags.c_contiguous and flags.writeable and aligned)


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    buffer = np.empty(nbytes + _ALIGNMENT_BYTES, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT_BYTES
    return buffer[start : start + nbytes].view(dtype).reshape(shape)
