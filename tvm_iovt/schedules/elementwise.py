"""Functions without a reduction: everything is inlined into the results."""

from __future__ import annotations

from typing import Any

from tvm_iovt.schedules.loops import elementwise_loops, is_crossed
from tvm_iovt.schedules.template import (
    Match,
    Refusal,
    blocks,
    inline_all_but,
    is_reduction,
    name_of,
    spatial_extents,
    volume,
)
from tvm_iovt.types import CpuSpec


class Elementwise:
    """Element-wise chains, layout changes, resizing, padding, concatenation."""

    name = "elementwise"

    def match(self, schedule: Any) -> Match | Refusal:
        """Matches functions whose blocks all have spatial axes only."""
        found = blocks(schedule)
        reductions = [name_of(schedule, b) for b in found if is_reduction(schedule, b)]
        if reductions:
            return Refusal(f"reduces in {', '.join(reductions)}")
        if not found:
            return Refusal("no blocks")
        return Match(name_of(schedule, found[-1]), f"{len(found)} blocks")

    def apply(self, schedule: Any, match: Match, cpu: CpuSpec) -> None:
        """Inline, then vector inside and parallel outside."""
        outputs = list(schedule.get_output_blocks(schedule.get_sblock("root")))
        costly = [b for b in blocks(schedule) if is_crossed(schedule, b)]
        inline_all_but(schedule, [*outputs, *costly])
        for block in blocks(schedule):
            elementwise_loops(schedule, block, cpu, volume(spatial_extents(schedule, block)))


class ParallelOnly:
    """The last resort: the outermost data-parallel loops of every block run in parallel."""

    name = "parallel_only"

    def match(self, schedule: Any) -> Match | Refusal:
        """Matches everything that has blocks."""
        found = blocks(schedule)
        if not found:
            return Refusal("no blocks")
        return Match(name_of(schedule, found[0]), f"{len(found)} blocks")

    def apply(self, schedule: Any, match: Match, cpu: CpuSpec) -> None:
        """Parallelise what the dependency analysis allows."""
        for block in blocks(schedule):
            loops = schedule.get_loops(block)
            if loops and volume(spatial_extents(schedule, block)) > 1:
                spatial = [
                    loop
                    for loop, var in zip(loops, schedule.get(block).iter_vars, strict=False)
                    if int(var.iter_type) == 0
                ]
                if spatial and schedule.get(loops[0]).loop_var.same_as(
                    schedule.get(spatial[0]).loop_var
                ):
                    schedule.parallel(loops[0])
