"""Depthwise convolution: a window slides over rows, every channel on its own.

All taps of a group of output columns are unrolled, so that each input vector is loaded once and the
weights stay in registers along a row. The input is padded band by band: the padded image never
exists as a whole.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from tvm_iovt.schedules.contraction import tile_of
from tvm_iovt.schedules.convolution import TEMPLATE_KEY
from tvm_iovt.schedules.epilogue import isolate_epilogue, padded_block, store_tile
from tvm_iovt.schedules.loops import (
    MAX_UNROLLED,
    schedule_leftovers,
    vectorize_innermost,
)
from tvm_iovt.schedules.template import (
    Match,
    Refusal,
    annotated_block,
    name_of,
    reduce_extents,
    spatial_extents,
    value_of,
    volume,
)
from tvm_iovt.schedules.tiles import (
    SERIAL_OPERATIONS,
    balance,
    balanced_divisor,
    largest_divisor,
)
from tvm_iovt.types import CpuSpec

_BALANCED = 0.95
"""Share of the cores' time from which tasks count as balanced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowPlan:
    """The free choices of the template once the weights are packed.

    Each is an `int` or a variable of the schedule that stands for one (a sampled decision).

    Attributes:
        cols: Output columns computed at a time; divides the columns of the block.
        band: Output rows of a task; divides the rows of the block.
        vectors: Vectors of channels of a task; divides those of the block.
    """

    cols: Any
    band: Any
    vectors: Any


class Window:
    """The depthwise template; columns and lanes were chosen when the weights were packed."""

    def __init__(self, *, fuse: bool = True) -> None:
        self.fuse = fuse
        self.name = "window" if fuse else "window_unfused"

    def match(self, schedule: Any) -> Match | Refusal:
        """Matches the block that the legalisation marked."""
        block = annotated_block(schedule, TEMPLATE_KEY, "window")
        if block is None:
            return Refusal("no depthwise convolution")
        tile = tile_of(schedule, block)
        taps = volume(reduce_extents(schedule, block))
        return Match(
            name_of(schedule, block), f"{taps} taps, {tile.cols} columns x {tile.lanes} channels"
        )

    def plan(self, schedule: Any, match: Match, cpu: CpuSpec) -> WindowPlan:
        """What is chosen without measuring."""
        block = schedule.get_sblock(match.block)
        tile = tile_of(schedule, block)
        extents = spatial_extents(schedule, block)
        padded = padded_block(schedule)
        band, channels = self._block_sizes(schedule, padded, extents, tile.lanes, cpu)
        return WindowPlan(cols=tile.cols, band=band, vectors=channels // tile.lanes)

    def apply(self, schedule: Any, match: Match, cpu: CpuSpec) -> None:
        """Band of rows and block of channels outside, taps and columns unrolled inside."""
        self.apply_plan(schedule, match, cpu, self.plan(schedule, match, cpu))

    def apply_plan(self, schedule: Any, match: Match, cpu: CpuSpec, plan: WindowPlan) -> None:
        """The same with given choices."""
        block = schedule.get_sblock(match.block)
        tile = dataclasses.replace(tile_of(schedule, block), cols=value_of(schedule, plan.cols))
        extents = spatial_extents(schedule, block)
        taps = volume(reduce_extents(schedule, block))
        work = volume(extents) * taps
        padded = padded_block(schedule)
        keep = [padded] if padded is not None else []
        final = isolate_epilogue(schedule, block, keep, fuse=self.fuse)
        n, h, w, c, kh, kw = schedule.get_loops(block)
        h_band, h_in = schedule.split(h, [None, plan.band])
        c_block, c_vec, c_lane = schedule.split(c, [None, plan.vectors, tile.lanes])
        w_out, w_in = schedule.split(w, [None, plan.cols])
        outer = [n, h_band, c_block, h_in, c_vec, w_out]
        schedule.reorder(*outer, kh, kw, w_in, c_lane)
        done = store_tile(schedule, block, final, len(outer), w_out, tile)
        if padded is not None:
            schedule.compute_at(padded, c_block)
            vectorize_innermost(schedule, schedule.get_loops(padded)[-1], tile.lanes)
            done.append(padded)
        fused = schedule.fuse(n, h_band, c_block)
        if work >= SERIAL_OPERATIONS:
            schedule.parallel(fused)
        schedule.vectorize(c_lane)
        if taps * tile.cols <= MAX_UNROLLED:
            schedule.unroll(kh)
        if taps * tile.cols <= MAX_UNROLLED * 4:
            schedule.unroll(kw)
        schedule.unroll(w_in)
        init = schedule.decompose_reduction(block, kh)
        schedule.vectorize(schedule.get_loops(init)[-1])
        schedule_leftovers(schedule, [block, init, *done], cpu)

    def _block_sizes(
        self, schedule: Any, padded: Any | None, extents: list[int], lanes: int, cpu: CpuSpec
    ) -> tuple[int, int]:
        """Rows of a band and channels of a block, so that the padded input of both fits L2."""
        batch, height, _, channels = extents
        limit = max(1, height // (2 * cpu.cores)) if cpu.cores > 1 else height
        block = channels
        if padded is not None:
            _, in_rows, in_cols, _ = spatial_extents(schedule, padded)
            row_bytes = 4 * in_cols * max(1, in_rows // height)
            budget = cpu.l2_bytes // 4
            # A band of fewer than eight rows pads (and loads) the rows around it too often.
            while row_bytes * max(limit, 8) * block > budget and block > 2 * lanes:
                block = lanes * largest_divisor(channels // lanes, block // lanes - 1)
            limit = max(1, min(limit, budget // (row_bytes * block)))
        blocks = channels // block
        band = balanced_divisor(height, limit, cpu.cores, batch * blocks)
        while balance(height // band * batch * blocks, cpu.cores) < _BALANCED and block > lanes:
            block = lanes * largest_divisor(channels // lanes, block // lanes - 1)
            blocks = channels // block
        return band, block
