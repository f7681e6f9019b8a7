"""What a planner is given: a network, devices, the time of each unit on each, and the ways between.

A plan cuts the units into *stages*, each a set that is contiguous in some topological order, and
gives every stage a device of its own. A tensor that a later stage reads travels with the frame from
stage to stage. The caller (a camera, a process) sits at *home*: the network's inputs come from
there and its outputs go there.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_iovt.cost_graph import CostGraph
from tvm_iovt.errors import IovtError
from tvm_iovt.types import Link

BUFFERS = 2
"""Frames that wait at either end of a stage: one is worked on while the next one arrives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A place for one stage.

    Attributes:
        name: Of the target, unique.
        memory_bytes: What a stage may use; 0 for any amount.
        active_w: Watts while it computes, beyond idling; 0 if unknown.
        stage_s: Seconds that one of several stages costs beside its units: being handed a frame.
        memory_group: Devices of one group share a memory; empty for one of its own.
        shared_bandwidth_bytes_per_s: Of that memory, over all of the group; 0 if unknown, and then
            nothing is said about it.
        cache_bytes: Of the last cache before that memory; 0 if it keeps nothing.
    """

    name: str
    memory_bytes: int = 0
    active_w: float = 0.0
    stage_s: float = 0.0
    memory_group: str = ""
    shared_bandwidth_bytes_per_s: float = 0.0
    cache_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The links that a tensor takes from one place to another; none where nothing has to move."""

    hops: tuple[Link, ...] = ()

    def latency_s(self, nbytes: int) -> float:
        """Seconds until all has arrived: hop after hop."""
        return sum(hop.time_s(nbytes) for hop in self.hops)

    def period_s(self, nbytes: int) -> float:
        """Least seconds between two frames: hops carry different frames at the same time."""
        return max((hop.time_s(nbytes) for hop in self.hops), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A network to be planned.

    Attributes:
        graph: Its units and tensors.
        devices: Each runs one stage at most.
        unit_s: Seconds of each unit on each device, `unit_s[device][unit]`; infinite where a device
            cannot run it.
        routes: `routes[a][b]` from place `a` to place `b`; the places are the devices, and home as
            the last one.

    Raises:
        IovtError: The shapes do not fit together, or there is a negative or NaN time.
    """

    graph: CostGraph
    devices: tuple[Device, ...]
    unit_s: tuple[tuple[float, ...], ...]
    routes: tuple[tuple[Route, ...], ...]

    def __post_init__(self) -> None:
        places = len(self.devices) + 1
        units = len(self.graph.units)
        if (
            not self.devices
            or len(self.unit_s) != len(self.devices)
            or any(len(row) != units for row in self.unit_s)
            or len(self.routes) != places
            or any(len(row) != places for row in self.routes)
        ):
            raise IovtError(
                "A planning problem does not fit together",
                seen=f"{len(self.devices)} devices, {units} units, times of "
                f"{[len(row) for row in self.unit_s]}, routes of "
                f"{[len(row) for row in self.routes]}",
            )
        for row in self.unit_s:
            for unit_s in row:
                if not unit_s >= 0:
                    raise IovtError("A unit has no valid time", seen=f"{unit_s} s")

    @property
    def home(self) -> int:
        """The place of the caller."""
        return len(self.devices)
