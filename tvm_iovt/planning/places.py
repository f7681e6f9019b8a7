"""Where the devices of a plan are: which share a machine, and how tensors get from one to another.

The caller sits on this machine, if one of the devices is a part of it, or if they are parts of
several machines; else on the one machine that all of them are parts of (the CPU and the GPU of a
board). Everything goes through the caller's machine: it is the one that talks to all of them, and
each stage of another machine sends it what it made, even for a stage of that same machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tvm_iovt import targets, unit_times
from tvm_iovt.partition.problem import Device, Route
from tvm_iovt.planning.links import BUS, ETHERNET, StatedLink
from tvm_iovt.types import CpuSpec, Link, TargetSpec

HERE = "host"
"""Name of this machine."""

_AGAIN = re.compile(r"~\d+$")
_ASSUMED_HANDOFF_S = 50e-6
_ASSUMED_STAGE_S = 100e-6
_ASSUMED_BOUNDARY_BYTES_PER_S = 4e9


def machine_of(spec: TargetSpec, specs: Sequence[TargetSpec]) -> str:
    """The machine that a device is a part of.

    A target named twice with a number of threads (`arm/2,arm/2`) is two parts of one machine, and
    so are the host's; named twice without (`arm,arm`), it is two boards.
    """
    if spec.machine:
        return spec.machine
    if spec.gpu is not None:
        launchers = [s for s in specs if s.gpu is None and _same_cpu(s.cpu, spec.cpu)]
        return machine_of(launchers[0], specs) if launchers else _machine_of_cpu(spec.cpu)
    name = named(spec)
    base = targets.base_name(name)
    if base == HERE or targets.states_threads(name):
        return base
    return f"{base}{spec.name[len(name) :]}"


def named(spec: TargetSpec) -> str:
    """A target's name as the user wrote it: `arm/2`, also of the second one, `arm/2~2`."""
    return _AGAIN.sub("", spec.name)


def _machine_of_cpu(cpu: CpuSpec) -> str:
    from tvm_iovt import host_cpu

    return HERE if _same_cpu(cpu, host_cpu.detect()) else f"{cpu.arch} launcher"


def _same_cpu(a: CpuSpec, b: CpuSpec) -> bool:
    return (a.arch, a.mcpu, a.triple) == (b.arch, b.mcpu, b.triple)


def home_of(specs: Sequence[TargetSpec]) -> str:
    """The machine of the caller."""
    machines = {machine_of(spec, specs) for spec in specs}
    return machines.pop() if len(machines) == 1 else HERE


def devices_of(
    specs: Sequence[TargetSpec], stated: Sequence[StatedLink] = (), *, pipeline: bool = True
) -> tuple[Device, ...]:
    """The planner's view of the targets.

    CPUs of a machine share its memory. A GPU has one of its own, unless its target names the
    machine whose memory it uses.

    Args:
        specs: The targets.
        stated: As for `routes_of`.
        pipeline: Whether their stages are those of one process's pipeline, and cost what that
            does; else they are called one after the other.
    """
    groups = ["" if spec.gpu and not spec.machine else machine_of(spec, specs) for spec in specs]
    threads: dict[str, int] = {}
    for spec, group in zip(specs, groups, strict=True):
        threads[group] = threads.get(group, 0) + (0 if spec.gpu else spec.cpu.cores)
    return tuple(
        Device(
            name=spec.name,
            memory_bytes=spec.memory_bytes,
            active_w=spec.active_w,
            memory_group=group,
            stage_s=_stage_s(spec, specs, stated) if pipeline else 0.0,
            shared_bandwidth_bytes_per_s=_memory_bandwidth(spec, threads[group]),
            cache_bytes=unit_times.profile_of(spec).cache_bytes,
        )
        for spec, group in zip(specs, groups, strict=True)
    )


def _stage_s(spec: TargetSpec, specs: Sequence[TargetSpec], stated: Sequence[StatedLink]) -> float:
    """What a stage costs beside its kernels, by the profile of a CPU of its machine.

    A device of another machine is told to compute once it has said that the frame before is done,
    so that it waits for both messages.
    """
    machine, home = machine_of(spec, specs), home_of(specs)
    if machine != home:
        return 2 * _machine_link(spec, home, {link.target: link for link in stated}).latency_s
    there = [s for s in (spec, *specs) if s.gpu is None and machine_of(s, specs) == machine]
    known = (unit_times.profile_of(s).stage_s for s in there)
    return next(filter(None, known), _ASSUMED_STAGE_S)


