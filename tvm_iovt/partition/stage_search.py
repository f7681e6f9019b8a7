"""The best stages between cut points: dynamic programming over points and devices.

For every set of devices that have run and every one that ran last, the least cost of having reached
each point; one more stage extends it. While the devices' order is open those sets are bit masks;
with a given order only the number of stages matters. Exact for every cost that adds up over stages
and transfers, or is the largest of theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_iovt.errors import UsageError
from tvm_iovt.partition.cut_points import Costs, Floats

MAX_FREE_DEVICES = 10
"""Devices whose order can be left open; every one more doubles the time."""
_BLOCK = 64  # rows that are extended together: a level-2 cache holds them


@dataclass(frozen=True, slots=True)
class State:
    """`stages` devices have run, `device` last; before it one of `earlier`, which left `before`."""

    stages: int
    key: int
    device: int
    before: int
    earlier: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """Stages between points.

    Attributes:
        cost: Of all of them.
        stages: Of each, its device and the points where it starts and ends.
    """

    cost: float
    stages: tuple[tuple[int, int, int], ...]


def cost_of(costs: Costs, path: Path) -> float:
    """What a path costs, by other costs than those it was found with, say."""
    parts = []
    place = len(costs.segments)
    for device, start, end in path.stages:
        parts += [costs.transfers[place, device, start], costs.segments[device][end, start]]
        place = device
    parts.append(costs.transfers[place, -1, -1])
    return float(max(parts) if costs.worst else sum(parts))


def search(costs: Costs, order: Sequence[int] | None = None, *, most: int = 0) -> dict[int, Path]:
    """The best path for each number of stages that there is one for.

    Args:
        costs: What stages and transfers cost.
        order: Devices in the order in which they may run, each of them or not; None for any order.
        most: Stages to consider; 0 for as many as there are devices.

    Raises:
        UsageError: There are too many devices to leave their order open.
    """
    return Search(costs, order, most).run()


class Search:
    """The search with its table: what it takes at least to have reached a point in a state.

    Args:
        costs: As for `search`.
        order: As for `search`.
        most: As for `search`.
    """

    def __init__(self, costs: Costs, order: Sequence[int] | None, most: int) -> None:
        devices = len(costs.segments)
        if order is None and devices > MAX_FREE_DEVICES:
            raise UsageError(
                "There are too many devices to leave their order open",
                seen=f"{devices} devices; up to {MAX_FREE_DEVICES} can be",
                do="state the order in which they run",
            )
        self._segments = costs.segments
        self._transfers = costs.transfers
        self._home = devices
        self._join: Any = np.maximum if costs.worst else np.add
        states = _free(devices) if order is None else _ordered(order)
        self.states = [state for state in states if state.stages <= (most or devices)]
        self.by_key = {(state.key, state.device): state for state in self.states}
        self._last = costs.segments[0].shape[0] - 1
        self._blocks = [_blocks(segment) for segment in costs.segments]
        keys = max(state.key for state in self.states) + 1
        self.reached = np.full((keys, devices, self._last + 1), np.inf)

    def run(self) -> dict[int, Path]:
        """The best path for each number of stages; fills `reached`."""
        best: dict[int, tuple[float, State]] = {}
        sums = np.empty(_BLOCK * (self._last + 1))
        for state in self.states:
            segment = self._segments[state.device]
            reached = self.reached[state.key, state.device]
            if not state.earlier:
                sent = self._transfers[self._home, state.device, 0]
                self._join(segment[:, 0], sent, out=reached)
            else:
                arrived = self._arrived(state)
                # No stage starts before the first point that can be reached.
                first = int(np.argmax(arrived < np.inf))
                for top, bottom, left, right in self._blocks[state.device]:
                    begin = max(left, first)
                    if begin >= right:
                        continue
                    some = sums[: (bottom - top) * (right - begin)].reshape(bottom - top, -1)
                    self._join(segment[top:bottom, begin:right], arrived[begin:right], out=some)
                    np.minimum.reduce(some, axis=1, out=reached[top:bottom])
            sent = self._transfers[state.device, self._home, self._last]
            cost = float(self._join(reached[self._last], sent))
            if cost < best.get(state.stages, (np.inf,))[0]:
                best[state.stages] = cost, state
        return {count: self._path(cost, state) for count, (cost, state) in sorted(best.items())}

    def _arrived(self, state: State) -> Floats:
        """The least cost of being at each point, on the state's device, before it computes."""
        earlier = list(state.earlier)
        ways = self._join(
            self.reached[state.before, earlier], self._transfers[earlier, state.device]
        )
        least: Floats = ways.min(axis=0)
        return least

    def _path(self, cost: float, state: State) -> Path:
        stages = []
        end = self._last
        while state.earlier:
            row = self._segments[state.device][end]
            start = int(np.argmin(self._join(row, self._arrived(state))))
            stages.append((state.device, start, end))
            earlier = list(state.earlier)
            ways = self._join(
                self.reached[state.before, earlier, start],
                self._transfers[earlier, state.device, start],
            )
            state = self.by_key[state.before, earlier[int(np.argmin(ways))]]
            end = start
        stages.append((state.device, 0, end))
        return Path(cost=cost, stages=tuple(reversed(stages)))


def _blocks(segment: Floats) -> list[tuple[int, int, int, int]]:
    """Rows of a matrix with the columns outside of which they are infinite, some rows at a time."""
    blocks = []
    for top in range(0, len(segment), _BLOCK):
        rows = segment[top : top + _BLOCK]
        columns = np.flatnonzero((rows < np.inf).any(axis=0))
        if len(columns):
            blocks.append((top, top + len(rows), int(columns[0]), int(columns[-1]) + 1))
    return blocks


def _free(devices: int) -> Iterator[State]:
    """Every set of devices with each of its members as the last one, smaller sets first."""
    masks = sorted(range(1, 1 << devices), key=lambda mask: bin(mask).count("1"))
    for mask in masks:
        members = [device for device in range(devices) if mask >> device & 1]
        for device in members:
            earlier = tuple(other for other in members if other != device)
            yield State(len(members), mask, device, mask ^ 1 << device, earlier)


def _ordered(order: Sequence[int]) -> Iterator[State]:
    """Every number of stages with each device that can be the last of so many."""
    for stages in range(1, len(order) + 1):
        for place in range(stages - 1, len(order)):
            earlier = tuple(order[:place]) if stages > 1 else ()
            yield State(stages, stages, order[place], stages - 1, earlier)
