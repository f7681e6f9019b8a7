"""What a placement takes: the one truth that every planner is held to.

All tensors that cross a boundary travel as one transfer. The latency adds up transfers and
computing; the period is the slowest of the stages' computing and of the transfers, since a stage
computes on one frame while it receives another and sends a third. Stages that share a memory cannot
be faster together than it delivers what they move, see `contention`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm_iovt.cost_graph import INPUT
from tvm_iovt.errors import IovtError
from tvm_iovt.partition.contention import shared_memories
from tvm_iovt.partition.placement import Placement, bits, check, predecessors
from tvm_iovt.partition.problem import BUFFERS, Problem
from tvm_iovt.types import Prediction, StagePrediction

LATENCY, THROUGHPUT, MEMORY, ENERGY = "latency", "throughput", "memory", "energy"
OBJECTIVES = (LATENCY, THROUGHPUT, MEMORY, ENERGY)
"""What can be minimised: `latency_s`, `period_s`, the largest stage's bytes, joules a frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A placement, what it takes, and what stands against it.

    Attributes:
        placement: The stages.
        prediction: Infinite where a device cannot run a unit.
        obstacle: Why it cannot be had (a stage that does not fit its device's memory, a unit that
            its device cannot run); empty if it can.
    """

    placement: Placement
    prediction: Prediction
    obstacle: str = ""

    def value(self, objective: str) -> float:
        """What an objective minimises, in its own unit; infinite if there is an obstacle."""
        if self.obstacle:
            return math.inf
        if objective == LATENCY:
            return self.prediction.latency_s
        if objective == THROUGHPUT:
            return self.prediction.period_s
        if objective == ENERGY:
            return self.prediction.energy_j
        return float(max(stage.memory_bytes for stage in self.prediction.stages))


class Evaluator:
    """Evaluates placements of one problem.

    Args:
        problem: What is planned.
        source: Of the unit times, for the predictions.
        noise: Relative half-width of the band that the times are known to.
    """

    def __init__(self, problem: Problem, *, source: str = "assumed", noise: float = 0.0) -> None:
        self.problem = problem
        self._source = source
        self._noise = noise
        self.before = predecessors(problem.graph)
        self._memories = shared_memories(problem)
        units = problem.graph.units
        self._working_bytes = [unit.bytes_in + unit.bytes_out for unit in units]
        self._edges = [
            (
                edge.nbytes,
                0 if edge.producer == INPUT else 1 << edge.producer,
                -1 if edge.is_output else bits(edge.consumers),  # -1: of more than all units
            )
            for edge in problem.graph.edges
        ]

    def crossing_bytes(self, done: int) -> int:
        """Bytes that leave a predecessor-closed set of units, given as bits."""
        return sum(
            nbytes
            for nbytes, producer, readers in self._edges
            if producer & done == producer and readers & ~done
        )

    def evaluate(self, placement: Placement) -> Evaluation:
        """What a placement takes.

        Raises:
            IovtError: It is no placement of this problem.
        """
        problem = self.problem
        check(placement, len(problem.devices), self.before)
        if not placement.stages:
            raise IovtError("There is nothing to plan", seen="a network without units")
        last = len(placement.stages) - 1
        stages = []
        latency_s = period_s = 0.0
        obstacle = ""
        place, done = problem.home, 0
        bytes_in = self.crossing_bytes(done)
        for index, (device, units) in enumerate(placement.stages):
            route = problem.routes[place][device]
            done |= bits(units)
            bytes_out = self.crossing_bytes(done)
            home = problem.routes[device][problem.home]
            limits = problem.devices[device]
            overhead_s = limits.stage_s if last else 0.0  # a network in one piece is just called
            compute_s = sum(problem.unit_s[device][unit] for unit in units) + overhead_s
            memory_bytes = (
                sum(problem.graph.units[unit].bytes_weights for unit in units)
                + max(self._working_bytes[unit] for unit in units)
                + BUFFERS * (bytes_in + bytes_out)
            )
            stage = StagePrediction(
                receive_s=route.latency_s(bytes_in),
                compute_s=compute_s,
                send_s=home.latency_s(bytes_out) if index == last else 0.0,
                bytes_in=bytes_in,
                memory_bytes=memory_bytes,
                energy_j=compute_s * limits.active_w if limits.active_w else 0.0,
                overhead_s=overhead_s,
            )
            stages.append(stage)
            latency_s += stage.receive_s + stage.compute_s + stage.send_s
            period_s = max(period_s, stage.compute_s, route.period_s(bytes_in))
            if index == last:
                period_s = max(period_s, home.period_s(bytes_out))
            obstacle = obstacle or self._obstacle(index, device, units, memory_bytes)
            place, bytes_in = device, bytes_out
        if not obstacle and math.isinf(latency_s):
            obstacle = "no way for the tensors between two of its places"
        memory_s = self._memories.period_s(
            [
                (device, units, stage.compute_s)
                for (device, units), stage in zip(placement.stages, stages, strict=True)
            ]
        )
        prediction = Prediction(
            latency_s=latency_s,
            period_s=max(period_s, memory_s),
            stages=tuple(stages),
            source=self._source,
            noise=self._noise,
            memory_s=memory_s,
        )
        return Evaluation(placement=placement, prediction=prediction, obstacle=obstacle)

    def _obstacle(self, index: int, device: int, units: tuple[int, ...], memory_bytes: int) -> str:
        limits = self.problem.devices[device]
        for unit in units:
            if math.isinf(self.problem.unit_s[device][unit]):
                return f"{limits.name} cannot run {self.problem.graph.units[unit].name}"
        if 0 < limits.memory_bytes < memory_bytes:
            return (
                f"stage {index} needs {megabytes(memory_bytes)} on {limits.name}, "
                f"which has {megabytes(limits.memory_bytes)}"
            )
        return ""


def evaluate(
    problem: Problem, placement: Placement, *, source: str = "assumed", noise: float = 0.0
) -> Evaluation:
    """What one placement of a problem takes; see `Evaluator` for many of them.

    Raises:
        IovtError: It is no placement of this problem.
    """
    return Evaluator(problem, source=source, noise=noise).evaluate(placement)


def megabytes(nbytes: float) -> str:
    """A size for people: `0.80 MB`, `12.3 MB`, `640 B`."""
    if nbytes < 1e3:
        return f"{nbytes:.0f} B"
    if nbytes < 1e5:
        return f"{nbytes / 1e3:.3g} kB"
    return f"{nbytes / 1e6:.2f} MB" if nbytes < 1e7 else f"{nbytes / 1e6:.1f} MB"
