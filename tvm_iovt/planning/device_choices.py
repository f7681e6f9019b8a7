"""Which devices a plan may use at once, and how much they are in each other's way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tvm_iovt import unit_times
from tvm_iovt.planning.places import machine_of
from tvm_iovt.planning.thread_choices import thread_choices
from tvm_iovt.types import TargetSpec


def device_choices(
    specs: Sequence[TargetSpec], objective: str
) -> tuple[tuple[TargetSpec, ...], ...]:
    """Lists of devices to plan for; the best plan of all of them counts.

    Stages that compute at the same time on one machine slow each other down, so that devices of one
    machine are planned for together, and each of them without the others, at its full speed.
    """
    choices = list(thread_choices(specs))
    if objective == "throughput":
        for choice in tuple(choices):
            for machine in _shared_machines(choice):
                beside = [s for s in choice if machine_of(s, choice) != machine]
                choices += [
                    tuple(s for s in choice if s is one or s in beside)
                    for one in choice
                    if one not in beside
                ]
    return tuple(dict.fromkeys(choices))


def _shared_machines(specs: Sequence[TargetSpec]) -> tuple[str, ...]:
    """Machines whose CPU is several of the devices."""
    counts = Counter(machine_of(spec, specs) for spec in specs if spec.gpu is None)
    return tuple(machine for machine, count in counts.items() if count > 1)


def slowdowns(specs: Sequence[TargetSpec], objective: str) -> tuple[float, ...]:
    """How much slower each device is in a full pipeline of all of them."""
    shared = _shared_machines(specs) if objective == "throughput" else ()
    return tuple(
        unit_times.profile_of(spec).shared_slowdown
        if spec.gpu is None and machine_of(spec, specs) in shared
        else 1.0
        for spec in specs
    )
