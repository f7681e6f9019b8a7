"""The cut of least latency for two devices, on any graph: a minimum s-t cut.

The light load of DADS (doi 10.1109/infocom.2019.8737614). The source side runs first. A unit on
either side cuts an arc of its time there. A tensor has a node of its own, so that it is paid once
however many units read it, and arcs without end lead back from each reader to its producer, so
that nothing returns. The latency of the link itself is paid once, by all cuts alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_iovt.cost_graph import INPUT
from tvm_iovt.errors import UsageError
from tvm_iovt.partition.evaluate import Evaluator
from tvm_iovt.partition.flow import FlowNetwork
from tvm_iovt.partition.pairs import orders_of_two, split
from tvm_iovt.partition.placement import Placement
from tvm_iovt.partition.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class CutCosts:
    """What the sides of a cut between two devices cost.

    Attributes:
        first_s: Of each unit on the device that runs first.
        second_s: Of each unit on the other one.
        byte_s: Of each byte between them; infinite if none may cross.
    """

    first_s: Sequence[float]
    second_s: Sequence[float]
    byte_s: float


def cut_for_latency(problem: Problem, order: Sequence[int] | None = None) -> Placement | None:
    """The placement of least latency over both devices of a problem.

    Devices' memory is not looked at. The whole network on one device is no cut: compare with it.

    Args:
        problem: Of two devices.
        order: Which of them runs first; None for either.

    Returns:
        None if no cut leaves each side something that it can run.

    Raises:
        UsageError: There are not two devices.
    """
    if len(problem.devices) != 2:
        raise UsageError(
            "A minimum cut is between two devices", seen=f"{len(problem.devices)} of them"
        )
    evaluator = Evaluator(problem)
    best: Placement | None = None
    best_s = math.inf
    for first, second in orders_of_two(order):
        byte_s = sum(1 / hop.bytes_per_s for hop in problem.routes[first][second].hops)
        # The link's latency is not paid where nothing crosses: that case has a search of its own.
        for each_s in (byte_s, math.inf):
            costs = CutCosts(
                first_s=problem.unit_s[first], second_s=problem.unit_s[second], byte_s=each_s
            )
            _, ahead = least_cut(problem, costs)
            if ahead is None:
                continue
            placement = split(problem, ahead, first, second)
            latency_s = evaluator.evaluate(placement).prediction.latency_s
            if latency_s < best_s:
                best, best_s = placement, latency_s
    return best


def least_cut(problem: Problem, costs: CutCosts) -> tuple[float, frozenset[int] | None]:
    """The cheapest cut that leaves units on both sides, and the units of the first side.

    Its cost is of units and bytes; infinite, with None, if there is no such cut.
    """
    cost_s, ahead = _forced_cut(problem, costs, None, None)
    units = len(problem.graph.units)
    if ahead is None or 0 < len(ahead) < units:
        return cost_s, ahead
    # One side would rather be empty. Some unit that reads only the network's inputs is on the
    # first side of every proper cut, and some unit that no other one reads on the second.
    best: tuple[float, frozenset[int] | None] = (math.inf, None)
    for begin in _ends(problem, outgoing=False):
        for end in _ends(problem, outgoing=True):
            if begin != end:
                found = _forced_cut(problem, costs, begin, end)
                if found[0] < best[0]:
                    best = found
    return best


def _forced_cut(
    problem: Problem, costs: CutCosts, begin: int | None, end: int | None
) -> tuple[float, frozenset[int] | None]:
    """The least cut with a unit on the first side and one on the second."""
    graph = problem.graph
    units = len(graph.units)
    source, sink = units, units + 1
    network = FlowNetwork(units + 2 + len(graph.edges))
    for unit in range(units):
        network.add(source, unit, math.inf if unit == begin else costs.second_s[unit])
        network.add(unit, sink, math.inf if unit == end else costs.first_s[unit])
    for index, edge in enumerate(graph.edges):
        producer = source if edge.producer == INPUT else edge.producer
        cost_s = costs.byte_s * edge.nbytes if edge.nbytes else 0.0
        if edge.is_output:  # it travels to the end, whoever else reads it
            network.add(producer, sink, cost_s)
        elif edge.consumers:
            tensor = units + 2 + index
            network.add(producer, tensor, cost_s)
            for unit in edge.consumers:
                network.add(tensor, unit, math.inf)
        if edge.producer != INPUT:
            for unit in edge.consumers:
                network.add(unit, producer, math.inf)
    cost_s, side = network.minimum_cut(source, sink)
    if cost_s == math.inf:
        return math.inf, None
    return cost_s, frozenset(unit for unit in side if unit < units)


def _ends(problem: Problem, *, outgoing: bool) -> list[int]:
    """The units that no unit's tensor leads to, or from which none leads on."""
    inner = set()
    for edge in problem.graph.edges:
        if edge.producer != INPUT:
            inner |= {edge.producer} if outgoing and edge.consumers else set()
            inner |= set() if outgoing else set(edge.consumers)
    return [unit for unit in range(len(problem.graph.units)) if unit not in inner]
