"""Stages of highest frame rate where several of them wait for one memory.

What keeps a memory busy adds up over stages, while of everything else the slowest part counts, so
one pass of dynamic programming is not enough. Where no stage or transfer may take more than `T`,
the least sum `S(T)` is one pass. The best period is the least of `max(T, S(T))`; `S` falls as `T`
rises, so a bisection finds it: exact for one memory. For several at once the sum is a weighted mean
of them, which never exceeds the longest; what that leaves open takes branch and bound, as does the
least latency under such a bound. Where that would take too long there is a gap that is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tvm_iovt.partition.cut_points import Costs, CutPoints, Floats, bounded, costs
from tvm_iovt.partition.evaluate import LATENCY, THROUGHPUT
from tvm_iovt.partition.path_walk import PathWalk, Rules
from tvm_iovt.partition.stage_search import Path, cost_of, search

_EXACT = 1e-9  # relative; sums of the same times in another order differ by less
_WORK = 6e8  # pairs of points, times states, that all passes may look at: about half a second
_PASSES = 60
_FEW_PASSES = 3
_BALANCES = 8  # weights of several memories that are tried at one limit
_MIXES = 12  # weights of memories against latency


@dataclass(frozen=True, slots=True, kw_only=True)
class Relieved:
    """What was found.

    Attributes:
        paths: The best one for each number of stages.
        gap: The most by which the shortest period is too long, relative to the best one.
    """

    paths: dict[int, Path]
    gap: float


def groups_of(points: CutPoints, order: Sequence[int] | None) -> tuple[tuple[int, ...], ...]:
    """The devices that share a memory, of those that may run; two at least in each group."""
    allowed = range(len(points.problem.devices)) if order is None else order
    groups = (tuple(d for d in group if d in allowed) for group in points.memories.groups)
    return tuple(group for group in groups if len(group) > 1)


def relieve(points: CutPoints, order: Sequence[int] | None, paths: dict[int, Path]) -> Relieved:
    """The paths of least period, shared memories included.

    Args:
        points: Where the network can be cut.
        order: Devices in the order in which they may run; None for any order.
        paths: Those of least period without regard to shared memories.
    """
    return _Relief(points, order, paths).run()


def fastest_within(
    points: CutPoints, order: Sequence[int] | None, stages: int, bound_s: float
) -> Path | None:
    """The path of least latency with a number of stages and a period that keeps to a bound.

    Returns:
        The best one, or the best that was found in reasonable time; None if none was.
    """
    mixes = min(_MIXES, _affordable(points, order))
    if mixes <= _FEW_PASSES:
        return None
    rates = costs(points, THROUGHPUT)
    goal = bounded(costs(points, LATENCY), rates, bound_s)
    return PathWalk(goal, _rules(points, order), order, stages).best_within(bound_s, mixes)


def _rules(points: CutPoints, order: Sequence[int] | None) -> Rules:
    return Rules(groups=groups_of(points, order), loads=points.memory_s)


def _affordable(points: CutPoints, order: Sequence[int] | None) -> int:
    """How many passes of a search there is time for."""
    devices = len(points.problem.devices)
    states = devices << devices - 1 if order is None else len(order) ** 2
    return int(_WORK / (states * len(points.crossing) ** 2))


class _Relief:
    def __init__(
        self, points: CutPoints, order: Sequence[int] | None, paths: dict[int, Path]
    ) -> None:
        self._order = order
        self._rates = costs(points, THROUGHPUT)
        self._rules = _rules(points, order)
        self._best = {k: (self._period_s(path), path) for k, path in paths.items()}
        self._least = {k: path.cost for k, path in paths.items()}
        self._given_up: set[int] = set()
        self._passes = min(_PASSES, max(_FEW_PASSES, _affordable(points, order)))
        self._weights = np.full(len(self._rules.groups), 1 / len(self._rules.groups))

    def run(self) -> Relieved:
        limit_s, tries, last = math.inf, 0, 0
        while (count := self._next()) and self._passes > 0:
            tries = tries + 1 if count == last else 0
            if last and not tries:
                limit_s = (self._best[count][0] + self._least[count]) / 2
            self._pass(limit_s, count)
            if self._least[count] < limit_s < self._best[count][0] and len(self._weights) > 1:
                # The mean of the memories keeps to the limit, but not each of them.
                last = count
                if tries < _BALANCES:
                    continue
                self._walk(count)
            last = -1
        best_s = min((period_s for period_s, _ in self._best.values()), default=0.0)
        least_s = min(self._least.values(), default=0.0)
        return Relieved(
            paths={k: path for k, (_, path) in self._best.items()},
            gap=best_s / least_s - 1 if best_s > least_s * (1 + _EXACT) else 0.0,
        )

    def _next(self) -> int:
        """The number of stages that the best may have, of those that are open; 0 if none is."""
        wide = [
            k
            for k, (period_s, _) in self._best.items()
            if period_s - self._least[k] > _EXACT * period_s and k not in self._given_up
        ]
        return min(wide, key=lambda k: self._least[k], default=0)

    def _pass(self, limit_s: float, count: int) -> None:
        """The least that the memories are busy where nothing else takes longer than a limit."""
        self._passes -= 1
        further_s = _next_above(self._rates, limit_s)
        limited = bounded(self._rates, self._rates, limit_s)
        mean = self._rules.weighted(limited, 0.0, self._weights)
        found = search(mean, self._order, most=max(self._best))
        for k, (period_s, _) in self._best.items():
            # What keeps to the limit takes this much; the rest takes longer than the limit.
            busy_s = found[k].cost if k in found else math.inf
            if k in found and (taken_s := self._period_s(found[k])) < period_s:
                self._best[k] = taken_s, found[k]
            least_s = max(self._least[k], min(busy_s, further_s))
            self._least[k] = min(least_s, self._best[k][0])  # sums differ in their last digits
        if count in found and len(self._weights) > 1:
            busy = np.array(self._rules.busy_s(found[count]))
            self._weights *= np.sqrt(0.01 + busy / max(busy.max(), 1e-300))
            self._weights /= self._weights.sum()

    def _period_s(self, path: Path) -> float:
        return max(cost_of(self._rates, path), self._rules.memory_s(path))

    def _walk(self, count: int) -> None:
        """Try what could be better, with all memories at once."""
        period_s = self._best[count][0]
        rates = bounded(self._rates, self._rates, period_s)
        walk = PathWalk(rates, self._rules, self._order, count)
        found = walk.best_below(period_s)
        if found is not None:
            self._best[count] = self._period_s(found), found
        if walk.complete:
            self._least[count] = self._best[count][0]
        else:
            self._given_up.add(count)


def _next_above(rates: Costs, limit_s: float) -> float:
    """The next longer time that a stage or a transfer can take."""
    tables: tuple[Floats, ...] = (*rates.segments, rates.transfers)
    return min(float(table[table > limit_s].min(initial=math.inf)) for table in tables)
