"""The best placement for each number of stages, by the method that suits the graph.

All closed sets of units where there are few. Where there are more, two devices still get the best
of all single cuts, or a minimum cut; for others some sets are chosen, or only cuts along the order
of the units are tried, and the result says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_iovt.partition.bottleneck import cut_for_rate
from tvm_iovt.partition.chain import chain_points
from tvm_iovt.partition.cut_points import CutPoints, bounded, costs
from tvm_iovt.partition.evaluate import LATENCY, THROUGHPUT, Evaluation, Evaluator
from tvm_iovt.partition.ideals import MAX_IDEALS, TooManyIdealsError, ideal_points, narrow_points
from tvm_iovt.partition.memory_search import fastest_within, groups_of, relieve
from tvm_iovt.partition.min_cut import cut_for_latency
from tvm_iovt.partition.pairs import best_pair
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
        pairs: Whether cuts between the two devices were tried at more places than those.
        note: What was not tried, for the user; empty if the placements are the best there are.
    """

    by_count: dict[int, Evaluation]
    points: CutPoints
    pairs: bool
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
    points, note = _points(evaluator, order)
    paths = search(costs(points, objective), order)
    if objective == THROUGHPUT and groups_of(points, order):
        relieved = relieve(points, order, paths)
        paths, note = relieved.paths, _joined(note, relieved.gap)
    by_count = {k: evaluator.evaluate(_placement(points, path)) for k, path in paths.items()}
    pairs = False
    if note and len(problem.devices) == 2 and (order is None or len(order) == 2):
        try:
            _take(by_count, objective, best_pair(evaluator, objective, order))
            note, pairs = "", True
        except TooManyIdealsError:
            note = _improve(evaluator, objective, order, by_count, note)
    return Found(by_count=by_count, points=points, pairs=pairs, note=note)


def of_less_latency(
    evaluator: Evaluator,
    objective: str,
    order: Sequence[int] | None,
    where: Found,
    chosen: Evaluation,
    bound: float,
) -> Evaluation:
    """The placement of least latency with as many stages whose largest cost keeps to a bound.

    Args:
        evaluator: Of the problem.
        objective: Of those that the largest cost counts for: throughput or memory.
        order: As for `best_by_count`.
        where: What was found for it.
        chosen: What is to be improved.
        bound: Of the objective.
    """
    bound *= 1 + ROUNDING
    stages = len(chosen.placement.stages)
    found: Evaluation | None = None
    if where.pairs and stages == 2:
        found = best_pair(evaluator, objective, order, within=bound)
    else:
        points = where.points
        allowed = bounded(costs(points, LATENCY), costs(points, objective), bound)
        path = search(allowed, order, most=stages).get(stages)
        found = evaluator.evaluate(_placement(points, path)) if path else None
        if found and objective == THROUGHPUT and found.value(objective) > bound:
            # What keeps a memory busy adds up: it is no bound of each stage.
            path = fastest_within(points, order, stages, bound)
            found = evaluator.evaluate(_placement(points, path)) if path else None
    if found is None:
        return chosen
    faster = found.value(LATENCY) < chosen.value(LATENCY)
    return found if faster and found.value(objective) <= bound else chosen


def _points(evaluator: Evaluator, order: Sequence[int] | None) -> tuple[CutPoints, str]:
    """Where the network can be cut, and what was left out of that."""
    problem = evaluator.problem
    if all(mask >> unit - 1 & 1 for unit, mask in enumerate(evaluator.before) if unit):
        return chain_points(problem), ""
    limit = _ideals_limit(len(problem.devices), order)
    try:
        return ideal_points(problem, limit), ""
    except TooManyIdealsError:
        pass
    try:
        points, count = narrow_points(problem, limit)
    except TooManyIdealsError as refusal:
        return chain_points(problem), (
            f"only cuts along the order of the units were tried ({refusal.seen})"
        )
    tried = len(points.member)
    return points, f"of {count} places for a cut, the {tried} that the least crosses were tried"


def _joined(note: str, gap: float) -> str:
    """What was not tried, and how far off the period is for it."""
    if gap <= 1e-6:
        return note
    off = f"its period is at most {max(gap, 1e-4):.2%} from the best, as stages share a memory"
    return f"{note}; of those, {off}" if note else off


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
    _take(by_count, objective, cut)
    return left


def _take(by_count: dict[int, Evaluation], objective: str, cut: Evaluation | None) -> None:
    """Keep a placement of two stages if it is the best of them."""
    if cut is not None and not cut.obstacle:
        best = by_count.setdefault(2, cut)
        by_count[2] = cut if cut.value(objective) < best.value(objective) else best
