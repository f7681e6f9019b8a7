"""Loop transformations that the templates share."""

from __future__ import annotations

import re
from typing import Any

from tvm_iovt.schedules.concatenation import piece_width
from tvm_iovt.schedules.expressions import subexpressions
from tvm_iovt.schedules.template import (
    blocks,
    is_reduction,
    name_of,
    spatial_extents,
    volume,
)
from tvm_iovt.schedules.tiles import lanes_of, largest_divisor, vector_width
from tvm_iovt.schedules.tvm_api import TensorLoad, tirx
from tvm_iovt.types import CpuSpec

MAX_UNROLLED = 256
"""Copies of a loop body that unrolling may make: bounds the code size and LLVM's time."""


MAX_CHUNK = 4096
"""Elements of a flat loop that one task handles at most."""

CACHE_LINE_BYTES = 64
"""Of every CPU this is for."""

MIN_PIECE = 4
"""Narrower vectors are not worth a loop of their own."""

SERIAL_ELEMENTS = 1 << 16
"""Kernels that do fewer element operations stay serial: a core does so many in 5 to 10 us, and
waking another costs 1 to 3."""

_SEVERAL_LOADS = 3
"""Elements read for each one written, from which a kernel does not also transpose."""

MAX_WAYS = 8
"""Interleaved runs of elements that are stored together."""

TASKS_PER_CORE = 4
"""Parallel iterations per core to aim for: few enough to be cheap, enough to balance."""


def extent_of(schedule: Any, loop: Any) -> int:
    """Constant extent of a loop."""
    return int(schedule.get(loop).extent)


def vectorize_innermost(schedule: Any, loop: Any, lanes: int) -> Any:
    """Vectorise `loop` by the widest power of two that divides it; returns the outer loop."""
    width = vector_width(extent_of(schedule, loop), lanes)
    if width == 1:
        return loop
    outer, inner = schedule.split(loop, [None, width])
    schedule.vectorize(inner)
    return outer


def elementwise_loops(schedule: Any, block: Any, cpu: CpuSpec, operations: int) -> None:
    """Schedule a block without reduction: parallel outside, vector inside.

    The trailing axis gives the vector. Where it is odd, blocks that go through their buffers in
    order get one flat loop.

    Args:
        schedule: The schedule.
        block: A block whose loops are its own.
        cpu: The vector width and the number of cores.
        operations: Work of the block, to decide whether it is worth several threads.
    """
    dtype = str(schedule.get(block).writes[0].source.dtype)
    lanes = lanes_of(cpu, dtype_bits(dtype))
    loops = schedule.get_loops(block)
    if not loops:
        return
    extents = [extent_of(schedule, loop) for loop in loops]
    total = volume(extents)
    width = vector_width(extents[-1], lanes)
    piece = piece_width(schedule.get(block))
    if piece is not None and piece >= MIN_PIECE:
        rest = vectorize_innermost(schedule, loops[-1], min(piece, lanes))
        split_at_conditions(schedule, rest)
        parallel_outer(schedule, loops[:-1], cpu, operations)
        return
    ways = _interleaved(schedule, block)
    if ways is not None and extents[-1] % ways == 0:
        # The code generator makes vectors of a loop over all ways, storing them with shuffles.
        _, inner = schedule.split(loops[-1], [None, ways])
        schedule.unroll(inner)
        parallel_outer(schedule, loops[:-1], cpu, operations)
        return
    if width * 2 < lanes and _is_contiguous(schedule, block):
        # Left serial: TVM recombines the indices of a scalar loop, not those of a vector, and LLVM
        # then vectorises it.
        chunk = largest_divisor(total, MAX_CHUNK)
        outer, _ = schedule.split(schedule.fuse(*loops), [None, chunk])
        parallel_outer(schedule, [outer], cpu, operations)
        return
    crossed = _transposed_axis(schedule, block)
    if crossed is not None:
        _transposing_loops(schedule, loops, crossed, cpu, operations)
        return
    if width * 2 < lanes:  # LLVM vectorises a serial loop better than pieces this narrow
        parallel_outer(schedule, loops[:-1], cpu, operations)
        return
    rest, inner = schedule.split(loops[-1], [None, width])
    schedule.vectorize(inner)
    parallel_outer(schedule, [*loops[:-1], rest], cpu, operations)


def split_at_conditions(schedule: Any, loop: Any) -> None:
    """Have a loop cut where likely conditions change, into loops without conditions."""
    schedule.annotate(loop, "pragma_loop_partition_hint", True)


def _interleaved(schedule: Any, block: Any) -> int | None:
    """How many runs of elements a block interleaves along its last axis, as channel shuffles do."""
    node = schedule.get(block)
    axis = node.iter_vars[-1].var
    ways = {
        int(part.b)
        for part in subexpressions(node.body)
        if isinstance(part, tirx.FloorMod)
        and part.a.same_as(axis)
        and isinstance(part.b, tirx.IntImm)
    }
    return ways.pop() if len(ways) == 1 and min(ways) <= MAX_WAYS else None


