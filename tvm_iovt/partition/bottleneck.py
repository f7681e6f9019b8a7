"""The cut of highest frame rate for two devices, on any graph: the least bottleneck.

The heavy load of DADS (doi 10.1109/infocom.2019.8737614): of the computing on either side and the
transfer between, the longest counts, and minimising that is NP-hard. Where the closed sets of units
can be listed all of them are tried. Elsewhere minimum cuts are made for weighted sums of the three:
a weighted mean never exceeds their maximum, so every such cut is a bound on what is possible as
well as a candidate, and what is found comes with the most that it can be off by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tvm_iovt.errors import UsageError
from tvm_iovt.partition.cut_points import Floats
from tvm_iovt.partition.evaluate import THROUGHPUT, Evaluation, Evaluator
from tvm_iovt.partition.ideals import TooManyIdealsError
from tvm_iovt.partition.min_cut import CutCosts, least_cut
from tvm_iovt.partition.pairs import Orders, best_pair, orders_of_two, split
from tvm_iovt.partition.placement import Placement
from tvm_iovt.partition.problem import Problem

_ROUNDS = 40  # minimum cuts of a parametric search; a dozen are the rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Bottleneck:
    """The best cut that was found.

    Attributes:
        evaluation: None if there is no cut that both devices can run and hold.
        exact: Whether all cuts were tried.
        least_period_s: No cut has a shorter period.
    """

    evaluation: Evaluation | None
    exact: bool
    least_period_s: float

    @property
    def gap(self) -> float:
        """The most by which the period is too long, relative to the best one."""
        if self.exact or self.evaluation is None:
            return 0.0
        period_s = self.evaluation.prediction.period_s
        return period_s / self.least_period_s - 1 if self.least_period_s else math.inf


def cut_for_rate(
    problem: Problem, order: Sequence[int] | None = None, *, limit: int = 0
) -> Bottleneck:
    """The placement of least period over both devices of a problem.

    The whole network on one device is no cut: compare with it.

    Args:
        problem: Of two devices.
        order: Which of them runs first; None for either.
        limit: Closed sets of units to try one by one; 0 as for `pairs.best_pair`.

    Raises:
        UsageError: There are not two devices.
    """
    if len(problem.devices) != 2:
        raise UsageError(
            "A cut of two sides is between two devices", seen=f"{len(problem.devices)} of them"
        )
    evaluator = Evaluator(problem)
    try:
        best = best_pair(evaluator, THROUGHPUT, order, limit=limit)
    except TooManyIdealsError:
        return _parametric(problem, evaluator, orders_of_two(order))
    period_s = best.prediction.period_s if best else math.inf
    return Bottleneck(evaluation=best, exact=True, least_period_s=period_s)


def _best(evaluator: Evaluator, placements: list[Placement]) -> Evaluation | None:
    """The feasible one of least period, then of least latency."""
    found = [one for one in map(evaluator.evaluate, placements) if not one.obstacle]
    return min(found, key=lambda e: (e.prediction.period_s, e.prediction.latency_s), default=None)


def _parametric(problem: Problem, evaluator: Evaluator, orders: Orders) -> Bottleneck:
    """The best of the cuts along the topological order and of weighted minimum cuts."""
    units = len(problem.graph.units)
    least_s = math.inf
    placements = []
    for first, second in orders:
        placements += [
            Placement.of_cuts((first, second), (position,), units) for position in range(1, units)
        ]
        found, bound_s = _weighted(problem, evaluator, first, second)
        placements += found
        least_s = min(least_s, bound_s)
    best = _best(evaluator, placements)
    return Bottleneck(evaluation=best, exact=False, least_period_s=least_s)


def _weighted(
    problem: Problem, evaluator: Evaluator, first: int, second: int
) -> tuple[list[Placement], float]:
    """Minimum cuts for weighted sums of the three parts, and the highest bound among them.

    Each round takes the weights whose sum is largest for the best of the cuts so far (Kelley's
    cutting planes); the bound is the highest there is when a cut does not come below that sum.
    """
    routes = problem.routes
    byte_s = max((1 / hop.bytes_per_s for hop in routes[first][second].hops), default=0.0)
    fixed_s = [problem.devices[first].stage_s, problem.devices[second].stage_s]
    outputs = evaluator.crossing_bytes((1 << len(problem.graph.units)) - 1)
    bound_s = max(
        routes[problem.home][first].period_s(evaluator.crossing_bytes(0)),
        routes[second][problem.home].period_s(outputs),
    )
    placements: list[Placement] = []
    parts: list[list[float]] = []
    for _ in range(_ROUNDS):
        weights, expected_s = _steepest(np.array(parts)) if parts else ([1 / 3] * 3, math.inf)
        costs = CutCosts(
            first_s=[s if s == math.inf else weights[0] * s for s in problem.unit_s[first]],
            second_s=[s if s == math.inf else weights[1] * s for s in problem.unit_s[second]],
            byte_s=weights[2] * byte_s,
        )
        cost_s, ahead = least_cut(problem, costs)
        if ahead is None:
            return [], math.inf
        cost_s += weights[0] * fixed_s[0] + weights[1] * fixed_s[1]
        bound_s = max(bound_s, cost_s)
        placements.append(split(problem, ahead, first, second))
        stages = evaluator.evaluate(placements[-1]).prediction.stages
        parts.append([stages[0].compute_s, stages[1].compute_s, stages[1].bytes_in * byte_s])
        if cost_s >= expected_s * (1 - 1e-4):
            break
    return placements, bound_s


def _steepest(parts: Floats) -> tuple[list[float], float]:
    """The weights, of sum one, that make the least weighted sum of some cuts' parts largest."""
    steps = np.linspace(-1.0, 1.0, 33)
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    centre, width = np.array([0.5, 0.5]), 0.5
    value = -math.inf
    for _ in range(24):  # the sum is concave in the weights: halve the area around the best ones
        pairs = np.clip(centre + width * grid, 0.0, 1.0)
        pairs = pairs[pairs.sum(axis=1) <= 1]
        weights = np.column_stack([pairs, 1 - pairs.sum(axis=1)])
        sums = (weights @ parts.T).min(axis=1)
        best = int(np.argmax(sums))
        centre, value = pairs[best], float(sums[best])
        width /= 2
    first, second = centre.tolist()
    return [first, second, 1 - first - second], value
