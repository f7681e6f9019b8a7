"""Kernels that treat every row of a tensor on its own: softmax and the like.

All blocks of such a kernel are computed at the row loop, in buffers of one row, so that a row is
read from memory once and written once. Rows are padded to whole vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm_iovt.schedules.loops import extent_of, parallel_outer, vectorize_innermost
from tvm_iovt.schedules.template import (
    annotated_block,
    blocks,
    is_reduction,
    name_of,
    spatial_extents,
    volume,
)
from tvm_iovt.schedules.tiles import ceil_div, lanes_of
from tvm_iovt.schedules.transcendental import real
from tvm_iovt.schedules.tvm_api import te, tirx
from tvm_iovt.types import CpuSpec

ROW_KEY = "tvm_iovt.row_wise"
"""Annotation of the block that writes the result of a row-wise kernel."""

VECTOR = 16
"""Elements to which rows are padded: the widest vector of float32."""

PADDED_ROW = "padded_row"
"""Name of the block that pads a row."""

_OPERATIONS_PER_ELEMENT = 4
"""A row-wise kernel computes an exponential or the like for each element, in the time of so many
simple operations."""


def padded_row(x: Any, value: float) -> Any:
    """A float32 tensor whose last axis is padded with `value` to whole vectors."""
    *lead, length = (int(extent) for extent in x.shape)
    whole = ceil_div(length, VECTOR) * VECTOR
    if whole == length:
        return x
    return te.compute(
        (*lead, whole),
        lambda *i: tirx.if_then_else(i[-1] < length, x(*i), real(value)),
        name=PADDED_ROW,
    )


def reduced_row(x: Any, reduce: Callable[..., Any], join: Callable[..., Any], name: str) -> Any:
    """The last axis (whole vectors) of a tensor reduced: to one vector, then by a tree.

    Args:
        x: Tensor of float32.
        reduce: Reduction of `tvm.te`.
        join: The same for two expressions.
        name: Of the result, which has the axes of `x` but the last.
    """
    *lead, length = (int(extent) for extent in x.shape)
    k = te.reduce_axis((0, length // VECTOR), "k")
    lanes = te.compute(
        (*lead, VECTOR),
        lambda *i: reduce(x(*i[:-1], k * VECTOR + i[-1]), axis=[k]),
        name=f"{name}_lanes",
    )

    def tree(*i: Any) -> Any:
        values = [lanes(*i, lane) for lane in range(VECTOR)]
        while len(values) > 1:
            half = len(values) // 2
            values = [join(a, b) for a, b in zip(values[:half], values[half:], strict=True)]
        return values[0]

    return te.compute(lead, tree, name=name)


def is_row_wise(schedule: Any) -> bool:
    """Whether a function is a row-wise kernel."""
    return annotated_block(schedule, ROW_KEY, str(VECTOR)) is not None


def schedule_row_wise(schedule: Any, cpu: CpuSpec) -> None:
    """Everything at the row loop; vectors inside, rows in parallel."""
    final = annotated_block(schedule, ROW_KEY, str(VECTOR))
    extents = spatial_extents(schedule, final)
    rows = schedule.get_loops(final)[:-1]
    row = schedule.fuse(*rows) if rows else None
    producers = [b for b in blocks(schedule) if name_of(schedule, b) != name_of(schedule, final)]
    for block in reversed(producers):
        if row is not None:
            schedule.compute_at(block, row, preserve_unit_loops=True)
    if row is not None:
        parallel_outer(schedule, [row], cpu, volume(extents) * _OPERATIONS_PER_ELEMENT)
    for block in [*producers, final]:
        if len(spatial_extents(schedule, block)) == len(extents):
            _vector_loops(schedule, block, cpu)


def _vector_loops(schedule: Any, block: Any, cpu: CpuSpec) -> None:
    lanes = lanes_of(cpu)
    loops = schedule.get_loops(block)
    if is_reduction(schedule, block):
        lane, step = loops[-2:]
        outer, inner = schedule.split(lane, [None, min(lanes, VECTOR)])
        schedule.reorder(outer, step, inner)
        schedule.vectorize(inner)
        init = schedule.decompose_reduction(block, step)
        schedule.vectorize(schedule.get_loops(init)[-1])
    elif name_of(schedule, block) != PADDED_ROW and extent_of(schedule, loops[-1]) % VECTOR == 0:
        # What has a condition or a remainder stays serial: the code generator makes vectors of it.
        vectorize_innermost(schedule, loops[-1], lanes)
