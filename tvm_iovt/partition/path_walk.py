"""The best path where what keeps shared memories busy adds up: branch and bound.

From the last stage to the first. For every state and point the tables of `stage_search` hold the
least that the stages before it can add, to what is minimised and to each memory, so most of what
cannot be the best is left out at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_iovt.partition.cut_points import Bools, Costs, Floats
from tvm_iovt.partition.stage_search import Path, Search, State, cost_of, search

_NODES = 3000  # stages that are looked at; each has a row of points for every device
_BETTER = 1 - 1e-9
_ROUNDING = 1 + 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Memories, and what keeps them busy.

    Attributes:
        groups: Devices that share a memory.
        loads: Of each of them, `[to, from]`: seconds that the stage keeps the memory busy.
    """

    groups: tuple[tuple[int, ...], ...]
    loads: dict[int, Floats]

    def busy_s(self, path: Path) -> list[float]:
        """Seconds of each memory."""
        return [
            sum(float(self.loads[d][end, start]) for d, start, end in path.stages if d in group)
            for group in self.groups
        ]

    def memory_s(self, path: Path) -> float:
        """Of the memory that is busy longest."""
        return max(self.busy_s(path), default=0.0)

    def weighted(self, goal: Costs, share: float, weights: Sequence[float] | Floats) -> Costs:
        """A share of some costs and, with a weight for each, what the memories are busy."""
        factor = {
            device: weight
            for group, weight in zip(self.groups, weights, strict=True)
            for device in group
        }

        def mixed(table: Floats, busy_s: Floats | float) -> Floats:
            able = np.isfinite(table)
            total: Floats = np.where(able, share * np.where(able, table, 0.0) + busy_s, np.inf)
            return total

        return Costs(
            segments=tuple(
                mixed(table, factor[d] * self.loads[d] if d in factor else 0.0)
                for d, table in enumerate(goal.segments)
            ),
            transfers=mixed(goal.transfers, 0.0),
            worst=False,
        )


class PathWalk:
    """The walk over paths with a number of stages.

    Args:
        goal: What is minimised.
        rules: The memories.
        order: As for `stage_search.search`.
        stages: How many.

    Attributes:
        complete: Whether nothing was left untried, once one of the methods has run.
    """

    def __init__(self, goal: Costs, rules: Rules, order: Sequence[int] | None, stages: int) -> None:
        self.complete = True
        self._goal, self._rules, self._order, self._stages = goal, rules, order, stages
        self._join: Any = np.maximum if goal.worst else np.add
        self._bound_s = self._best = math.inf
        self._path: Path | None = None
        self._weight = 0.0
        self._mixed: Search | None = None
        self._nodes = _NODES

    def best_below(self, period_s: float) -> Path | None:
        """The path of least period, where the largest part counts and memories count as parts.

        None if there is none below a period.
        """
        self._best = period_s
        return self._run()

    def best_within(self, bound_s: float, mixes: int) -> Path | None:
        """The path of least sum that keeps no memory busy for longer than a bound; None if none.

        Args:
            bound_s: Of each memory.
            mixes: Weights of the memories against the goal that are tried. Each gives a bound on
                both together, and a path that may be the best one.
        """
        self._bound_s = bound_s * _ROUNDING
        least = self._mix(mixes)
        return self._path if self._best <= least * _ROUNDING else self._run()

    def _mix(self, mixes: int) -> float:
        """The highest of the bounds, whose weight is kept for the walk."""
        limit_s = self._bound_s * len(self._rules.groups)
        low, high, weight, least = 0.0, math.inf, 1.0, -math.inf
        for _ in range(mixes):
            weights = [weight] * len(self._rules.groups)
            costs = self._rules.weighted(self._goal, 1.0, weights)
            found = search(costs, self._order, most=self._stages).get(self._stages)
            if found is None:
                return -math.inf
            if self._rules.memory_s(found) <= self._bound_s:
                self._keep(found)
            if found.cost - weight * limit_s > least:
                least, self._weight = found.cost - weight * limit_s, weight
            if self._best <= least * _ROUNDING:
                break
            if sum(self._rules.busy_s(found)) > limit_s:
                low = weight
            else:
                high = weight
            weight = weight * 4 if high == math.inf else (low + high) / 2
        return least

    def _run(self) -> Path | None:
        rules, last = self._rules, self._goal.segments[0].shape[0] - 1
        count = len(rules.groups)
        self._search = self._tables(self._goal)
        self._busy = [
            self._tables(rules.weighted(self._goal, 0.0, [float(i == j) for j in range(count)]))
            for i in range(count)
        ]
        if self._weight:
            costs = rules.weighted(self._goal, 1.0, [self._weight] * count)
            self._mixed = self._tables(costs)
        for state in self._search.states:
            if state.stages == self._stages:
                sent = float(self._goal.transfers[state.device, -1, last])
                self._visit(state, last, sent, [0.0] * count, ())
        return self._path

    def _tables(self, costs: Costs) -> Search:
        made = Search(costs, self._order, self._stages)
        made.run()
        return made

    def _keep(self, path: Path) -> None:
        value = cost_of(self._goal, path)
        if self._goal.worst:
            value = max(value, self._rules.memory_s(path))
        if value < self._best:
            self._best, self._path = value, Path(cost=value, stages=path.stages)

    def _limit_s(self) -> float:
        """What each memory may take: less than the best, where it counts as a part."""
        return min(self._bound_s, self._best if self._goal.worst else math.inf)

    def _visit(
        self,
        state: State,
        end: int,
        total: float,
        busy_s: list[float],
        behind: tuple[tuple[int, int, int], ...],
    ) -> None:
        """Try all ways to a point, in a state, before the stages behind it."""
        if not self._nodes:
            self.complete = False
            return
        self._nodes -= 1
        device, goal = state.device, self._goal
        segment = self._join(goal.segments[device][end], total)
        loads = [
            own_s + (self._rules.loads[device][end] if device in group else np.zeros(len(segment)))
            for own_s, group in zip(busy_s, self._rules.groups, strict=True)
        ]
        if not state.earlier:
            cost = float(self._join(segment[0], goal.transfers[-1, device, 0]))
            if cost < self._best and all(load[0] <= self._limit_s() for load in loads):
                self._keep(Path(cost=cost, stages=((device, 0, end), *behind)))
            return
        earlier = list(state.earlier)
        moved = goal.transfers[earlier, device]
        ahead = self._join(self._search.reached[state.before, earlier], moved)
        least = self._join(ahead, segment)
        for row, start in self._promising(least, state, loads, segment + moved):
            if least[row, start] < self._best * _BETTER:
                self._visit(
                    self._search.by_key[state.before, earlier[row]],
                    start,
                    float(self._join(segment[start], moved[row, start])),
                    [float(load[start]) for load in loads],
                    ((device, start, end), *behind),
                )

    def _promising(
        self, least: Floats, state: State, loads: Sequence[Floats], sums: Floats
    ) -> list[tuple[int, int]]:
        """The device before and the point, of what may be better than the best, best first."""
        earlier = list(state.earlier)
        possible: Bools = least < self._best * _BETTER
        for load, table in zip(loads, self._busy, strict=True):
            possible &= table.reached[state.before, earlier] + load <= self._limit_s()
        if self._mixed is not None:
            both = self._mixed.reached[state.before, earlier] + sums + self._weight * sum(loads)
            limit = self._bound_s * len(loads) * self._weight
            possible &= both <= (self._best + limit) * _ROUNDING
        rows, starts = np.nonzero(possible)
        ranked = np.argsort(least[rows, starts], kind="stable")
        return [(int(rows[i]), int(starts[i])) for i in ranked]
