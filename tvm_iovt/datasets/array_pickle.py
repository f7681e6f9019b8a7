"""Pickled dictionaries of plain values and numpy arrays, read without trusting them.

Unpickling calls whatever the file names. Here a file may name only what a pickled array needs, and
even those names stand for recorders: numpy's own functions would take a data type from the file
whose flags make them use its bytes as pointers. The arrays are made from the records afterwards.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tvm_iovt.errors import UsageError

_MAX_AXES = 32  # of a numpy 1 array


def load_array_pickle(path: Path) -> dict[str, Any]:
    """Reads a pickled dictionary; byte strings of Python 2 stay `bytes`, except in its keys.

    Pickle protocols 0 to 4 are read. Nothing that the file names is imported or called.

    Returns:
        The dictionary. Arrays that are its direct values are read-only numpy arrays of integers.

    Raises:
        UsageError: The file cannot be read, is truncated or damaged, is no dictionary, asks for
            anything else than an array, or has an array of something else than integers.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"Cannot read {path}", seen=str(error)) from error
    try:
        _check_memo(data)
        value = _Unpickler(path, data).load()
        if not isinstance(value, dict):
            raise TypeError(f"a {type(value).__name__} instead of a dictionary")
        return {_key(key): _plain(item) for key, item in value.items()}
    except UsageError:
        raise
    # A damaged pickle can make the unpickler raise almost anything.
    except Exception as error:
        raise UsageError(
            f"{path} is not a pickle of plain values and arrays",
            seen=f"{type(error).__name__}: {error}"[:200],
            do="download the file again",
        ) from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, path: Path, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self._path = path

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        make = _NAMES.get((module_name, global_name))
        if make is None:
            raise UsageError(
                f"{self._path} is not a pickle of plain values and arrays",
                seen=f"it asks for {_printable(module_name)}.{_printable(global_name)}",
                do="a pickle can run code when it is read, so nothing else is allowed: take the "
                "file from the data set's own site, or save it again with pickle protocol 4",
            )
        return _StandIn(make)


class _StandIn:
    """What a name in the file becomes: an object made anew for each file, so that none sticks."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., object]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> object:
        return self._make(*arguments)


class _Dtype:
    """A record of `numpy.dtype(name, align, copy)` and of its state."""

    __slots__ = ("_name", "_state")

    def __init__(self, name: Any, *_: Any) -> None:
        self._name = name
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def dtype(self) -> np.dtype[Any]:
        name, order = _text(self._name), _text(self._state[1])
        if name.startswith("O"):
            raise TypeError("an array of objects")
        if not re.fullmatch("[iu][1248]", name) or order not in ("<", ">", "=", "|"):
            raise TypeError(f"an array of {name[:20]!r} instead of integers")
        return np.dtype(order + name)


class _Array:
    """A record of `_reconstruct(ndarray, (0,), "b")` and of the array's state."""

    __slots__ = ("_state",)

    def __init__(self, *_: Any) -> None:
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def array(self) -> npt.NDArray[Any]:
        _, shape, element, column_major, raw = self._state
        if not isinstance(element, _Dtype):
            raise TypeError("an array without a data type")
        dtype = element.dtype()
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise TypeError("an array without a shape")
        if len(shape) > _MAX_AXES:
            raise ValueError(f"an array of {len(shape)} axes")
        if not isinstance(raw, bytes) or len(raw) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"an array of shape {shape} with another number of bytes")
        order: Literal["F", "C"] = "F" if column_major else "C"
        array: npt.NDArray[Any] = np.ndarray(shape, dtype, buffer=raw, order=order)
        return array


def _encode(text: Any, encoding: Any) -> bytes:
    """Python 3 writes `bytes` for old protocols as text with this call around it."""
    if _text(encoding) != "latin1" or not isinstance(text, str):
        raise TypeError("bytes in an unknown encoding")
    return text.encode("latin1")


def _never(*_: Any) -> object:
    raise TypeError("an array that is made in an unknown way")


_NAMES: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _never,  # only ever an argument of _reconstruct
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


def _check_memo(data: bytes) -> None:
    """Raises a ValueError for lengths and memo indices that the data cannot have.

    The unpickler allocates for both before it looks, so a few forged bytes would take gigabytes.
    """
    for place, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            assert isinstance(argument, int)
            if argument > place:
                raise ValueError(f"memo index {argument} at opcode {place}")


def _key(key: Any) -> str:
    if not isinstance(key, str | bytes):
        raise TypeError(f"a key of type {type(key).__name__}")
    return _text(key)


def _plain(value: Any) -> Any:
    if isinstance(value, _Dtype | _StandIn):
        raise TypeError("part of an array without the rest")
    return value.array() if isinstance(value, _Array) else value


def _printable(name: str) -> str:
    """The file may have put anything into a name, such as control codes of a terminal."""
    return name.encode("unicode_escape").decode("ascii")[:100]


def _text(value: Any) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else str(value)
