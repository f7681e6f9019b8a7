"""Reductions without packed weights: pooling, means, softmax, products of two activations.

The innermost output axis becomes the vector axis where its extent allows it; the reduction then
runs over vectors, which keeps the order of the additions of every output element.
"""

from __future__ import annotations

from typing import Any

from tvm_iovt.schedules.loops import (
    MAX_UNROLLED,
    dtype_bits,
    extent_of,
    parallel_outer,
    schedule_leftovers,
)
from tvm_iovt.schedules.row_wise import is_row_wise, schedule_row_wise
from tvm_iovt.schedules.template import (
    REDUCE,
    Match,
    Refusal,
    blocks,
    is_reduction,
    name_of,
    reduce_extents,
    spatial_extents,
    volume,
)
from tvm_iovt.schedules.tiles import lanes_of, largest_divisor, vector_width
from tvm_iovt.types import CpuSpec

_MIN_WIDTH = 4
"""Narrower vectors are not worth their instructions."""

_MIN_LANE_WORK = 256
"""Elements below which reducing in lanes does not pay for the second step."""

_SHORT_WINDOW = 16
"""Reductions of at most so many elements have no latency to hide."""

_STACK_BYTES = 1024
"""Buffers below this are kept on the stack (`kMaxStackAlloca` of TVM)."""

_PADDING_BLOCKS = ("pad_temp", "padded", "PadInput")


class Reduction:
    """Vectorises the innermost output axis and accumulates in registers."""

    name = "reduction"

    def match(self, schedule: Any) -> Match | Refusal:
        """Matches functions with at least one reduction."""
        found = [b for b in blocks(schedule) if is_reduction(schedule, b)]
        if not found:
            return Refusal("no reduction")
        names = ", ".join(name_of(schedule, b) for b in found)
        return Match(name_of(schedule, found[0]), f"reductions {names}")

    def apply(self, schedule: Any, match: Match, cpu: CpuSpec) -> None:
        """Schedule every reduction, then everything element-wise around them."""
        if is_row_wise(schedule):
            schedule_row_wise(schedule, cpu)
            return
        _inline(schedule)
        reductions = [b for b in blocks(schedule) if is_reduction(schedule, b)]
        done = list(reductions)
        for block in reductions:
            done += _schedule_reduction(schedule, block, cpu)
        schedule_leftovers(schedule, done, cpu)


def _inline(schedule: Any) -> None:
    """Inline what costs no repeated work; padding is cheaper to repeat than to store."""
    for block in blocks(schedule):
        consumers = schedule.get_consumers(block)
        if is_reduction(schedule, block) or not consumers:
            continue
        own = volume(spatial_extents(schedule, block))
        repeats = max(
            volume(spatial_extents(schedule, c)) * volume(reduce_extents(schedule, c)) // own
            for c in consumers
        )
        padding = name_of(schedule, block).startswith(_PADDING_BLOCKS)
        if (padding and repeats <= 64) or (len(consumers) == 1 and repeats <= 1):
            schedule.compute_inline(block)


def _schedule_reduction(schedule: Any, block: Any, cpu: CpuSpec) -> list[Any]:
    node = schedule.get(block)
    extents = spatial_extents(schedule, block)
    taps = volume(reduce_extents(schedule, block))
    work = volume(extents) * taps
    lanes = lanes_of(cpu, dtype_bits(str(node.writes[0].source.dtype)))
    loops = schedule.get_loops(block)
    spatial, reduce_loops = loops[: len(extents)], loops[len(extents) :]
    width = vector_width(extents[-1], lanes) if extents and len(node.writes) == 1 else 1
    if width < _MIN_WIDTH and taps > _SHORT_WINDOW and _keeps_last_axis(node):
        return _reduce_along_rows(schedule, block, work, cpu)
    if width < _MIN_WIDTH:
        return _reduce_in_lanes(schedule, block, lanes, work, cpu)
    rows, vectors = _tile(extents, width, taps, cpu)
    rest, vector, lane = schedule.split(spatial[-1], [None, vectors, width])
    outer, tile = [*spatial[:-1], rest], [vector, lane]
    if rows > 1:
        row_outer, row = schedule.split(spatial[-2], [None, rows])
        outer, tile = [*spatial[:-2], row_outer, rest], [row, *tile]
    schedule.reorder(*outer, *reduce_loops, *tile)
    # TVM keeps small buffers of global scope on the stack and asks its allocator for all others.
    scope = "global" if rows * vectors * width * 4 < _STACK_BYTES else "local"
    copy = _follower(schedule, block)
    if copy is None:
        copy = schedule.cache_write(block, 0, scope)
    else:
        schedule.set_scope(block, 0, scope)
    schedule.reverse_compute_at(copy, rest)
    store_loops = schedule.get_loops(copy)[len(outer) :]
    if store_loops:
        unrolled, copy_lane = schedule.split(store_loops[-1], [None, width])
        schedule.vectorize(copy_lane)
        for loop in (*store_loops[:-1], unrolled):
            schedule.unroll(loop)
    parallel_outer(schedule, outer, cpu, work)
    schedule.vectorize(lane)
    for loop in tile[:-1]:
        schedule.unroll(loop)
    if taps * vectors * rows <= MAX_UNROLLED // 8:
        for loop in reduce_loops:
            schedule.unroll(loop)
    init = schedule.decompose_reduction(block, reduce_loops[0])
    init_loops = schedule.get_loops(init)
    schedule.vectorize(init_loops[-1])
    for loop in init_loops[len(outer) : -1]:
        schedule.unroll(loop)
    return [init, copy]


