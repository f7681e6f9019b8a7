"""Convolution and matrix product on dot-product instructions.

The loops are those of the float32 contraction: an output tile stays in registers over the whole
reduction. One step takes a run of 2 or 4 input channels instead of one.
"""

from __future__ import annotations

from typing import Any

from tvm_iovt.schedules.dot_instructions import INSTRUCTIONS, DotInstruction, tensor_intrinsic
from tvm_iovt.schedules.dot_product import DOT_KEY, DOT_TILE_KEY
from tvm_iovt.schedules.epilogue import isolate_epilogue, padded_block, store_tile
from tvm_iovt.schedules.loops import (
    dtype_bits,
    elementwise_loops,
    extent_of,
    schedule_leftovers,
    vectorize_innermost,
)
from tvm_iovt.schedules.template import (
    Match,
    Refusal,
    annotation,
    blocks,
    name_of,
    reduce_extents,
    spatial_extents,
    volume,
)
from tvm_iovt.schedules.tiles import SERIAL_OPERATIONS, Tile, largest_divisor
from tvm_iovt.types import CpuSpec

_IMPORT = "pragma_import_llvm"
"""Loop annotation: LLVM IR to link the function with."""


class DotProduct:
    """The register-tiled template; instruction and tile were chosen when weights were packed."""

    def __init__(self, *, fuse: bool = True) -> None:
        self.fuse = fuse
        self.name = "dot_product" if fuse else "dot_product_unfused"

    def match(self, schedule: Any) -> Match | Refusal:
        """Matches the block that names its instruction."""
        for block in blocks(schedule):
            name = annotation(schedule, block, DOT_KEY)
            if name is not None:
                tile, dot = _tile(schedule, block), INSTRUCTIONS[str(name)]
                return Match(
                    name_of(schedule, block),
                    f"{tile.rows}x{tile.cols} pixels x {tile.channels} channels, "
                    f"{dot.group} inputs a step with {dot.feature}, {tile.registers} registers",
                )
        return Refusal("no convolution or matrix product for dot-product instructions")

    def apply(self, schedule: Any, match: Match, cpu: CpuSpec) -> None:
        """Tile, accumulate in registers, write through the epilogue."""
        block = schedule.get_sblock(match.block)
        dot = INSTRUCTIONS[str(annotation(schedule, block, DOT_KEY))]
        tile = _tile(schedule, block)
        terms = volume(reduce_extents(schedule, block))
        extents = spatial_extents(schedule, block)
        work = volume(extents) * terms
        padded = padded_block(schedule)
        final = isolate_epilogue(
            schedule, block, [] if padded is None else [padded], fuse=self.fuse
        )

        loops = schedule.get_loops(block)
        *lead, width, channel = loops[: len(extents)]
        *reduce_loops, run = loops[len(extents) :]
        panel, vector, lane = schedule.split(channel, [None, tile.vectors, tile.lanes])
        width_outer, width_inner = schedule.split(width, [None, tile.cols])
        inner = [width_inner, vector]
        pad_at: Any = None
        if len(extents) == 4:
            height_outer, height_inner = schedule.split(lead[1], [None, tile.rows])
            inner = [height_inner, *inner]
            weight_bytes = dtype_bits(dot.weight) // 8 * terms * extents[-1]
            if weight_bytes <= cpu.l2_bytes // 2:
                # The weights stay in L2 while bands of rows go by; a band pads its own input.
                band = _band(schedule, height_outer, padded, dot, cpu)
                height_band, height_outer = schedule.split(height_outer, [None, band])
                outer = [lead[0], height_band, panel, height_outer, width_outer]
                pad_at = None if padded is None else height_band
                parallel = 3 if padded is None else 2
            else:
                # One panel of weights stays in L2 for the whole image.
                outer = [lead[0], panel, height_outer, width_outer]
                parallel = 3
        else:
            outer = [*lead, panel, width_outer]
            parallel = len(outer)
        schedule.reorder(*outer, *reduce_loops, *inner, lane, run)
        done = store_tile(schedule, block, final, len(outer), outer[-1], tile)

        if padded is not None:
            if pad_at is None:
                elementwise_loops(schedule, padded, cpu, work)
            else:
                schedule.compute_at(padded, pad_at)
                vectorize_innermost(schedule, schedule.get_loops(padded)[-1], cpu.vector_bits // 32)
            done.append(padded)
        fused = schedule.fuse(*outer[:parallel])
        if work >= SERIAL_OPERATIONS:
            schedule.parallel(fused)
        for loop in inner:
            schedule.unroll(loop)
        init = schedule.decompose_reduction(block, reduce_loops[0])
        schedule.vectorize(schedule.get_loops(init)[-1])
        schedule_leftovers(schedule, [block, init, *done], cpu)
        schedule.tensorize(lane, tensor_intrinsic(dot))
        schedule.annotate(fused, _IMPORT, dot.llvm)


def _tile(schedule: Any, block: Any) -> Tile:
    rows, cols, vectors, lanes = (int(v) for v in annotation(schedule, block, DOT_TILE_KEY))
    return Tile(rows=rows, cols=cols, vectors=vectors, lanes=lanes)


def _band(schedule: Any, height: Any, padded: Any | None, dot: DotInstruction, cpu: CpuSpec) -> int:
    """Rows of tiles per task: a band's input fits L2, and there are bands for every core."""
    count = extent_of(schedule, height)
    limit = max(1, count // (2 * cpu.cores)) if cpu.cores > 1 else count
    if padded is not None:
        row = volume(spatial_extents(schedule, padded)[1:]) // count
        row_bytes = dtype_bits(dot.data) // 8 * row
        limit = max(min(limit, cpu.l2_bytes // 4 // max(row_bytes, 1)), 2)
    return largest_divisor(count, limit)