def _transposed_axis(schedule: Any, block: Any) -> int | None:
    """The axis along which a block that moves as much as it writes reads contiguously.

    None if that is the axis along which it writes contiguously.
    """
    node = schedule.get(block)
    axes = [var.var for var in node.iter_vars]
    own = volume(int(var.dom.extent) for var in node.iter_vars)
    for region in node.reads:
        if not len(region.region) or volume(int(n) for n in region.source.shape) != own:
            continue
        last = region.region[-1].min
        found = [i for i, axis in enumerate(axes) if last.same_as(axis)]
        if found and found[0] != len(axes) - 1:
            return found[0]
    return None


def _is_rounding(expr: Any) -> bool:
    """Whether an expression is part of the index arithmetic of a resize by nearest neighbours."""
    name = str(getattr(getattr(expr, "op", None), "name", ""))
    return isinstance(expr, tirx.FloorDiv) or name.endswith((".floor", ".ceil", ".round"))


def is_crossed(schedule: Any, block: Any) -> bool:
    """Whether a block that is more than arithmetic on single elements is read transposed.

    Inlined, it would gather all that it reads against the grain: a resize before a transposition.
    """
    node = schedule.get(block)
    inside = list(subexpressions(node.body))
    loads = sum(isinstance(part, TensorLoad) for part in inside)
    if len(node.writes) != 1 or (loads < _SEVERAL_LOADS and not any(map(_is_rounding, inside))):
        return False
    own = node.writes[0].source
    for consumer in schedule.get_consumers(block):
        reader = schedule.get(consumer)
        last = reader.iter_vars[-1].var if len(reader.iter_vars) else None
        for region in reader.reads:
            if region.source.same_as(own) and not region.region[-1].min.same_as(last):
                return True
    return False


def _transposing_loops(
    schedule: Any, loops: list[Any], crossed: int, cpu: CpuSpec, operations: int
) -> None:
    """Square tiles, so that every cache line that is read is used while it is in L1."""
    tile = CACHE_LINE_BYTES // 4
    read_outer, read_inner = schedule.split(
        loops[crossed], [None, largest_divisor(extent_of(schedule, loops[crossed]), tile)]
    )
    extent = extent_of(schedule, loops[-1])
    width = vector_width(extent, lanes_of(cpu))
    vector = width >= 4
    write_outer, write_inner = schedule.split(
        loops[-1], [None, width if vector else largest_divisor(extent, tile)]
    )
    outer = [*loops[:crossed], read_outer, *loops[crossed + 1 : -1], write_outer]
    schedule.reorder(*outer, read_inner, write_inner)
    if vector:
        schedule.vectorize(write_inner)
    parallel_outer(schedule, outer, cpu, operations)


def parallel_outer(schedule: Any, loops: list[Any], cpu: CpuSpec, operations: int) -> Any | None:
    """Run the outermost of perfectly nested loops in parallel, if the work is worth it.

    Only as many loops are fused as it takes to occupy the cores: indices of fused loops are
    recovered by divisions.

    Returns:
        The parallel loop, or None.
    """
    if operations < SERIAL_ELEMENTS or not loops:
        return None
    count = 1
    tasks = extent_of(schedule, loops[0])
    while tasks < TASKS_PER_CORE * cpu.cores and count < len(loops):
        tasks *= extent_of(schedule, loops[count])
        count += 1
    if tasks == 1:
        return None
    fused = schedule.fuse(*loops[:count]) if count > 1 else loops[0]
    schedule.parallel(fused)
    return fused


def dtype_bits(dtype: str) -> int:
    """Bits of one element of a TVM data type string."""
    found = re.search(r"\d+", dtype)
    return int(found.group()) if found else 8


def _is_contiguous(schedule: Any, block: Any) -> bool:
    """Whether all accesses of the block use its axes in order, so that fusing them is exact."""
    node = schedule.get(block)
    axes = [var.var for var in node.iter_vars]
    for region in [*node.reads, *node.writes]:
        if len(region.region) != len(axes):
            return False
        for rng, axis, size, var in zip(
            region.region, axes, region.source.shape, node.iter_vars, strict=True
        ):
            if not rng.min.same_as(axis) or int(size) != int(var.dom.extent):
                return False
    return True


def schedule_leftovers(schedule: Any, done: list[Any], cpu: CpuSpec) -> None:
    """Give the element-wise schedule to every block that is not named in `done`."""
    names = {name_of(schedule, block) for block in done}
    for block in blocks(schedule):
        if name_of(schedule, block) in names or is_reduction(schedule, block):
            continue
        elementwise_loops(schedule, block, cpu, volume(spatial_extents(schedule, block)))
