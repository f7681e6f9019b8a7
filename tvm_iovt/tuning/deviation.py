"""Whether a kernel computes what it should: arrays against those of a reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

MAX_DEVIATION = 1e-4
"""Largest difference from the reference, relative to its largest output, for float32. Winograd
plans are held to a third of it on sampled tiles; a wrong kernel is off by 1e-2 and more."""

_ROUNDINGS = 2
"""Steps of a narrower type by which an output may differ: sums in another order round apart."""


def deviation(output: np.ndarray, reference: np.ndarray) -> float:
    """Largest absolute difference, relative to the largest finite output.

    Infinity where the reference has it is right (a border of -inf before a maximum); elsewhere it
    makes the result infinite, as NaN does.
    """
    same = np.isinf(reference) & (output == reference)
    output, reference = output[~same], reference[~same]
    if not output.size:
        return 0.0
    difference = float(np.abs(output - reference).max())
    scale = float(np.abs(reference).max())
    if not math.isfinite(difference):
        return math.inf
    return difference / scale if scale else difference


def tolerance(dtype: Any) -> float:
    """What an output of this type may differ by, relative to the largest."""
    dtype = np.dtype(dtype)
    if dtype in (np.int8, np.uint8):
        return 1.0 / float(np.iinfo(dtype).max)  # one step: factors may be applied in another order
    if dtype.kind in "iub":
        return 0.0
    return max(MAX_DEVIATION, _ROUNDINGS * _step(dtype))


def _step(dtype: Any) -> float:
    """The relative step of a floating-point type."""
    info: Any = ml_dtypes.finfo
    return float(info(dtype).eps)


def compared(outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> tuple[float, str]:
    """Largest deviation, and what is wrong; empty if nothing is."""
    worst = 0.0
    for i, (output, reference) in enumerate(zip(outputs, expected, strict=True)):
        off = deviation(output.astype(np.float64), reference.astype(np.float64))
        worst = max(worst, off)
        which = f"output {i}" if len(outputs) > 1 else "its output"
        if not math.isfinite(off):
            return off, f"{which} is not finite, or not written, in places"
        if off > tolerance(output.dtype):
            return off, (
                f"{which} differs from the unscheduled function by {off:.1e} of the largest value, "
                f"{tolerance(output.dtype):.1e} is allowed"
            )
    return worst, ""


def other_than(value: np.ndarray) -> np.ndarray:
    """Nothing of a value: NaN, or an integer's complement."""
    if value.dtype.kind in "iub":
        return ~value
    return np.full(value.shape, np.nan).astype(value.dtype)
