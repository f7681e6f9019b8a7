"""Concatenation along the last axis, of pieces that whole vectors copy.

Where whole vectors do, the conditions that choose the operand are marked as likely, so that the
loop over the axis can be cut where they change: every piece is then copied by a loop of its own,
without conditions, and what is computed from the concatenation is computed there too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm_iovt.schedules.expressions import is_chosen, is_likely, subexpressions
from tvm_iovt.schedules.tiles import vector_width
from tvm_iovt.schedules.tvm_api import te, tirx

_WIDEST = 16
"""Elements of the widest vector of float32."""

_CUTTABLE = 4
"""Pieces that are no multiple of this stay together in one loop with conditions."""


def concatenate_last(parts: Sequence[Any]) -> Any:
    """Tensors of equal shape but for the last axis, one after the other along that."""
    sizes = [int(part.shape[-1]) for part in parts]
    width = min(vector_width(size, _WIDEST) for size in sizes)

    def element(*i: Any) -> Any:
        end = sum(sizes)
        value = None
        for part, size in zip(reversed(parts), reversed(sizes), strict=True):
            here = part(*i[:-1], i[-1] - (end - size))
            if value is None:
                value = here
            elif width >= _CUTTABLE:
                value = tirx.if_then_else(tirx.likely(i[-1] < end), here, value)
            else:
                value = tirx.if_then_else(i[-1] < end, here, value)
            end -= size
        return value

    shape = (*parts[0].shape[:-1], sum(sizes))
    return te.compute(shape, element, name="concatenate")


def piece_width(block: Any) -> int | None:
    """The widest vector, in elements, that divides all pieces of a block's last axis.

    Args:
        block: A block of a schedule, as TVM's node, which may compute from a concatenation.

    Returns:
        A power of two, or None without likely conditions on the last axis.
    """
    if not len(block.iter_vars):
        return None
    axis = block.iter_vars[-1].var
    cuts = []
    for choice in filter(is_chosen, subexpressions(block.body)):
        condition = list(subexpressions(choice.args[0]))
        if any(map(is_likely, condition)) and any(part.same_as(axis) for part in condition):
            cuts += [int(part) for part in condition if isinstance(part, tirx.IntImm)]
    return min((vector_width(cut, _WIDEST) for cut in cuts if cut), default=None)
