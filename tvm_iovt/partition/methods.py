"""The best placement for each number of stages, by the method that suits the graph.

All closed sets of units where there are few; a minimum cut between two devices; elsewhere, cuts
along the order of the units, and then the result says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_iovt.partition.bottleneck import cut_for_rate
from tvm_iovt.partition.chain import chain_points
from tvm_iovt.partition.cut_points import CutPoints, bounded, costs
from tvm_iovt.partition.evaluate import LATENCY, THROUGHPUT, Evaluation, Evaluator
from tvm_iovt.partition.ideals import MAX_IDEALS, TooManyIdealsError, ideal_points
from tvm_iovt.partition.min_cut import cut_for_latency
from tvm_iovt.partition.placement import Placement
from tvm_iovt.partition.stage_search import Path, search

_WORK = 1.8e9  # pairs of points, times states of the search: about two seconds
ROUNDING = 1e-9
"""Relative difference of sums of the same times in another order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a method found.

    Attributes:
        by_count: The best placement for each number of stages that there is one for.
        points: Where the network could be cut.
        note: What was not tried, for the user; empty if the placements are the best there are.
    """

    by_count: dict[int, Evaluation]
    points: CutPoints
    note: str


def best_by_count(
    evaluator: Evaluator, objective: str, order: Sequence[int] | None = None
) -> Found:
    """The best placements for an objective, one for each number of stages.

    Args:
        evaluator: Of the problem.
        objective: One of `evaluate.OBJECTIVES`.
        order: Devices in the order in which they may run, each of them or not; None for any order.

    Raises:
        UsageError: There are too many devices to leave their order open.
    """
    problem = evaluator.problem
    note = ""
    if all(mask >> unit - 1 & 1 for unit, mask in enumerate(evaluator.before) if unit):
        points = chain_points(problem)
    else:
        try:
            points = ideal_points(problem, _ideals_limit(len(problem.devices), order))
        except TooManyIdealsError as refusal:
            points = chain_points(problem)
            note = f"only cuts along the order of the units were tried ({refusal.seen})"
    paths = search(costs(points, objective), order)
    by_count = {k: evaluator.evaluate(_placement(points, path)) for k, path in paths.items()}
    if note and len(problem.devices) == 2 and (order is None or len(order) == 2):
        note = _improve(evaluator, objective, order, by_count, note)
    return Found(by_count=by_count, points=points, note=note)


def of_less_latency(
    evaluator: Evaluator,
    objective: str,
    order: Sequence[int] | None,
    points: CutPoints,
    chosen: Evaluation,
    bound: float,
) -> Evaluation:
    """The placement of least latency with as many stages whose largest cost keeps to a bound.

    Args:
        evaluator: Of the problem.
        objective: Of those that the largest cost counts for: throughput or memory.
        order: As for `best_by_count`.
        points: Where the network can be cut.
        chosen: What is to be improved.
        bound: Of the objective.
    """
    bound *= 1 + ROUNDING
    stages = len(chosen.placement.stages)
    allowed = bounded(costs(points, LATENCY), costs(points, objective), bound)
    path = search(allowed, order, most=stages).get(stages)
    if path is None:
        return chosen
    found = evaluator.evaluate(_placement(points, path))
    faster = found.value(LATENCY) < chosen.value(LATENCY)
    return found if faster and found.value(objective) <= bound else chosen


def _ideals_limit(devices: int, order: Sequence[int] | None) -> int:
    states = devices << devices - 1 if order is None else len(order) ** 2
    return min(MAX_IDEALS, math.isqrt(int(_WORK / states)))


def _placement(points: CutPoints, path: Path) -> Placement:
    return Placement(
        stages=tuple((d, points.units_between(start, end)) for d, start, end in path.stages)
    )


def _improve(
    evaluator: Evaluator,
    objective: str,
    order: Sequence[int] | None,
    by_count: dict[int, Evaluation],
    note: str,
) -> str:
    """Take a cut of the two devices on the whole graph if it is better; what is left untried."""
    problem = evaluator.problem
    if objective == LATENCY:
        placement = cut_for_latency(problem, order)
        if placement is None:
            return ""
        cut = evaluator.evaluate(placement)
        left = note if cut.obstacle else ""  # there may be a better one that fits the memory
    elif objective == THROUGHPUT:
        found = cut_for_rate(problem, order)
        if found.evaluation is None:
            return note
        cut = found.evaluation
        left = f"its period is at most {found.gap:.1%} from the best" if found.gap > 1e-6 else ""
    else:
        return note
    if not cut.obstacle and (
        2 not in by_count or cut.value(objective) < by_count[2].value(objective)
    ):
        by_count[2] = cut
    return left
