"""The arithmetic of Winograd convolution: transforms of tiles, as exact matrices and as sums.

`m` neighbouring outputs of a convolution with `r` weights along one axis are
`A^T ((G w) * (B^T d))`: `m + r - 1` products of transformed weights and inputs instead of `m r`.
In two dimensions the transforms apply along rows, then along columns. Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks" (arXiv 1509.09308); the construction is that of Toom
and Cook from the values at `m + r - 2` points and at infinity. Barabasz et al. (arXiv 1803.10986)
discuss the rounding error, which grows with the number and the size of the points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

_POINTS = tuple(Fraction(p) for p in ("0", "1", "-1", "2", "-2", "1/2", "-1/2"))
"""Small powers of two: transforms multiply by few digits. Opposite points share their sums."""

Rows = tuple[tuple[Fraction, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Winograd's transforms along one axis, exact.

    Attributes:
        outputs: Outputs of a tile (m).
        taps: Weights (r).
        stride: Inputs from one output to the next.
        data: `B^T`, (products, inputs).
        weights: `G`, (products, taps).
        result: `A^T`, (outputs, products).
    """

    outputs: int
    taps: int
    stride: int
    data: Rows
    weights: Rows
    result: Rows

    @property
    def inputs(self) -> int:
        """Inputs of a tile."""
        return (self.outputs - 1) * self.stride + self.taps

    @property
    def products(self) -> int:
        """Products of a tile."""
        return len(self.data)


@cache
def axis(outputs: int, taps: int, stride: int = 1) -> Axis:
    """The transforms of `F(outputs, taps)`.

    With a stride, the inputs and the taps fall into phases: taps 0, s, 2s ... only meet inputs
    0, s, 2s ... Each phase is a convolution of stride 1, and the result is their sum.

    Args:
        outputs: m, at least 1.
        taps: r, at least 1.
        stride: s, at least 1.

    Raises:
        ValueError: There are not enough points for so large a tile.
    """
    inputs = (outputs - 1) * stride + taps
    data: list[tuple[Fraction, ...]] = []
    weights: list[tuple[Fraction, ...]] = []
    result: list[tuple[Fraction, ...]] = [() for _ in range(outputs)]
    for phase in range(min(stride, taps)):
        part = _stride_one(outputs, len(range(phase, taps, stride)))
        data += [_spread(row, phase, stride, inputs) for row in part.data]
        weights += [_spread(row, phase, stride, taps) for row in part.weights]
        result = [(*done, *row) for done, row in zip(result, part.result, strict=True)]
    return Axis(
        outputs=outputs,
        taps=taps,
        stride=stride,
        data=tuple(data),
        weights=tuple(weights),
        result=tuple(result),
    )


def _spread(row: Sequence[Fraction], start: int, step: int, length: int) -> tuple[Fraction, ...]:
    spread = [Fraction(0)] * length
    spread[start : start + step * len(row) : step] = row
    return tuple(spread)


def _stride_one(outputs: int, taps: int) -> Axis:
    inputs = outputs + taps - 1
    if 1 in (outputs, taps):  # nothing is shared: every product as it stands
        one = _identity(inputs)
        return Axis(
            outputs=outputs,
            taps=taps,
            stride=1,
            data=one,
            weights=one if outputs == 1 else ((Fraction(1),),) * inputs,
            result=one if taps == 1 else ((Fraction(1),) * inputs,),
        )
    points = _POINTS[: inputs - 1]
    if len(points) < inputs - 1:
        raise ValueError(f"F({outputs},{taps}) needs {inputs - 1} points of {len(_POINTS)}")
    data: list[tuple[Fraction, ...]] = []
    weights: list[tuple[Fraction, ...]] = []
    for i, point in enumerate(points):
        others = points[:i] + points[i + 1 :]
        scale = Fraction(1)
        for other in others:
            scale *= point - other
        data.append((*_polynomial(others), Fraction(0)))
        weights.append(tuple(point**k / scale for k in range(taps)))
    data.append(_polynomial(points))
    weights.append((*(Fraction(0) for _ in range(taps - 1)), Fraction(1)))
    result = tuple(
        (*(point**x for point in points), Fraction(int(x == outputs - 1))) for x in range(outputs)
    )
    return Axis(
        outputs=outputs,
        taps=taps,
        stride=1,
        data=tuple(data),
        weights=tuple(weights),
        result=result,
    )


def _identity(size: int) -> Rows:
    return tuple(tuple(Fraction(int(i == j)) for j in range(size)) for i in range(size))


