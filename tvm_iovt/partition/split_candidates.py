"""Cuts between a device and a server, as functions of the bandwidth of the link between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_iovt.cost_graph import CostGraph
from tvm_iovt.errors import IovtError


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A cut that a policy can choose.

    Attributes:
        position: In the cost graph; units before it run on the device.
        before_s: Seconds on the device.
        after_s: Seconds on the server, and of what does not depend on the bandwidth.
        nbytes: To the server, and back if the caller is at the device.
    """

    position: int
    before_s: float
    after_s: float
    nbytes: int

    def latency_s(self, bytes_per_s: float) -> float:
        """Of a frame at a bandwidth."""
        if not self.nbytes:
            return self.before_s + self.after_s
        moving_s = self.nbytes / bytes_per_s if bytes_per_s else math.inf
        return self.before_s + self.after_s + moving_s


def natural_bottlenecks(graph: CostGraph, *, compression: float = 1.0) -> tuple[int, ...]:
    """Positions that fewer bytes cross than any earlier one, the network's inputs included.

    Args:
        graph: The network.
        compression: Most bytes that may cross, as a share of those of the inputs.

    Returns:
        Increasing; both ends are not among them.
    """
    crossing = graph.crossing_bytes
    least = crossing[0]
    found = []
    for position in range(1, len(crossing) - 1):
        if crossing[position] < least:
            least = crossing[position]
            if least <= compression * crossing[0]:
                found.append(position)
    return tuple(found)


def candidates(
    graph: CostGraph,
    device_s: Sequence[float],
    server_s: Sequence[float],
    *,
    positions: Sequence[int] | None = None,
    link_latency_s: float = 0.0,
    returns_outputs: bool = True,
) -> tuple[Candidate, ...]:
    """Cuts with their costs.

    Args:
        graph: The network.
        device_s: Seconds of each unit on the device, where the inputs are.
        server_s: Seconds of each unit on the server.
        positions: Of the cuts; by default the natural bottlenecks and both ends.
        link_latency_s: Seconds of a transfer beside its bytes, each way.
        returns_outputs: Whether the network's outputs go back to the device.

    Raises:
        IovtError: The times do not fit the network, or a position is not one of its.
    """
    units = len(graph.units)
    if positions is None:
        positions = (0, *natural_bottlenecks(graph), units)
    if len(device_s) != units or len(server_s) != units:
        raise IovtError(
            "Times do not fit the network",
            seen=f"{units} units, {len(device_s)} and {len(server_s)} times",
        )
    if not positions or not set(positions) <= set(range(units + 1)):
        raise IovtError("The network has no such cuts", seen=f"{tuple(positions)}, {units} units")
    found = []
    for position in sorted(set(positions)):
        ways = 0 if position == units else 1 + returns_outputs
        back = graph.crossing_bytes[units] if ways == 2 else 0
        found.append(
            Candidate(
                position=position,
                before_s=sum(device_s[:position]),
                after_s=sum(server_s[position:]) + ways * link_latency_s,
                nbytes=graph.crossing_bytes[position] + back if ways else 0,
            )
        )
    return tuple(found)
