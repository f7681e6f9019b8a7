"""Tensors that are a permutation of another one, and what reshapes do to such a pair.

`Permuted(source, order)` stands for `permute_dims(source, order)` without computing it: axis `i` of
the tensor is axis `order[i]` of the source. Reshapes that split axes, or merge axes that are
neighbours in the source too, keep such a description: channel shuffles, pixel shuffles and the
flattening of images to sequences are then at most one permutation of the channels-last tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Permuted:
    """A tensor as a permutation of `source`.

    Attributes:
        source: A Relax variable.
        order: The axis of the source for each axis of the tensor.
        image: Whether the source is, up to reshapes, a channels-last image.
    """

    source: Any
    order: tuple[int, ...]
    image: bool = False

    def permuted(self, axes: tuple[int, ...]) -> Permuted:
        """The tensor after one more permutation."""
        return replace(self, order=tuple(self.order[axis] for axis in axes))


@dataclass(frozen=True, slots=True)
class Segment:
    """Axes before and after a reshape that hold the same elements."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def segments(before: Shape, after: Shape) -> list[Segment] | None:
    """The finest division of a reshape into segments; None for empty tensors or wrong shapes."""
    if 0 in before or 0 in after:
        return None
    found: list[Segment] = []
    i = j = 0
    while i < len(before) or j < len(after):
        first: list[int] = []
        second: list[int] = []
        left = right = 1
        if i < len(before):
            left *= before[i]
            first.append(i)
            i += 1
        while left != right or not second:
            if right < left or (not second and j < len(after)):
                if j == len(after):
                    return None
                right *= after[j]
                second.append(j)
                j += 1
            elif left < right:
                if i == len(before):
                    return None
                left *= before[i]
                first.append(i)
                i += 1
            else:
                break
        found.append(Segment(tuple(first), tuple(second)))
    return found


def regrouped(
    order: tuple[int, ...], before: Shape, after: Shape
) -> tuple[Shape, tuple[int, ...]] | None:
    """A reshape of a permuted tensor as the permutation of a reshape of its source.

    Args:
        order: Of the permuted tensor.
        before: Shape of the permuted tensor.
        after: Shape that it is reshaped to.

    Returns:
        The shape of the reshaped source, and the order; None if the reshape merges axes that are no
        neighbours in the source.
    """
    parts = segments(before, after)
    if parts is None or any(not part.before or not part.after for part in parts):
        return None
    for part in parts:
        places = [order[axis] for axis in part.before]
        if places != list(range(places[0], places[0] + len(places))):
            return None
    shape: list[int] = []
    place = [0] * len(after)
    for part in sorted(parts, key=lambda p: order[p.before[0]]):
        for axis in part.after:
            place[axis] = len(shape)
            shape.append(after[axis])
    return tuple(shape), tuple(place)