def _memory_bandwidth(spec: TargetSpec, threads: int) -> float:
    """The most that a memory gives to so many threads of a machine; 0 if unknown.

    Without the size of the cache before it nobody knows what goes there, so it counts as unknown.
    """
    profile = unit_times.profile_of(spec)
    roofs = [*profile.roofs, *([] if spec.gpu else [unit_times.roof_of(profile, threads)])]
    return max(roof.bandwidth_bytes_per_s for roof in roofs) if profile.cache_bytes else 0.0


def routes_of(
    specs: Sequence[TargetSpec], stated: Sequence[StatedLink] = (), home: str = ""
) -> tuple[tuple[Route, ...], ...]:
    """The ways between all places: the devices, and the caller as the last one.

    Args:
        specs: The devices.
        stated: What the command line says of the ways between the caller and them.
        home: The machine of the caller; by default see `home_of`.
    """
    machines = [machine_of(spec, specs) for spec in specs]
    home = home or home_of(specs)
    said = {link.target: link for link in stated}
    places: list[TargetSpec | None] = [*specs, None]
    at = [*machines, home]
    links = {
        spec.name: _machine_link(spec, home, said)
        for spec, machine in zip(specs, machines, strict=True)
        if machine != home
    }
    return tuple(
        tuple(
            Route(hops=() if i == j else _hops(a, b, at[i], at[j], home, links))
            for j, b in enumerate(places)
        )
        for i, a in enumerate(places)
    )


def _hops(
    a: TargetSpec | None,
    b: TargetSpec | None,
    from_machine: str,
    to_machine: str,
    home: str,
    links: Mapping[str, Link],
) -> tuple[Link, ...]:
    """From one place to another; None is the caller."""
    hops: list[Link] = []
    if a is not None and a.gpu is not None:
        hops.append(_bus(a, out=True))
    between_devices = a is not None and b is not None
    if from_machine != to_machine or (between_devices and from_machine != home):
        if a is not None and from_machine != home:
            link = links[a.name]
            hops.append(_named(link, a.name, home))
        if b is not None and to_machine != home:
            link = links[b.name]
            hops.append(_named(link, home, b.name))
    if b is not None and b.gpu is not None:
        hops.append(_bus(b, out=False))
    if not hops and a is not None and b is not None:
        hops.append(_handoff(a, b))
    return tuple(hops)


def _machine_link(spec: TargetSpec, home: str, said: Mapping[str, StatedLink]) -> Link:
    if spec.name in said:
        stated = said[spec.name]
        return Link(
            src=home, dst=spec.name, bytes_per_s=stated.bytes_per_s, latency_s=stated.latency_s
        )
    for link in spec.links:
        if link.dst in (home, "*"):
            return link
    bytes_per_s, latency_s = ETHERNET
    return Link(
        src=home, dst=spec.name, bytes_per_s=bytes_per_s, latency_s=latency_s, source="assumed"
    )


def _bus(spec: TargetSpec, *, out: bool) -> Link:
    cpu = f"CPU of {spec.name}"
    ends = (spec.name, cpu) if out else (cpu, spec.name)
    for link in spec.links:
        if link.dst == "cpu":
            return _named(link, *ends)
    bytes_per_s, latency_s = BUS
    return Link(
        src=ends[0], dst=ends[1], bytes_per_s=bytes_per_s, latency_s=latency_s, source="assumed"
    )


def _handoff(a: TargetSpec, b: TargetSpec) -> Link:
    """Between two stages on CPUs of one machine: a queue, and a change of layout at both ends."""
    profile = unit_times.profile_of(b)
    return Link(
        src=a.name,
        dst=b.name,
        bytes_per_s=profile.boundary_bytes_per_s or _ASSUMED_BOUNDARY_BYTES_PER_S,
        latency_s=profile.handoff_s or _ASSUMED_HANDOFF_S,
        source="measured" if profile.source == "measured" else "assumed",
    )


def _named(link: Link, src: str, dst: str) -> Link:
    return Link(
        src=src,
        dst=dst,
        bytes_per_s=link.bytes_per_s,
        latency_s=link.latency_s,
        source=link.source,
    )
