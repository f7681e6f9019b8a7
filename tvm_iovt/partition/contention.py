"""Stages that run at the same time and share a memory: the least period that it allows them.

The extension of the roofline to several engines on one memory (Gables, doi
10.1109/HPCA.2019.00047): a memory cannot serve the stages of a pipeline in less than the sum of the
bytes that they move for a frame, over its bandwidth. This is a bound that holds, so a byte counts
only if no cache can have kept it:

- of a stage's weights, those beyond the cache of its device: no more of them can still be there
  from the frame before;
- of the activations that a unit reads, and of those that it writes, what is beyond the cache: no
  more can be there when its kernel starts, or be left there for the next one when it ends. Of its
  input only what its windows touch counts (`unit_laws.compulsory_bytes`);
- nothing of a unit that may become a part of another one's kernel (`unit_laws.may_vanish`);
- and no more of a stage than the memory can deliver while it computes: a stage by itself is never
  held up, as the times of its units have the memory in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_iovt.cost_graph import Unit
from tvm_iovt.partition.problem import Device, Problem
from tvm_iovt.unit_laws import compulsory_bytes, may_vanish, weight_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What the units of a network move to and from the memory of one device.

    Attributes:
        weights: Bytes of each unit; the cache holds some of a stage's.
        activations: Bytes of each unit that no cache can keep.
        cache_bytes: Of the device.
        bytes_per_s: Of the memory.
    """

    weights: tuple[float, ...]
    activations: tuple[float, ...]
    cache_bytes: int
    bytes_per_s: float

    def seconds(self, units: Sequence[int], compute_s: float) -> float:
        """Seconds that the memory is busy for a stage and a frame.

        Args:
            units: Of the stage.
            compute_s: Of the stage.
        """
        weights = sum(self.weights[unit] for unit in units)
        nbytes = max(weights - self.cache_bytes, 0.0) + sum(self.activations[u] for u in units)
        return min(nbytes / self.bytes_per_s, compute_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedMemories:
    """The memories that stages of a problem may wait for.

    Attributes:
        groups: Devices that share one; at least two each.
        traffic: Of each device in a group, by its index.
    """

    groups: tuple[tuple[int, ...], ...]
    traffic: dict[int, Traffic]

    def period_s(self, stages: Sequence[tuple[int, Sequence[int], float]]) -> float:
        """The longest that a memory is busy for a frame; 0 where no two stages share one.

        Args:
            stages: Of each, its device, its units, and its `compute_s`.
        """
        return max((self.busy_s(group, stages) for group in self.groups), default=0.0)

    def busy_s(
        self, group: Sequence[int], stages: Sequence[tuple[int, Sequence[int], float]]
    ) -> float:
        """The same of the memory of one group; 0 where no two stages share it."""
        sharing = [stage for stage in stages if stage[0] in group]
        if len(sharing) < 2:
            return 0.0
        return sum(
            self.traffic[device].seconds(units, compute_s) for device, units, compute_s in sharing
        )


def shared_memories(problem: Problem) -> SharedMemories:
    """The memories that several devices share and whose bandwidth all of them know.

    Where they state different ones, the highest counts: the memory can do that much.
    """
    sharing: dict[str, list[int]] = {}
    for index, device in enumerate(problem.devices):
        if device.memory_group:
            sharing.setdefault(device.memory_group, []).append(index)
    groups = []
    traffic = {}
    for group in sharing.values():
        known = [problem.devices[index].shared_bandwidth_bytes_per_s for index in group]
        if len(group) > 1 and min(known) > 0:
            groups.append(tuple(group))
            for index in group:
                traffic[index] = _traffic(problem.graph.units, problem.devices[index], max(known))
    return SharedMemories(groups=tuple(groups), traffic=traffic)


def _traffic(units: Sequence[Unit], device: Device, bytes_per_s: float) -> Traffic:
    return Traffic(
        weights=tuple(0.0 if may_vanish(unit) else weight_bytes(unit) for unit in units),
        activations=tuple(_activations(unit, device.cache_bytes) for unit in units),
        cache_bytes=device.cache_bytes,
        bytes_per_s=bytes_per_s,
    )


def _activations(unit: Unit, cache_bytes: int) -> float:
    if may_vanish(unit):
        return 0.0
    read = compulsory_bytes(unit) - unit.bytes_out - weight_bytes(unit)
    return math.fsum(max(each - cache_bytes, 0.0) for each in (read, unit.bytes_out))
