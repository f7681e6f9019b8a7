"""Depthwise convolution: a window slides over rows, every channel on its own.

All taps of a group of output columns are unrolled, so that each input vector is loaded once and the
weights stay in registers along a row. The input is padded band by band: the padded image never
exists as a whole.
"""

from __future__ import annotations

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
    volume,
)
from tvm_iovt.schedules.tiles import SERIAL_OPERATIONS, largest_divisor
from tvm_iovt.types import CpuSpec


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

    def apply(self, schedule: Any, match: Match, cpu: CpuSpec) -> None:
        """Band of rows and block of channels outside, taps and columns unrolled inside."""
        block = schedule.get_sblock(match.block)
        tile = tile_of(schedule, block)
        extents = spatial_extents(schedule, block)
        taps = volume(reduce_extents(schedule, block))
        work = volume(extents) * taps
        padded = padded_block(schedule)
        keep = [padded] if padded is not None else []
        final = isolate_epilogue(schedule, block, keep, fuse=self.fuse)
        n, h, w, c, kh, kw = schedule.get_loops(block)
        band, channels = self._block_sizes(schedule, padded, extents, tile.lanes, cpu)
        h_band, h_in = schedule.split(h, [None, band])
        c_block, c_vec, c_lane = schedule.split(c, [None, channels // tile.lanes, tile.lanes])
        w_out, w_in = schedule.split(w, [None, tile.cols])
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
        _, height, _, channels = extents
        band = largest_divisor(
            height, max(1, height // (2 * cpu.cores)) if cpu.cores > 1 else height
        )
        block = channels
        if padded is not None:
            _, in_rows, in_cols, _ = spatial_extents(schedule, padded)
            row_bytes = 4 * in_cols * max(1, in_rows // height)
            budget = cpu.l2_bytes // 4
            # A band of fewer than eight rows pads (and loads) the rows around it too often.
            while row_bytes * max(band, 8) * block > budget and block > 2 * lanes:
                block = lanes * largest_divisor(channels // lanes, block // lanes - 1)
            band = largest_divisor(height, max(1, min(band, budget // (row_bytes * block))))
        return band, block