def _polynomial(roots: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """Coefficients of `prod(x - root)`, lowest power first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [
            high - root * low
            for high, low in zip(shifted, [*coefficients, Fraction(0)], strict=True)
        ]
    return tuple(coefficients)


def matrix(rows: Rows) -> np.ndarray:
    """A transform as float64 matrix."""
    return np.array([[float(value) for value in row] for row in rows])


def transform_weights(weights: np.ndarray, rows: Axis, cols: Axis) -> np.ndarray:
    """`G w G^T` in float64.

    Args:
        weights: (O, C, rows.taps, cols.taps), any float type.
        rows: Along the third axis of the weights.
        cols: Along the fourth.

    Returns:
        (O, C, rows.products, cols.products), float64.
    """
    wide = weights.astype(np.float64)
    result: np.ndarray = matrix(rows.weights) @ wide @ matrix(cols.weights).T
    return result


def combinations(rows: Rows, values: Sequence[Any], constant: Any) -> list[Any]:
    """The products of the rows with a vector of expressions, written so that they share sums.

    Transforms from opposite points have pairs of rows, `even + odd` and `even - odd`, or columns
    that only enter as sums and differences. Writing equal parts equally lets the compiler compute
    them once (floating-point sums may not be reordered by it).

    Args:
        rows: The matrix.
        values: As many expressions as a row has entries; they support `+`, `-` and `*`.
        constant: Makes an operand of a number.

    Returns:
        One expression a row.
    """
    columns = _opposite_columns(rows)
    if columns:
        return [_by_columns(row, values, columns, constant) for row in rows]
    result: list[Any] = []
    while len(result) < len(rows):
        row, *following = rows[len(result) :]
        if following and _are_opposite(row, following[0]):
            result += _two_rows(row, following[0], values, constant)
        else:
            result.append(_sum(list(zip(row, values, strict=True)), constant))
    return result


def combination_operations(rows: Rows) -> int:
    """Vector operations that `combinations` takes when equal parts are computed once."""
    terms = sum(1 for row in rows for value in row if value)
    return max(terms * 2 // 3, len(rows)) if len(rows) > 1 else 0


def _opposite_columns(rows: Rows) -> tuple[tuple[int, int], ...]:
    """Neighbouring columns with several entries that are equal, or opposite, in every row."""
    found = []
    j = 0
    while j + 1 < len(rows[0]):
        shared = sum(1 for row in rows if row[j])
        if shared > 1 and all(abs(row[j]) == abs(row[j + 1]) for row in rows):
            found.append((j, j + 1))
            j += 2
        else:
            j += 1
    return tuple(found)


def _by_columns(
    row: Sequence[Fraction],
    values: Sequence[Any],
    pairs: Sequence[tuple[int, int]],
    constant: Any,
) -> Any:
    paired = {j for pair in pairs for j in pair}
    terms = [
        (row[j], values[j] + values[k] if row[j] == row[k] else values[j] - values[k])
        for j, k in pairs
    ]
    terms += [(c, values[j]) for j, c in enumerate(row) if j not in paired]
    return _sum(terms, constant)


def _are_opposite(row: Sequence[Fraction], other: Sequence[Fraction]) -> bool:
    """Whether two rows are the sum and the difference of the same two parts."""
    same = sum(1 for a, b in zip(row, other, strict=True) if a and a == b)
    opposite = sum(1 for a, b in zip(row, other, strict=True) if a and a == -b)
    return same > 0 < opposite and same + opposite == sum(1 for a in row if a) == sum(
        1 for b in other if b
    )


def _two_rows(
    row: Sequence[Fraction], other: Sequence[Fraction], values: Sequence[Any], constant: Any
) -> list[Any]:
    terms = list(zip(row, other, values, strict=True))
    same = _sum([(a, v) for a, b, v in terms if a == b], constant)
    opposite = _sum([(a, v) for a, b, v in terms if a != b], constant)
    return [same + opposite, same - opposite]


def _sum(terms: Sequence[tuple[Fraction, Any]], constant: Any) -> Any:
    """A positive term first, better one without a factor: a chain cannot start by subtracting."""
    ordered = sorted(
        (term for term in terms if term[0]), key=lambda term: (term[0] < 0, abs(term[0]) != 1)
    )
    total: Any = None
    for coefficient, value in ordered:
        size = abs(coefficient)
        term = value if size == 1 else value * constant(float(size))
        if total is None:
            total = term if coefficient > 0 else constant(0.0) - term
        else:
            total = total + term if coefficient > 0 else total - term
    return constant(0.0) if total is None else total
