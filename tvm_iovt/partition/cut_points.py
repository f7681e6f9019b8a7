"""Where a network may be cut, and what the stage between any two such points would cost.

A cut point is a set of units that is closed under predecessors: what has been computed when a frame
leaves a stage. Point 0 is the empty set and the last one is the whole network. Matrices are indexed
`[to, from]`: the units of point `to` without those of point `from` are a stage.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tvm_iovt.cost_graph import INPUT
from tvm_iovt.partition.contention import SharedMemories, shared_memories
from tvm_iovt.partition.evaluate import ENERGY, LATENCY, MEMORY, THROUGHPUT
from tvm_iovt.partition.problem import BUFFERS, Problem

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)  # without slots: matrices are kept
class CutPoints:
    """Cut points of a problem, smaller sets before larger ones.

    Attributes:
        problem: Whose network is cut.
        member: `member[point, unit]`, whether the unit is in the point's set.
        within: `within[to, from]`, whether `from` is a proper subset of `to`.
        crossing: Bytes that leave each point's set.
    """

    problem: Problem
    member: Bools
    within: Bools
    crossing: Floats

    @classmethod
    def of_sets(cls, problem: Problem, member: Bools) -> CutPoints:
        """From the sets themselves: one row each, all different, from the empty set to all."""
        inside = member.astype(np.float32)
        within = (1 - inside) @ inside.T == 0  # no unit of `from` is missing in `to`
        np.fill_diagonal(within, False)
        return cls(
            problem=problem,
            member=member,
            within=within,
            crossing=crossing_bytes(problem, member),
        )

    def units_between(self, start: int, end: int) -> tuple[int, ...]:
        """The units of the stage from one point to another."""
        return tuple(np.flatnonzero(self.member[end] & ~self.member[start]).tolist())

    def _between(self, each: Floats) -> Floats:
        """Numbers of units, summed over the stage between two points."""
        totals: Floats = self.member.astype(np.float64) @ each
        return totals[:, None] - totals[None, :]

    @functools.cached_property
    def memory_bytes(self) -> Floats:
        """Of the stage between two points, on any device; meaningless where not `within`."""
        units = self.problem.graph.units
        largest = np.zeros(self.within.shape)
        present = np.ascontiguousarray(self.member.T)
        for unit in sorted(units, key=lambda unit: unit.bytes_in + unit.bytes_out):
            here = present[unit.index]
            np.copyto(largest, unit.bytes_in + unit.bytes_out, where=here[:, None] & ~here)
        weights = self._between(np.array([float(unit.bytes_weights) for unit in units]))
        buffers = BUFFERS * (self.crossing[:, None] + self.crossing[None, :])
        total: Floats = weights + largest + buffers
        return total

    @functools.cached_property
    def compute_s(self) -> tuple[Floats, ...]:
        """For each device, of the stage between two points; infinite where it cannot run or fit."""
        return tuple(map(self._compute_s, range(len(self.problem.devices))))

    def _compute_s(self, device: int) -> Floats:
        row = np.array(self.problem.unit_s[device])
        able = np.isfinite(row)
        seconds = self._between(np.where(able, row, 0.0))
        np.maximum(seconds, 0.0, out=seconds)  # rounding
        limits = self.problem.devices[device]
        if limits.stage_s:
            whole = np.logical_and.outer(self.member.all(axis=1), ~self.member.any(axis=1))
            seconds += np.where(whole, 0.0, limits.stage_s)  # a lone stage is just called
        allowed = self.within
        if not able.all():
            allowed = allowed & (self._between(np.where(able, 0.0, 1.0)) < 0.5)
        if limits.memory_bytes:
            allowed = allowed & (self.memory_bytes <= limits.memory_bytes)
        return np.where(allowed, seconds, np.inf)

    @functools.cached_property
    def memories(self) -> SharedMemories:
        """The memories that stages may wait for."""
        return shared_memories(self.problem)

    @functools.cached_property
    def memory_s(self) -> dict[int, Floats]:
        """For each device in one of `memories`, how long a stage between two points keeps it busy.

        Meaningless where the device cannot run the stage.
        """
        return {device: self._memory_s(device) for device in self.memories.traffic}

    def _memory_s(self, device: int) -> Floats:
        traffic = self.memories.traffic[device]
        nbytes = self._between(np.array(traffic.weights)) - traffic.cache_bytes
        np.maximum(nbytes, 0.0, out=nbytes)
        nbytes += self._between(np.array(traffic.activations))
        np.maximum(nbytes, 0.0, out=nbytes)  # rounding
        seconds: Floats = np.minimum(nbytes / traffic.bytes_per_s, self.compute_s[device])
        return seconds

    def transfers(self, *, period: bool) -> Floats:
        """`[from place, to place, point]`: seconds that what crosses there takes on that way.

        Of a route's hops the slowest one counts for the period, and all of them for the latency;
        see `Route`.
        """
        places = len(self.problem.devices) + 1
        table = np.zeros((places, places, len(self.crossing)))
        for start, routes in enumerate(self.problem.routes):
            for end, route in enumerate(routes):
                ways = table[start, end]
                for hop in route.hops:
                    times = hop.latency_s + self.crossing / hop.bytes_per_s
                    (np.maximum if period else np.add)(ways, times, out=ways)
                ways[self.crossing == 0] = 0.0
        return table


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """An objective, as what each stage and each transfer adds to it.

    Attributes:
        segments: Of each device, `[to, from]`; infinite where the stage cannot be.
        transfers: `[from place, to place, point]`, home being the last place.
        worst: Whether the largest of them counts; their sum otherwise.
    """

    segments: tuple[Floats, ...]
    transfers: Floats
    worst: bool


def costs(points: CutPoints, objective: str) -> Costs:
    """What stages and transfers add to an objective of `evaluate.OBJECTIVES`."""
    segments = points.compute_s
    if objective == THROUGHPUT:
        return Costs(segments=segments, transfers=points.transfers(period=True), worst=True)
    transfers = points.transfers(period=False)
    if objective == LATENCY:
        return Costs(segments=segments, transfers=transfers, worst=False)
    free = np.where(np.isinf(transfers), np.inf, 0.0)
    if objective == MEMORY:
        sizes = tuple(np.where(np.isinf(each), np.inf, points.memory_bytes) for each in segments)
        return Costs(segments=sizes, transfers=free, worst=True)
    assert objective == ENERGY, objective
    # A device without watts is not among those that may run, see `checks`; 0 times infinite is NaN.
    watts = [device.active_w or 1.0 for device in points.problem.devices]
    joules = tuple(each * power for each, power in zip(segments, watts, strict=True))
    return Costs(segments=joules, transfers=free, worst=False)


def bounded(costs_: Costs, limits: Costs, bound: float) -> Costs:
    """The first costs where no stage and no transfer of the second exceeds a bound."""
    return Costs(
        segments=tuple(
            np.where(limit <= bound, segment, np.inf)
            for segment, limit in zip(costs_.segments, limits.segments, strict=True)
        ),
        transfers=np.where(limits.transfers <= bound, costs_.transfers, np.inf),
        worst=costs_.worst,
    )


def crossing_bytes(problem: Problem, member: Bools) -> Floats:
    """Bytes that leave each of some closed sets, given as rows of truth values."""
    total = np.zeros(len(member))
    for edge in problem.graph.edges:
        crosses = np.ones(len(member), dtype=np.bool_)
        if edge.producer != INPUT:
            crosses &= member[:, edge.producer]
        if not edge.is_output:
            crosses &= ~member[:, list(edge.consumers)].all(axis=1)
        total += np.where(crosses, float(edge.nbytes), 0.0)
    return total
