"""Placements that a plan is compared with: what one would do without a planner."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

from tvm_iovt.partition.evaluate import Evaluation, Evaluator
from tvm_iovt.partition.explain import placement_name, why_not
from tvm_iovt.partition.placement import Placement
from tvm_iovt.partition.problem import BUFFERS, Problem
from tvm_iovt.types import Alternative


def singles(problem: Problem, devices: Iterable[int]) -> list[Placement]:
    """The whole network on each device."""
    return [Placement.whole(device, len(problem.graph.units)) for device in devices]


def equal_flops(problem: Problem, devices: Sequence[int]) -> Placement | None:
    """An equal share of the FLOPs for every device, in their order; None without enough units."""
    totals = list(itertools.accumulate(unit.flops for unit in problem.graph.units))
    count = len(devices)
    if len(totals) < count or count < 2 or not totals[-1]:
        return None
    cuts: list[int] = []
    for share in range(1, count):
        wanted = totals[-1] * share / count
        nearest = min(range(len(totals)), key=lambda unit: abs(totals[unit] - wanted)) + 1
        least = cuts[-1] + 1 if cuts else 1
        cuts.append(min(max(nearest, least), len(totals) - count + share))
    return Placement.of_cuts(devices, cuts, len(totals))


def greedy(problem: Problem, devices: Sequence[int]) -> Placement | None:
    """Each device in turn takes as many units as it can run and hold, as priority lists do.

    Returns:
        None if units are left over.
    """
    graph = problem.graph
    total = len(graph.units)
    stages = []
    start = 0
    for device in devices:
        limit = problem.devices[device].memory_bytes or math.inf
        weights = peak = 0
        end = start
        for unit in graph.units[start:]:
            if math.isinf(problem.unit_s[device][unit.index]):
                break
            weights += unit.bytes_weights
            peak = max(peak, unit.bytes_in + unit.bytes_out)
            crossing = graph.crossing_bytes[start] + graph.crossing_bytes[unit.index + 1]
            if weights + peak + BUFFERS * crossing <= limit:
                end = unit.index + 1
        if end > start:
            stages.append((device, tuple(range(start, end))))
            start = end
    return Placement(stages=tuple(stages)) if start == total and stages else None


def describe(
    evaluator: Evaluator,
    chosen: Evaluation,
    others: Iterable[tuple[str, Evaluation]],
    objective: str,
    noise: float,
) -> tuple[Alternative, ...]:
    """Each other placement once, best first, with why it was not chosen.

    Args:
        evaluator: Of the problem.
        chosen: What they are compared with.
        others: With what to add to each one's name.
        objective: What they are compared by.
        noise: Relative differences that are not taken for any.
    """
    problem = evaluator.problem
    seen = {chosen.placement}
    rows: list[tuple[float, float, Alternative]] = []
    for remark, other in others:
        if other.placement in seen:
            continue
        seen.add(other.placement)
        possible = not other.obstacle
        row = Alternative(
            name=placement_name(problem, other.placement) + remark,
            latency_s=other.prediction.latency_s if possible else math.inf,
            period_s=other.prediction.period_s if possible else math.inf,
            reason=why_not(problem, other, chosen, objective, noise),
        )
        rows.append((other.value(objective), row.latency_s, row))
    return tuple(row for *_, row in sorted(rows, key=lambda each: each[:2]))
