"""Edge and cloud with two objectives: the least latency, and the most use of the edge's memory.

LMOS (arXiv 2107.09123) runs the first units of a network on an edge device and the others on a
server. Memory that the edge has is there to be used: every unit that runs there is one that the
server need not run. So among splits that respect a limit on the edge's memory it *minimises
latency* and *maximises edge memory*, and returns a split that no other beats in both.

What differs from the formulas that are public: bytes are those of the network (weights, activations
and the tensors that cross the cut) instead of a guess from the number of layers, and the
epsilon-constraint method starts anew for each epsilon. For each latency `e` that occurs, the most
memory is found among splits of latency `<= e`, and of those the least latency. The results are the
*complete* Pareto set: a split found so is beaten by none, and one that none beats is found for its
own latency. (Lists that go on growing from one epsilon to the next return nearly the largest split
that fits, however slow it is.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_iovt.errors import IovtError, UsageError
from tvm_iovt.partition.evaluate import Evaluator, megabytes
from tvm_iovt.partition.placement import Placement
from tvm_iovt.partition.problem import Problem

MEMORY_SHARE = 0.10
"""Of the edge's memory; what the public code allows."""

RULES = ("knee", "latency-first", "latency-only")
"""How one split is chosen: see `plan_lmos`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A split with its two objectives.

    Attributes:
        position: Units on the edge: those before this position.
        latency_s: Of a frame.
        edge_bytes: Memory of the edge's stage, 0 without one; see `types.StagePrediction`.
        obstacle: Why it cannot be had; empty if it can.
    """

    position: int
    latency_s: float
    edge_bytes: int
    obstacle: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LmosPlan:
    """The chosen split and those that it was chosen from.

    Attributes:
        split: The choice.
        front: The Pareto set among the splits within the limit, by rising latency.
        limit_bytes: Most memory that the edge may use; infinite if that is not limited.
        rule: Of `RULES`.
        reason: Why this one.
    """

    split: Split
    front: tuple[Split, ...]
    limit_bytes: float
    rule: str
    reason: str

    def placement(self, problem: Problem, edge: int, cloud: int) -> Placement:
        """The stages that it stands for."""
        return split_placement(problem, edge, cloud, self.split.position)


def split_placement(problem: Problem, edge: int, cloud: int, position: int) -> Placement:
    """The units before a position on one device, the others on another; no empty stages."""
    units = len(problem.graph.units)
    if position in (0, units):
        return Placement.whole(edge if position else cloud, units)
    return Placement.of_cuts((edge, cloud), (position,), units)


def splits(problem: Problem, edge: int, cloud: int) -> tuple[Split, ...]:
    """Every split of the topological order between two devices, from all-cloud to all-edge.

    Raises:
        IovtError: The devices are not two of the problem's, or the network has no units.
    """
    if edge == cloud or not {edge, cloud} <= set(range(len(problem.devices))):
        raise IovtError(
            "A split needs two devices", seen=f"{edge} and {cloud} of {len(problem.devices)}"
        )
    evaluator = Evaluator(problem)
    found = []
    for position in range(len(problem.graph.units) + 1):
        evaluation = evaluator.evaluate(split_placement(problem, edge, cloud, position))
        first = evaluation.prediction.stages[0]
        found.append(
            Split(
                position=position,
                latency_s=evaluation.prediction.latency_s,
                edge_bytes=first.memory_bytes if position else 0,
                obstacle=evaluation.obstacle,
            )
        )
    return tuple(found)


def pareto_front(candidates: Sequence[Split]) -> tuple[Split, ...]:
    """The splits that no other beats, by epsilon-constraint; equals are all kept.

    Returns:
        By rising latency, and so by rising memory; of equals, by position.
    """
    front: dict[int, Split] = {}
    for epsilon in sorted({split.latency_s for split in candidates}):
        within = [split for split in candidates if split.latency_s <= epsilon]
        most = max(split.edge_bytes for split in within)
        least = min(split.latency_s for split in within if split.edge_bytes == most)
        for split in within:
            if (split.edge_bytes, split.latency_s) == (most, least):
                front[split.position] = split
    return tuple(sorted(front.values(), key=lambda split: (split.latency_s, split.position)))


