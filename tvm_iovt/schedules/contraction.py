"""Dense and grouped convolution and matrix product on packed weights.

The loops around one register tile follow Georganas et al., "Anatomy of High-Performance Deep
Learning Convolutions on SIMD Architectures" (doi 10.1109/SC.2018.00069): an output tile stays in
registers over the whole reduction, each step broadcasts one input value per output pixel and reads
one contiguous row of the weight panel.
"""

from __future__ import annotations

from typing import Any

from tvm_iovt.schedules.convolution import TEMPLATE_KEY, TILE_KEY
from tvm_iovt.schedules.epilogue import isolate_epilogue, padded_block, store_tile
from tvm_iovt.schedules.loops import (
    elementwise_loops,
    extent_of,
    schedule_leftovers,
    vectorize_innermost,
)
from tvm_iovt.schedules.template import (
    Match,
    Refusal,
    annotated_block,
    annotation,
    name_of,
    reduce_extents,
    spatial_extents,
    volume,
)
from tvm_iovt.schedules.tiles import SERIAL_OPERATIONS, Tile, largest_divisor
from tvm_iovt.types import CpuSpec


def tile_of(schedule: Any, block: Any) -> Tile:
    """The tile that the legalisation attached to a block."""
    rows, cols, vectors, lanes = (int(v) for v in annotation(schedule, block, TILE_KEY))
    return Tile(rows=rows, cols=cols, vectors=vectors, lanes=lanes)


class Contraction:
    """The register-tiled template; the tile was chosen when the weights were packed."""

    def __init__(self, *, fuse: bool = True) -> None:
        self.fuse = fuse
        self.name = "contraction" if fuse else "contraction_unfused"

    def match(self, schedule: Any) -> Match | Refusal:
        """Matches the block that the legalisation marked, with a tile for it."""
        block = annotated_block(schedule, TEMPLATE_KEY, "contraction")
        if block is None:
            return Refusal("no convolution or matrix product with packed weights")
        tile = tile_of(schedule, block)
        return Match(
            name_of(schedule, block),
            f"{tile.rows}x{tile.cols} pixels x {tile.channels} channels, "
            f"{tile.registers} registers",
        )

    def apply(self, schedule: Any, match: Match, cpu: CpuSpec) -> None:
        """Tile, accumulate in registers, write through the epilogue."""
        block = schedule.get_sblock(match.block)
        tile = tile_of(schedule, block)
        depth_of_reduction = volume(reduce_extents(schedule, block))
        extents = spatial_extents(schedule, block)
        work = volume(extents) * depth_of_reduction
        padded = padded_block(schedule)
        keep = [padded] if padded is not None else []
        final = isolate_epilogue(schedule, block, keep, fuse=self.fuse)

        loops = schedule.get_loops(block)
        *lead, width, channel = loops[: len(extents)]
        reduce_loops = loops[len(extents) :]
        panel, vector, lane = schedule.split(channel, [None, tile.vectors, tile.lanes])
        width_outer, width_inner = schedule.split(width, [None, tile.cols])
        inner = [width_inner, vector, lane]
        pad_at = 0
        if len(extents) == 4:
            height_outer, height_inner = schedule.split(lead[1], [None, tile.rows])
            inner = [height_inner, *inner]
            resident = 4 * depth_of_reduction * extents[-1] <= cpu.l2_bytes // 2
            if resident:
                # The weights stay in L2 while bands of rows go by; a band pads its own input.
                band = self._band(schedule, height_outer, padded, tile, cpu)
                height_band, height_outer = schedule.split(height_outer, [None, band])
                outer = [lead[0], height_band, panel, height_outer, width_outer]
                pad_at = 2 if padded is not None else 0
                parallel = 2 if padded is not None else 3
            else:
                # One panel of weights stays in L2 for the whole image.
                outer = [lead[0], panel, height_outer, width_outer]
                parallel = 3
        else:
            outer = [*lead, panel, width_outer]
            parallel = len(outer)
        schedule.reorder(*outer, *reduce_loops, *inner)
        done = store_tile(schedule, block, final, len(outer), outer[-1], tile)

        if padded is not None:
            if pad_at:
                schedule.compute_at(padded, outer[pad_at - 1])
                vectorize_innermost(schedule, schedule.get_loops(padded)[-1], tile.lanes)
            else:
                elementwise_loops(schedule, padded, cpu, work)
            done.append(padded)
        if work >= SERIAL_OPERATIONS:
            fused = schedule.fuse(*outer[:parallel]) if parallel > 1 else outer[0]
            schedule.parallel(fused)
        schedule.vectorize(lane)
        for loop in inner[:-1]:
            schedule.unroll(loop)
        init = schedule.decompose_reduction(block, reduce_loops[0])
        schedule.vectorize(schedule.get_loops(init)[-1])
        schedule_leftovers(schedule, [block, init, *done], cpu)

    def _band(
        self, schedule: Any, height: Any, padded: Any | None, tile: Tile, cpu: CpuSpec
    ) -> int:
        """Rows of tiles per task: a band's input fits L2, and there are bands for every core."""
        count = extent_of(schedule, height)
        limit = max(1, count // (2 * cpu.cores)) if cpu.cores > 1 else count
        if padded is not None:
            extents = spatial_extents(schedule, padded)
            row_bytes = 4 * volume(extents[1:]) // count
            limit = max(min(limit, cpu.l2_bytes // 4 // row_bytes), 2)
        return largest_divisor(count, limit)
