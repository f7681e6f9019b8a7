"""All cuts between two devices at once: exact for every objective where cuts can be listed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tvm_iovt.partition.contention import shared_memories
from tvm_iovt.partition.cut_points import Bools, Floats, crossing_bytes
from tvm_iovt.partition.evaluate import ENERGY, LATENCY, THROUGHPUT, Evaluation, Evaluator
from tvm_iovt.partition.ideals import ideals, membership
from tvm_iovt.partition.placement import Placement
from tvm_iovt.partition.problem import BUFFERS, Problem

_CELLS = 4_000_000  # sets times units: 32 MB for a matrix of them
_ROUNDING = 1e-9

Orders = tuple[tuple[int, int], ...]


def orders_of_two(order: Sequence[int] | None) -> Orders:
    """The pairs of first and second device that an order allows; None allows both."""
    return ((0, 1), (1, 0)) if order is None else ((order[0], order[1]),)


def split(problem: Problem, ahead: frozenset[int], first: int, second: int) -> Placement:
    """Some units on a first device and the others on a second."""
    units = range(len(problem.graph.units))
    return Placement(
        stages=(
            (first, tuple(unit for unit in units if unit in ahead)),
            (second, tuple(unit for unit in units if unit not in ahead)),
        )
    )


def best_pair(
    evaluator: Evaluator,
    objective: str,
    order: Sequence[int] | None = None,
    *,
    within: float = 0.0,
    limit: int = 0,
) -> Evaluation | None:
    """The cut between the two devices of a problem that is best for an objective, then latency.

    Args:
        evaluator: Of the problem.
        objective: One of `evaluate.OBJECTIVES`.
        order: Which device runs first; None for either.
        within: A value of the objective that is as good as the best.
        limit: Closed sets of units to try; 0 for as many as memory is reasonable for.

    Returns:
        None if no cut leaves each device something that it can run and hold.

    Raises:
        TooManyIdealsError: There are more closed sets than the limit.
    """
    problem = evaluator.problem
    units = len(problem.graph.units)
    sets = ideals(problem, limit or max(1000, _CELLS // units))
    member = membership(sets, units)[1:-1]
    found = []
    for first, second in orders_of_two(order) if len(member) else ():
        values, latencies = _values(evaluator, objective, first, second, member)
        least = values.min()
        if least < math.inf:
            # Sums differ in their last digits from those of an evaluation.
            ties = np.flatnonzero(values <= max(least * (1 + _ROUNDING), within))
            row = ties[np.argmin(latencies[ties])]
            ahead = frozenset(np.flatnonzero(member[row]).tolist())
            found.append(evaluator.evaluate(split(problem, ahead, first, second)))
    return min(
        (one for one in found if not one.obstacle),
        key=lambda one: (max(one.value(objective), within), one.value(LATENCY)),
        default=None,
    )


def _values(
    evaluator: Evaluator, objective: str, first: int, second: int, member: Bools
) -> tuple[Floats, Floats]:
    """An objective and the latency of every cut, less the transfers from and to home."""
    problem = evaluator.problem
    crossing = crossing_bytes(problem, member)
    inputs = evaluator.crossing_bytes(0)
    outputs = evaluator.crossing_bytes((1 << member.shape[1]) - 1)
    ahead_s, ahead_bytes = _side(problem, first, member, inputs + crossing)
    behind_s, behind_bytes = _side(problem, second, ~member, crossing + outputs)
    route = problem.routes[first][second]
    sizes, back = np.unique(crossing, return_inverse=True)
    times = [(route.latency_s(int(size)), route.period_s(int(size))) for size in sizes]
    moving = np.array(times)[back]
    latencies: Floats = ahead_s + behind_s + moving[:, 0]
    if objective == LATENCY:
        return latencies, latencies
    if objective == THROUGHPUT:
        # Where a transfer that all cuts share is the longest, latency decides.
        shared_s = max(
            problem.routes[problem.home][first].period_s(inputs),
            problem.routes[second][problem.home].period_s(outputs),
        )
        slowest = np.maximum(np.maximum(ahead_s, behind_s), np.maximum(moving[:, 1], shared_s))
        memory_s = _memory_s(problem, ((first, member, ahead_s), (second, ~member, behind_s)))
        return np.maximum(slowest, memory_s), latencies
    if objective == ENERGY:
        watts = problem.devices[first].active_w, problem.devices[second].active_w
        joules: Floats = ahead_s * watts[0] + behind_s * watts[1]
        return joules, latencies
    largest = np.maximum(ahead_bytes, behind_bytes)
    return np.where(latencies < np.inf, largest, np.inf), latencies


def _memory_s(problem: Problem, sides: Sequence[tuple[int, Bools, Floats]]) -> Floats:
    """Seconds that a memory which both devices share is busy; zeros if they share none."""
    busy_s = np.zeros(len(sides[0][1]))
    memories = shared_memories(problem)
    for device, side, compute_s in sides if memories.groups else ():
        traffic = memories.traffic[device]
        share = side.astype(np.float64)
        weights = np.maximum(share @ np.array(traffic.weights) - traffic.cache_bytes, 0.0)
        nbytes = weights + share @ np.array(traffic.activations)
        busy_s += np.minimum(nbytes / traffic.bytes_per_s, compute_s)
    return busy_s


def _side(
    problem: Problem, device: int, side: Bools, around_bytes: Floats
) -> tuple[Floats, Floats]:
    """Seconds and bytes of each side on a device; infinite seconds where it cannot run or fit."""
    limits = problem.devices[device]
    share = side.astype(np.float64)
    row = np.array(problem.unit_s[device])
    able = np.isfinite(row)
    seconds: Floats = share @ np.where(able, row, 0.0) + limits.stage_s
    seconds[(side & ~able).any(axis=1)] = np.inf
    weights = np.array([float(unit.bytes_weights) for unit in problem.graph.units])
    working = np.array([float(unit.bytes_in + unit.bytes_out) for unit in problem.graph.units])
    needed: Floats = share @ weights + (share * working).max(axis=1) + BUFFERS * around_bytes
    if limits.memory_bytes:
        seconds[needed > limits.memory_bytes] = np.inf
    return seconds, needed
