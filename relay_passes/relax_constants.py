"""Constants of a Relax module as float64 arrays, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from tvm_iovt.fusion.convolution import InexactError

Array = npt.NDArray[Any]


def finite(array: Array) -> Array:
    """The array in float64.

    Raises:
        InexactError: It holds NaN or infinity.
    """
    values = np.asarray(array, np.float64)
    if not np.isfinite(values).all():
        raise InexactError("its constants hold NaN or infinity")
    return values


def constant_of(array: Array, dtype: str) -> Any:
    """A Relax constant of that type, rounded once.

    Raises:
        InexactError: A value is too large for the type.
    """
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(array.astype(numpy_dtype(dtype)))
    if not np.isfinite(cast.astype(np.float64)).all():
        raise InexactError(f"the fused weights overflow {dtype}")
    return relax.const(cast, dtype)


def numpy_dtype(dtype: str) -> Any:
    """NumPy's type for a Relax type."""
    if dtype == "bfloat16":
        import ml_dtypes

        return ml_dtypes.bfloat16
    return dtype