def _follower(schedule: Any, block: Any) -> Any | None:
    """The element-wise block that alone reads a reduction, element by element, or None."""
    consumers = list(schedule.get_consumers(block))
    if len(consumers) != 1 or is_reduction(schedule, consumers[0]):
        return None
    node, own = schedule.get(consumers[0]), schedule.get(block).writes[0].source
    axes = [var.var for var in node.iter_vars]
    if spatial_extents(schedule, consumers[0]) != spatial_extents(schedule, block):
        return None
    for region in node.reads:
        if region.source.same_as(own) and not all(
            r.min.same_as(axis) for r, axis in zip(region.region, axes, strict=True)
        ):
            return None
    producers = [name_of(schedule, p) for p in schedule.get_producers(consumers[0])]
    return consumers[0] if producers == [name_of(schedule, block)] else None


def _keeps_last_axis(node: Any) -> bool:
    """Whether all that a reduction reads lies along the last axis that it writes."""
    axes = [var for var in node.iter_vars if int(var.iter_type) != REDUCE]
    return bool(axes) and all(
        len(region.region) and region.region[-1].min.same_as(axes[-1].var) for region in node.reads
    )


def _reduce_along_rows(schedule: Any, block: Any, work: int, cpu: CpuSpec) -> list[Any]:
    """One pass over a whole row for each element of the window, for rows of odd length."""
    count = len(spatial_extents(schedule, block))
    loops = schedule.get_loops(block)
    outer, row, reduce_loops = loops[: count - 1], loops[count - 1], loops[count:]
    schedule.reorder(*outer, *reduce_loops, row)
    parallel_outer(schedule, outer, cpu, work)
    return [schedule.decompose_reduction(block, reduce_loops[0])]


def _tile(extents: list[int], width: int, taps: int, cpu: CpuSpec) -> tuple[int, int]:
    """Rows and vectors of accumulators: several for long reductions, one for short windows."""
    if taps <= _SHORT_WINDOW:
        return 1, 1
    vectors = largest_divisor(extents[-1] // width, 4)
    if len(extents) < 2:
        return 1, vectors
    room = (cpu.vector_registers - 1 - vectors) // vectors
    return largest_divisor(extents[-2], min(room, 6)), vectors


def _reduce_in_lanes(schedule: Any, block: Any, lanes: int, work: int, cpu: CpuSpec) -> list[Any]:
    """Reduce a contiguous innermost axis in the lanes of a vector, then the lanes.

    This changes the order of the additions, as every vectorised sum does.
    """
    node = schedule.get(block)
    count = len(spatial_extents(schedule, block))
    loops = schedule.get_loops(block)
    spatial, reduce_loops = loops[:count], loops[count:]
    width = vector_width(extent_of(schedule, reduce_loops[-1]), lanes)
    if width >= _MIN_WIDTH and len(node.writes) == 1 and work >= _MIN_LANE_WORK:
        _, lane = schedule.split(reduce_loops[-1], [None, width])
        partial = schedule.rfactor(lane, count)
        partial_loops = schedule.get_loops(partial)
        schedule.vectorize(partial_loops[-1])
        init = schedule.decompose_reduction(partial, partial_loops[count])
        schedule.vectorize(schedule.get_loops(init)[-1])
        return [partial, init, block]
    parallel_outer(schedule, spatial, cpu, work)
    return []
