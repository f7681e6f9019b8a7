"""The schedule of a Winograd convolution: bands of tiles in cache, products in registers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm_iovt.schedules.convolution import TEMPLATE_KEY
from tvm_iovt.schedules.epilogue import isolate_epilogue, padded_block
from tvm_iovt.schedules.loops import extent_of, schedule_leftovers, vectorize_innermost
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
from tvm_iovt.schedules.tiles import SERIAL_OPERATIONS, lanes_of, vector_width
from tvm_iovt.schedules.winograd import WINOGRAD_KEY
from tvm_iovt.types import CpuSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class WinogradLoops:
    """The free choices of the template once the weights are packed and the bands are fixed.

    Attributes:
        cols: Tiles of one register tile of the products; divides those of a band. An `int` or a
            variable of the schedule that stands for one (a sampled decision).
        whole_input: See `WinogradPlan`.
        panels_outside: One panel of weights is used for all bands before the next; needs the
            whole input.
    """

    cols: Any
    whole_input: bool
    panels_outside: bool


class Winograd:
    """The Winograd template; tiles and bands were chosen when the weights were packed."""

    def __init__(self, *, fuse: bool = True) -> None:
        self.fuse = fuse
        self.name = "winograd" if fuse else "winograd_unfused"

    def match(self, schedule: Any) -> Match | Refusal:
        """Matches the block that the legalisation marked."""
        block = annotated_block(schedule, TEMPLATE_KEY, "winograd")
        if block is None:
            return Refusal("no Winograd convolution")
        m, _, _, _, _, cols, vectors, lanes = _plan(schedule, block)
        return Match(name_of(schedule, block), f"F({m}), {cols} tiles x {vectors * lanes} channels")

    def plan(self, schedule: Any, match: Match, cpu: CpuSpec) -> WinogradLoops:
        """What is chosen without measuring, or was chosen when the weights were packed."""
        *_, whole, cols, _, _ = _plan(schedule, schedule.get_sblock(match.block))
        return WinogradLoops(cols=cols, whole_input=bool(whole), panels_outside=False)

    def apply(self, schedule: Any, match: Match, cpu: CpuSpec) -> None:
        """Transforms by whole vectors, products in register tiles, the epilogue on each tile."""
        self.apply_plan(schedule, match, cpu, self.plan(schedule, match, cpu))

    def apply_plan(self, schedule: Any, match: Match, cpu: CpuSpec, plan: WinogradLoops) -> None:
        """The same with given choices."""
        block = schedule.get_sblock(match.block)
        m_rows, m_cols, band_rows, tile_cols, _, _, vectors, lanes = _plan(schedule, block)
        whole = plan.whole_input
        half = schedule.get_sblock("half_transformed")
        transformed = schedule.get_sblock("transformed")
        products = schedule.get_sblock("products")
        half_result = schedule.get_sblock("half_result")
        padded = padded_block(schedule)
        keep = [half, transformed, products, half_result, *([padded] if padded is not None else [])]
        final = isolate_epilogue(schedule, block, keep, fuse=self.fuse)

        n, h, w, o = schedule.get_loops(block)
        band, band_row, row = schedule.split(h, [None, band_rows, m_rows])
        tile_col, col = schedule.split(w, [tile_cols, m_cols])
        o_panel, vector, lane = schedule.split(o, [None, vectors, lanes])
        outer = [n, o_panel, band] if plan.panels_outside else [n, band, o_panel]
        schedule.reorder(*outer, band_row, tile_col, vector, row, col, lane)
        schedule.set_scope(block, 0, "local")
        schedule.reverse_compute_at(final, vector)
        store_loops = schedule.get_loops(final)[6:]
        channels = spatial_extents(schedule, final)[-1]
        width = vector_width(channels, lanes)
        store_lane = store_loops[-1]
        if width > 1 and extent_of(schedule, store_lane) % width == 0:
            rest, store_lane = schedule.split(store_lane, [None, width])
            store_loops = [*store_loops[:-1], rest]
            schedule.vectorize(store_lane)
        for loop in store_loops if width > 1 else store_loops[:-1]:
            schedule.unroll(loop)

        schedule.compute_at(half_result, vector)
        schedule.set_scope(half_result, 0, "local")
        _unrolled(schedule, half_result, 6, lanes)
        schedule.unroll(row)
        schedule.unroll(col)
        schedule.vectorize(lane)

        schedule.compute_at(products, outer[-1])
        if whole:
            b, e, f, p, c = schedule.get_loops(transformed)
            schedule.reorder(b, p, c, e, f)
            c_out, c_in = _vectors(schedule, c, lanes_of(cpu))
        else:
            schedule.compute_at(transformed, band)
            e, f, p, c = schedule.get_loops(transformed)[-4:]
            schedule.reorder(p, c, e, f)
            c_out, c_in = _vectors(schedule, c, lanes_of(cpu))
        schedule.reorder(c_out, e, f, c_in)
        schedule.compute_at(half, c_out)
        schedule.set_scope(half, 0, "local")
        depth = len(schedule.get_loops(transformed)) - 3
        _unrolled(schedule, half, depth, lanes)
        schedule.unroll(e)
        schedule.unroll(f)
        schedule.vectorize(c_in)
        work = volume(spatial_extents(schedule, products) + reduce_extents(schedule, products))
        done = [block, products, half, transformed, half_result, final]
        if padded is not None and not whole:
            schedule.compute_at(padded, band)
            vectorize_innermost(schedule, schedule.get_loops(padded)[-1], lanes_of(cpu))
            done.append(padded)
        if work >= SERIAL_OPERATIONS:
            if whole:
                schedule.parallel(schedule.fuse(b, p))
                schedule.parallel(schedule.fuse(*outer))
            else:
                schedule.parallel(schedule.fuse(n, band))
        done += self._products(schedule, products, plan.cols, vectors, lanes)
        schedule_leftovers(schedule, done, cpu)

    def _products(
        self, schedule: Any, block: Any, cols: Any, vectors: int, lanes: int
    ) -> list[Any]:
        """Accumulate in registers; returns the blocks that this made."""
        *_, e, f, p, o, k = schedule.get_loops(block)
        p_out, p_in = schedule.split(p, [None, cols])
        o_out, vector, lane = schedule.split(o, [None, vectors, lanes])
        schedule.reorder(e, f, o_out, p_out, k, p_in, vector, lane)
        copy = schedule.cache_write(block, 0, "local")
        schedule.reverse_compute_at(copy, p_out)
        *_, copy_p, copy_o = schedule.get_loops(copy)
        copy_vector, copy_lane = schedule.split(copy_o, [None, lanes])
        schedule.vectorize(copy_lane)
        schedule.unroll(copy_p)
        schedule.unroll(copy_vector)
        schedule.unroll(p_in)
        schedule.unroll(vector)
        schedule.vectorize(lane)
        init = schedule.decompose_reduction(block, k)
        schedule.vectorize(schedule.get_loops(init)[-1])
        return [init, copy]


def _vectors(schedule: Any, loop: Any, lanes: int) -> tuple[Any, Any]:
    width = vector_width(extent_of(schedule, loop), lanes)
    outer, inner = schedule.split(loop, [None, width])
    return outer, inner


def _unrolled(schedule: Any, block: Any, depth: int, lanes: int) -> None:
    *rest, last = schedule.get_loops(block)[depth:]
    if extent_of(schedule, last) > 1:
        schedule.vectorize(last)
    for loop in rest:
        schedule.unroll(loop)


def _plan(schedule: Any, block: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in annotation(schedule, block, WINOGRAD_KEY))
