"""Minimum s-t cuts, exact: Dinic's algorithm in whole numbers, without recursion."""

from __future__ import annotations

import math
from collections import deque

_STEPS = 1 << 60


class FlowNetwork:
    """Directed arcs with capacities, between nodes that are numbered from 0.

    Capacities are seconds, or infinite. They become whole numbers of steps of 2**-60 of their sum
    for the flow, so that it ends and no bound on rounding has to be guessed.

    Args:
        nodes: How many there are.
    """

    def __init__(self, nodes: int) -> None:
        self._arcs: list[tuple[int, int, float]] = []
        self._nodes = nodes

    def add(self, start: int, end: int, capacity: float) -> None:
        """Add an arc; none of zero capacity is kept."""
        if capacity > 0:
            self._arcs.append((start, end, capacity))

    def minimum_cut(self, source: int, sink: int) -> tuple[float, set[int]]:
        """The capacity of a minimum cut, infinite if there is no finite one, and its source side.

        The source side is the smallest one of all minimum cuts.
        """
        total = math.fsum(capacity for *_, capacity in self._arcs if capacity < math.inf)
        scale = _STEPS / total if total else 1.0
        # More than all finite capacities: a cut of that much holds an infinite arc.
        endless = 2 * _STEPS + len(self._arcs)
        adjacent: list[list[int]] = [[] for _ in range(self._nodes)]
        heads: list[int] = []
        residual: list[int] = []
        for start, end, capacity in self._arcs:
            adjacent[start].append(len(heads))
            adjacent[end].append(len(heads) + 1)
            heads += [end, start]
            residual += [endless if capacity == math.inf else round(capacity * scale), 0]
        flow = 0
        while flow < endless:
            levels = _levels(adjacent, heads, residual, source)
            if levels[sink] < 0:
                side = {node for node, level in enumerate(levels) if level >= 0}
                cut = math.fsum(c for a, b, c in self._arcs if a in side and b not in side)
                return cut, side
            flow += _blocking_flow(adjacent, heads, residual, levels, source, sink)
        return math.inf, {source}


def _levels(
    adjacent: list[list[int]], heads: list[int], residual: list[int], source: int
) -> list[int]:
    """Arcs from the source to each node; -1 where none leads."""
    levels = [-1] * len(adjacent)
    levels[source] = 0
    pending = deque([source])
    while pending:
        node = pending.popleft()
        for arc in adjacent[node]:
            if residual[arc] and levels[heads[arc]] < 0:
                levels[heads[arc]] = levels[node] + 1
                pending.append(heads[arc])
    return levels


def _blocking_flow(
    adjacent: list[list[int]],
    heads: list[int],
    residual: list[int],
    levels: list[int],
    source: int,
    sink: int,
) -> int:
    """Send what fits along shortest ways, changing the residual capacities."""
    tried = [0] * len(adjacent)
    path: list[int] = []
    node, flow = source, 0
    while True:
        if node == sink:
            pushed = min(residual[arc] for arc in path)
            flow += pushed
            for arc in path:
                residual[arc] -= pushed
                residual[arc ^ 1] += pushed
            # Back to before the first arc that is full now.
            full = next(place for place, arc in enumerate(path) if not residual[arc])
            node = heads[path[full] ^ 1]
            del path[full:]
            continue
        arcs = adjacent[node]
        while tried[node] < len(arcs):
            arc = arcs[tried[node]]
            if residual[arc] and levels[heads[arc]] == levels[node] + 1:
                break
            tried[node] += 1
        if tried[node] < len(arcs):
            path.append(arcs[tried[node]])
            node = heads[path[-1]]
        elif path:
            node = heads[path.pop() ^ 1]
            tried[node] += 1
        else:
            return flow
