"""Cuts between a device and a server, as functions of the bandwidth of the link between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm_iovt.cost_graph import CostGraph


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
