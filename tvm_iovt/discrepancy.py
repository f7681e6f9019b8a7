"""How far outputs are from a reference, element by element."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tvm_iovt.errors import UsageError
from tvm_iovt.types import Discrepancy, OutputDiscrepancy, Tolerance

# Some units in the last place of a float32 around 1: what a sigmoid or softmax of ordinary numbers
# is off by even where its result is tiny.
ROUNDING = 1e-6

# Logits of trained networks are about this large; the absolute bound is meant for them. Beyond,
# elements near zero are differences of larger numbers and as inexact as those.
LARGE = 10.0


def compare(
    actual: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    *,
    tolerance: Tolerance,
    reference: str,
) -> Discrepancy:
    """Compare outputs `y` with reference outputs `r` of the same names.

    An element is within tolerance when `|y - r| <= atol + rtol * |r|`, with `atol` scaled for
    outputs of small and of large numbers as `types.Tolerance` says. NaN agrees with NaN and
    an infinity with itself only. Integer and boolean outputs have no tolerance: every element
    must be equal. An output of another shape or dtype violates with every element.

    Args:
        actual: Outputs by name, any shape.
        expected: Reference outputs by name.
        tolerance: Its bounds apply to floating-point outputs.
        reference: What computed `expected`, for reports.

    Raises:
        UsageError: The two have different names, or a tolerance is negative.
    """
    if set(actual) != set(expected):
        raise UsageError(
            "The outputs to compare have different names",
            seen=f"{', '.join(actual) or 'none'} against {', '.join(expected) or 'none'}",
        )
    rtol, atol = tolerance.rtol, tolerance.atol
    if not (rtol >= 0 and atol >= 0):
        raise UsageError("Tolerances must not be negative", seen=f"rtol {rtol}, atol {atol}")
    outputs = (
        _compare(name, np.asarray(actual[name]), np.asarray(r), rtol, atol)
        for name, r in expected.items()
    )
    return Discrepancy(outputs=tuple(outputs), tolerance=tolerance, reference=reference)


def stated_bound(bound: float, largest: float) -> float:
    """The `atol` that `compare` scales to `bound` for an output of that largest `|r|`."""
    if largest > LARGE:
        return bound * (LARGE / largest)
    return bound / largest if 0 < largest < 1 and bound > ROUNDING else bound


def _compare(
    name: str, y: np.ndarray, r: np.ndarray, rtol: float, atol: float
) -> OutputDiscrepancy:
    if y.shape != r.shape or y.dtype != r.dtype:
        return OutputDiscrepancy(
            name=name,
            max_abs=float("inf"),
            max_rel=float("inf"),
            cosine=0.0,
            violations=max(1, r.size),
            elements=r.size,
        )
    if r.dtype.kind != "f":
        rtol = atol = 0.0
        same = y == r
    else:
        same = (y == r) | (np.isnan(y) & np.isnan(r))
    y64, r64 = y.astype(np.float64), r.astype(np.float64)
    atol = _absolute_bound(r64, atol)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        absolute = np.where(same, 0.0, np.abs(y64 - r64))
        absolute[np.isnan(absolute)] = np.inf  # NaN against a number
        if r.dtype.kind != "f":
            within = same
        else:
            # An infinite reference would make the tolerance infinite.
            within = same | (np.isfinite(r64) & (absolute <= atol + rtol * np.abs(r64)))
        threshold = atol / rtol if rtol > 0 else (0.0 if atol == 0 else np.inf)
        governed = np.isfinite(r64) & (np.abs(r64) > threshold)
        relative = absolute[governed] / np.abs(r64[governed])
    return OutputDiscrepancy(
        name=name,
        max_abs=float(absolute.max(initial=0.0)),
        max_rel=float(relative.max(initial=0.0)),
        cosine=_cosine(y64, r64),
        violations=int(within.size - np.count_nonzero(within)),
        elements=r.size,
    )


def _absolute_bound(r: npt.NDArray[np.float64], atol: float) -> float:
    """`atol`, scaled with the largest finite `|r|` of an output of small or large numbers."""
    largest = float(np.abs(r[np.isfinite(r)]).max(initial=0.0))
    if largest > LARGE:
        return atol * (largest / LARGE)
    return min(atol, max(ROUNDING, atol * largest)) if largest > 0 else atol


def _cosine(y: npt.NDArray[np.float64], r: npt.NDArray[np.float64]) -> float:
    """Cosine similarity over the elements that are finite in both; 1 for two zero vectors."""
    finite = np.isfinite(y) & np.isfinite(r)
    y, r = y[finite], r[finite]
    # Scaled so that squares neither overflow nor vanish.
    largest_y, largest_r = np.abs(y).max(initial=0.0), np.abs(r).max(initial=0.0)
    if largest_y == 0 or largest_r == 0:
        return 1.0 if largest_y == largest_r else 0.0
    y, r = y / largest_y, r / largest_r
    return float(np.dot(y, r) / (np.linalg.norm(y) * np.linalg.norm(r)))
