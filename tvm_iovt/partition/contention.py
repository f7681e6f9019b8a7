"""Stages that run at the same time and share a memory, or the cores of a CPU.

Memory: the extension of the roofline to several engines on one memory (Gables, doi
10.1109/HPCA.2019.00047). A stage that moves `nbytes` and takes `alone_s` for a frame while nothing
else runs cannot take less than that, and the memory cannot serve all stages in less than the sum of
their bytes over its bandwidth:

    period >= max(max_i alone_s_i, sum_i nbytes_i / bandwidth)

That bound is reached by sharing the bandwidth well, see `bandwidth_shares`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_iovt.errors import IovtError, UsageError
from tvm_iovt.partition.integer_shares import share_out
from tvm_iovt.partition.placement import Placement
from tvm_iovt.partition.problem import Device, Problem

POLICIES = ("longest", "sum", "fair")
"""What shares of bandwidth are for: the least longest stage, the least sum of all stages, or what a
memory does by itself, equal rates to all who wait for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a stage needs for one frame.

    Attributes:
        alone_s: Seconds while nothing else uses the memory.
        nbytes: Bytes from and to the shared memory, weights included.

    Raises:
        IovtError: One of them is negative or not finite.
    """

    alone_s: float
    nbytes: float

    def __post_init__(self) -> None:
        if not (0 <= self.alone_s < math.inf and 0 <= self.nbytes < math.inf):
            raise IovtError(
                "A stage's demand is not valid", seen=f"{self.alone_s} s, {self.nbytes} bytes"
            )

    @property
    def bytes_per_s(self) -> float:
        """The most that the stage can take from the memory."""
        return self.nbytes / self.alone_s if self.alone_s else math.inf if self.nbytes else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BandwidthShare:
    """What a stage gets of a memory, and what becomes of it.

    Attributes:
        share: Of the memory's bandwidth, 0 to 1.
        stage_s: Seconds of the stage for a frame with that share.
    """

    share: float
    stage_s: float


def roofline_demand(
    flops: float,
    nbytes: float,
    *,
    peak_flops_per_s: float,
    bandwidth_bytes_per_s: float,
    core_share: float = 1.0,
) -> Demand:
    """The demand of a stage by the roofline: `max(F / (peak * core_share), Q / bandwidth)` alone.

    Args:
        flops: Of a frame.
        nbytes: Of a frame.
        peak_flops_per_s: Of all of the device's cores.
        bandwidth_bytes_per_s: That the device can take from the memory by itself.
        core_share: Of the cores, above 0 to 1.

    Raises:
        IovtError: A rate is not positive, or the share is not within 0 to 1.
    """
    if not (peak_flops_per_s > 0 and bandwidth_bytes_per_s > 0 and 0 < core_share <= 1):
        raise IovtError(
            "A device's rates are not valid",
            seen=f"{peak_flops_per_s} FLOP/s, {bandwidth_bytes_per_s} B/s, {core_share} of cores",
        )
    alone_s = max(flops / (peak_flops_per_s * core_share), nbytes / bandwidth_bytes_per_s)
    return Demand(alone_s=alone_s, nbytes=nbytes)


def contended_period_s(demands: Sequence[Demand], bandwidth_bytes_per_s: float) -> float:
    """Least seconds between two frames of stages that all run and share one memory."""
    _check_bandwidth(bandwidth_bytes_per_s)
    longest_s = max((demand.alone_s for demand in demands), default=0.0)
    return max(longest_s, sum(demand.nbytes for demand in demands) / bandwidth_bytes_per_s)


def shared_memory_s(devices: Sequence[Device], nbytes: Sequence[float]) -> float:
    """Least seconds between two frames that the shared memories allow.

    Args:
        devices: Those of a pipeline's stages.
        nbytes: Bytes that each of the stages moves for a frame.

    Returns:
        The longest time of a memory group whose bandwidth is known; where its devices state
        different ones, the least counts. 0 where nothing is shared.
    """
    moved: dict[str, float] = {}
    bandwidth: dict[str, float] = {}
    for device, stage_bytes in zip(devices, nbytes, strict=True):
        if device.memory_group:
            group = device.memory_group
            moved[group] = moved.get(group, 0.0) + stage_bytes
            if device.shared_bandwidth_bytes_per_s > 0:
                known = bandwidth.get(group, math.inf)
                bandwidth[group] = min(known, device.shared_bandwidth_bytes_per_s)
    return max((moved[group] / bandwidth[group] for group in bandwidth), default=0.0)


def placement_memory_s(problem: Problem, placement: Placement) -> float:
    """Least seconds between two frames that shared memories allow the stages of a placement.

    Counts the compulsory traffic of all units, weights included: where caches keep tensors or
    weights from one unit or frame to the next, less moves.
    """
    units = problem.graph.units
    return shared_memory_s(
        [problem.devices[device] for device in placement.devices],
        [sum(units[unit].nbytes for unit in own) for _, own in placement.stages],
    )


def bandwidth_shares(
    demands: Sequence[Demand], bandwidth_bytes_per_s: float, policy: str = "longest"
) -> tuple[BandwidthShare, ...]:
    """How a memory's bandwidth is divided among stages that all run at the same time.

    With a rate `g` a stage takes `max(alone_s, nbytes / g)`: no more than its own `bytes_per_s` is
    of use to it. Each gets `min(bytes_per_s, weight * level)`, with the one level at which the
    bandwidth is used up (water filling). The weights follow from the policy: with `nbytes` all that
    wait take equally long, so the longest is least, and equals `contended_period_s`; the sum is
    convex in the rates, and where it is least `nbytes / g**2` is the same for all that wait, so the
    weights are `sqrt(nbytes)`; equal weights are what a fair memory gives.

    Args:
        demands: Of the stages.
        bandwidth_bytes_per_s: Of the memory.
        policy: One of `POLICIES`.

    Raises:
        IovtError: An unknown policy, or a bandwidth that is not positive.
    """
    _check_bandwidth(bandwidth_bytes_per_s)
    if policy not in POLICIES:
        raise IovtError(f"There is no policy {policy!r}", seen=f"known: {', '.join(POLICIES)}")
    exponent = {"longest": 1.0, "sum": 0.5, "fair": 0.0}[policy]
    weights = [d.nbytes**exponent if d.nbytes else 0.0 for d in demands]
    level = _water_level(demands, weights, bandwidth_bytes_per_s)
    found = []
    for demand, weight in zip(demands, weights, strict=True):
        # A weight without an own limit is never met by an infinite level: the sum would not fit.
        rate = min(demand.bytes_per_s, weight * level if weight else 0.0)
        stage_s = max(demand.alone_s, demand.nbytes / rate) if rate else demand.alone_s
        found.append(BandwidthShare(share=rate / bandwidth_bytes_per_s, stage_s=stage_s))
    return tuple(found)


def _water_level(demands: Sequence[Demand], weights: Sequence[float], bandwidth: float) -> float:
    """The level of `sum min(bytes_per_s, weight * level) = bandwidth`; infinite if all fit."""
    waiting = sorted(
        (demand.bytes_per_s / weight, demand.bytes_per_s, weight)
        for demand, weight in zip(demands, weights, strict=True)
        if weight
    )
    left = bandwidth
    for i, (full_at, rate, _) in enumerate(waiting):
        weight = math.fsum(own for _, _, own in waiting[i:])
        if weight * full_at >= left:
            return left / weight
        left -= rate
    return math.inf


def _check_bandwidth(bandwidth_bytes_per_s: float) -> None:
    if not bandwidth_bytes_per_s > 0:
        raise IovtError("A memory has no valid bandwidth", seen=f"{bandwidth_bytes_per_s} B/s")


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadAllocation:
    """Threads of stages that run at the same time on one CPU.

    Attributes:
        threads: Of each stage, at least 1.
        period_s: The longest stage.
        latency_s: All stages, one after the other.
    """

    threads: tuple[int, ...]
    period_s: float
    latency_s: float


def thread_allocation(
    stage_s: Sequence[Sequence[float]], cores: int, objective: str = "period"
) -> ThreadAllocation:
    """The best numbers of threads, each core being used by one stage only. Exact.

    More threads than a stage has use for are not given to it, see `integer_shares`.

    Args:
        stage_s: Seconds of each stage with 1, 2, ... threads, `stage_s[stage][threads - 1]`.
        cores: Of the CPU.
        objective: What is least: `period` (and of those the least latency), or `latency`.

    Raises:
        UsageError: There are more stages than cores, or a stage cannot run with any of them.
        IovtError: An unknown objective, or a time that is negative or NaN.
    """
    known = {"period": "longest", "latency": "sum"}
    if objective not in known:
        raise IovtError(
            f"Threads have no objective {objective!r}", seen=f"known: {', '.join(known)}"
        )
    tables = [(math.inf, *seconds) for seconds in stage_s]  # no stage runs on no core
    threads = share_out(tables, max(cores, 0), known[objective])
    if threads is None:
        raise UsageError(
            f"{len(tables)} stages do not fit on the cores of one CPU",
            seen=f"{cores} cores, and one thread a stage at least",
            do="plan fewer stages on this device",
        )
    taken = [table[count] for table, count in zip(tables, threads, strict=True)]
    return ThreadAllocation(threads=threads, period_s=max(taken, default=0.0), latency_s=sum(taken))
