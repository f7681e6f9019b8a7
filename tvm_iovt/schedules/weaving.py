"""Reshape, permutation and reshape as one kernel with short index arithmetic.

Channel shuffles and pixel shuffles split axes, permute the pieces and merge them again. The generic
reshape computes a linear index over the whole tensor for each element; here every output axis is
taken apart on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm_iovt.schedules.tvm_api import te
from tvm_iovt.schedules.views import Segment


def woven(
    data: Any, split: Sequence[Segment], pieces: Sequence[int], merged: Sequence[Sequence[int]]
) -> Any:
    """A tensor whose axes are split into pieces, and these merged into the axes of the result.

    Args:
        data: The tensor.
        split: The pieces of each axis of `data`, in order: one axis before, any number after.
        pieces: Extents of all pieces.
        merged: The pieces of each axis of the result, outermost first.
    """
    shape = [_product(pieces[p] for p in axes) for axes in merged]

    def element(*i: Any) -> Any:
        digit: dict[int, Any] = {}
        for index, axes in zip(i, merged, strict=True):
            rest = index
            for p in reversed(axes[1:]):
                digit[p] = rest % pieces[p]
                rest = rest // pieces[p]
            digit[axes[0]] = rest
        return data(*(_number([digit[p] for p in s.after], s.after, pieces) for s in split))

    return te.compute(shape, element, name="woven")


def _product(values: Any) -> int:
    result = 1
    for value in values:
        result *= value
    return result


def _number(digits: Sequence[Any], axes: Sequence[int], pieces: Sequence[int]) -> Any:
    result = digits[0]
    for digit, axis in zip(digits[1:], axes[1:], strict=True):
        result = result * pieces[axis] + digit
    return result
