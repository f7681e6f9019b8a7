"""Dense and grouped convolution and matrix product on packed weights.

The loops around one register tile follow Georganas et al., "Anatomy of High-Performance Deep
Learning Convolutions on SIMD Architectures" (doi 10.1109/SC.2018.00069): an output tile stays in
registers over the whole reduction, each step broadcasts one input value per output pixel and reads
one contiguous row of the weight panel.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
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
    value_of,
    volume,
)
from tvm_iovt.schedules.tiles import SERIAL_OPERATIONS, Tile, balanced_divisor, largest_divisor
from tvm_iovt.types import CpuSpec

_MAX_STREAMS = 8
"""Places of a matrix to read weights from at the same time, when each is used once."""

_MIN_STREAM = 64
"""Steps of a stream below which there is nothing to gain."""


def tile_of(schedule: Any, block: Any) -> Tile:
    """The tile that the legalisation attached to a block."""
    rows, cols, vectors, lanes = (int(v) for v in annotation(schedule, block, TILE_KEY))
    return Tile(rows=rows, cols=cols, vectors=vectors, lanes=lanes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractionPlan:
    """The free choices of the template once the weights are packed.

    Each is an `int` or a variable of the schedule that stands for one (a sampled decision).

    Attributes:
        rows: Output rows of the register tile; divides the rows of the block.
        cols: Output columns of the register tile; divides the columns of the block.
        band: How many tiles share a pass over the weights: of rows of an image, of rows of a
            matrix. All panels are read for each band, in turn, so they should stay in a cache.
            None: one panel is read for the whole image.
    """

    rows: Any
    cols: Any
    band: Any | None


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

    def plan(self, schedule: Any, match: Match, cpu: CpuSpec) -> ContractionPlan:
        """What is chosen without measuring."""
        block = schedule.get_sblock(match.block)
        tile = tile_of(schedule, block)
        extents = spatial_extents(schedule, block)
        reduction = volume(reduce_extents(schedule, block))
        band = None
        if len(extents) == 4 and 4 * reduction * extents[-1] <= cpu.l2_bytes // 2:
            band = self._band(schedule, extents[1] // tile.rows, cpu)
        return ContractionPlan(rows=tile.rows, cols=tile.cols, band=band)

    def apply(self, schedule: Any, match: Match, cpu: CpuSpec) -> None:
        """Tile, accumulate in registers, write through the epilogue."""
        self.apply_plan(schedule, match, cpu, self.plan(schedule, match, cpu))

    def apply_plan(self, schedule: Any, match: Match, cpu: CpuSpec, plan: ContractionPlan) -> None:
        """The same with given choices."""
        block = schedule.get_sblock(match.block)
        tile = dataclasses.replace(
            tile_of(schedule, block),
            rows=value_of(schedule, plan.rows),
            cols=value_of(schedule, plan.cols),
        )
        depth_of_reduction = volume(reduce_extents(schedule, block))
        extents = spatial_extents(schedule, block)
        work = volume(extents) * depth_of_reduction
        padded = padded_block(schedule)
        keep = [padded] if padded is not None else []
        final = isolate_epilogue(schedule, block, keep, fuse=self.fuse)

        loops = schedule.get_loops(block)
        *lead, width, channel = loops[: len(extents)]
        reduce_loops = loops[len(extents) :]
        if tile.rows * tile.cols == 1 and len(reduce_loops) == 1:
            reduce_loops = _streams(schedule, reduce_loops[0])
        panel, vector, lane = schedule.split(channel, [None, tile.vectors, tile.lanes])
        width_outer, width_inner = schedule.split(width, [None, plan.cols])
        inner = [width_inner, vector, lane]
        pad_at = 0
        if len(extents) == 4:
            height_outer, height_inner = schedule.split(lead[1], [None, plan.rows])
            inner = [height_inner, *inner]
            if plan.band is not None:
                # The weights stay in L2 while bands of rows go by; a band pads its own input.
                height_band, height_outer = schedule.split(height_outer, [None, plan.band])
                outer = [lead[0], height_band, panel, height_outer, width_outer]
                pad_at = 2 if padded is not None else 0
                parallel = 2 if padded is not None else 3
            else:
                # One panel of weights stays in L2 for the whole image.
                outer = [lead[0], panel, height_outer, width_outer]
                parallel = 3
        elif plan.band is not None:
            width_band, width_outer = schedule.split(width_outer, [None, plan.band])
            outer = [*lead, width_band, panel, width_outer]
            parallel = len(outer) - 1
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

    def _band(self, schedule: Any, count: int, cpu: CpuSpec) -> int:
        """Rows of tiles per task: a band's input fits L2, and there are bands for every core."""
        padded = padded_block(schedule)
        limit = max(1, count // (2 * cpu.cores)) if cpu.cores > 1 else count
        if padded is not None:
            extents = spatial_extents(schedule, padded)
            row_bytes = 4 * volume(extents[1:]) // count
            limit = max(min(limit, cpu.l2_bytes // 4 // row_bytes), 2)
        return balanced_divisor(count, limit, cpu.cores)


def _streams(schedule: Any, loop: Any) -> list[Any]:
    """The loop over a reduction as several that advance together.

    Weights that are used once come from memory as fast as it has requests in flight, and the
    prefetcher of one stream pauses at every page. Measured on Zen 4, 1280 x 1000 weights from
    memory: 19 GB/s with one stream, 28 GB/s with eight.
    """
    count = largest_divisor(extent_of(schedule, loop), _MAX_STREAMS)
    if extent_of(schedule, loop) // count < _MIN_STREAM:
        return [loop]
    stream, step = schedule.split(loop, [count, None])
    schedule.unroll(stream)
    return [step, stream]