def knee(front: Sequence[Split]) -> Split:
    """The split where more memory begins to cost much latency.

    Both objectives are scaled to 0..1 between the ends of the front. The knee is farthest from the
    straight line between the ends, on the side of less latency and more memory; an end if there is
    nothing on that side. Of equals, the faster one.

    Args:
        front: By rising latency, see `pareto_front`; not empty.
    """
    fastest, largest = front[0], front[-1]
    latency_range = largest.latency_s - fastest.latency_s or 1.0
    bytes_range = largest.edge_bytes - fastest.edge_bytes or 1
    return max(
        front,
        key=lambda split: (
            (split.edge_bytes - fastest.edge_bytes) / bytes_range
            - (split.latency_s - fastest.latency_s) / latency_range
        ),
    )


def plan_lmos(
    problem: Problem,
    *,
    edge: int = 0,
    cloud: int = 1,
    rule: str = "knee",
    memory_share: float = MEMORY_SHARE,
    slack: float = 0.0,
) -> LmosPlan:
    """Split a network between an edge device and a server.

    The rules: `knee` takes the Pareto set's knee (see `knee`); `latency-first` the most edge memory
    among splits whose latency is at most `1 + slack` times the least within the limit;
    `latency-only` the least latency without the limit, for comparison.

    Args:
        problem: The network, and devices of which two are used.
        edge: Index of the device that runs the first units.
        cloud: Index of the one that runs the others.
        rule: One of `RULES`.
        memory_share: Of the edge's memory that the stage may use; a device with an unlimited amount
            is not limited.
        slack: For `latency-first`, relative.

    Raises:
        IovtError: The devices, the rule or a number is not valid.
        UsageError: No split can be had within the limit.
    """
    if rule not in RULES or not 0 < memory_share <= 1 or not slack >= 0:
        raise IovtError(
            "LMOS cannot choose like this",
            seen=f"rule {rule!r} (known: {', '.join(RULES)}), memory share {memory_share}, "
            f"slack {slack}",
        )
    memory_bytes = problem.devices[edge].memory_bytes
    limit_bytes = memory_share * memory_bytes if memory_bytes else math.inf
    every = splits(problem, edge, cloud)
    possible = [split for split in every if not split.obstacle]
    within = [split for split in possible if split.edge_bytes <= limit_bytes]
    chosen_from = possible if rule == "latency-only" else within
    if not chosen_from:
        raise UsageError(
            "No split of the network between these two devices is possible",
            seen=f"the smallest one needs {megabytes(min(s.edge_bytes for s in possible))} of "
            f"the edge's memory, the limit is {megabytes(limit_bytes)}"
            if possible
            else every[0].obstacle,
            do=f"allow more than {memory_share:.0%} of its memory, or another device",
        )
    front = pareto_front(within)
    least_s = min(split.latency_s for split in chosen_from)
    if rule == "knee":
        split = knee(front)
        reason = f"the knee of {len(front)} splits that no other beats"
    elif rule == "latency-first":
        fast = [s for s in chosen_from if s.latency_s <= least_s * (1 + slack)]
        split = max(fast, key=lambda s: (s.edge_bytes, -s.latency_s))
        reason = f"the most edge memory within {slack:.0%} of the least latency"
    else:
        split = min(chosen_from, key=lambda s: (s.latency_s, -s.edge_bytes))
        reason = "the least latency, whatever memory it takes"
    reason += (
        f": {split.position} of {len(problem.graph.units)} units on {problem.devices[edge].name}, "
        f"{megabytes(split.edge_bytes)} there, {split.latency_s * 1e3:.3g} ms"
    )
    return LmosPlan(split=split, front=front, limit_bytes=limit_bytes, rule=rule, reason=reason)
