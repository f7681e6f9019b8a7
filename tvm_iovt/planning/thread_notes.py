"""Tells a user which threads of a plan's targets nobody measured."""

from __future__ import annotations

from collections.abc import Sequence

from tvm_iovt.planning.places import HERE, machine_of, named
from tvm_iovt.planning.plan_file import PlanFile
from tvm_iovt.targets import states_threads
from tvm_iovt.types import TargetSpec


def thread_notes(file: PlanFile) -> tuple[str, ...]:
    """A sentence for each profile whose threads end below those that were planned with.

    Predictions follow laws that were fitted to kernels with certain numbers of threads; with more
    of them, nothing is known to be faster (see `unit_times`), so a plan may look as if threads
    were of no use.
    """
    notes: dict[str, str] = {}
    for index, spec in enumerate(file.targets):
        known = max((f.threads for f in spec.profile.fits), default=0) if spec.profile else 0
        timed = file.measured[index] if index < len(file.measured) else ()
        planned = _planned_threads(spec, file.targets)
        if spec.gpu is not None or timed or not known or planned <= known:
            continue
        name = named(spec)
        where = "" if machine_of(spec, file.targets) == HERE else " --tracker HOST:PORT --key KEY"
        threads = "1 thread" if known == 1 else f"{known} threads"
        notes[name] = (
            f"{name} was measured with {threads} at most: its times with {planned} threads are "
            f"taken to be the same, so more threads seem to be of no use. To measure them: "
            f"tvm-iovt targets probe {name}{where}"
        )
    return tuple(notes.values())


def _planned_threads(spec: TargetSpec, specs: Sequence[TargetSpec]) -> int:
    """The most threads that a stage on the device could have got.

    Devices that state no number of threads share the cores of their machine: each could have had
    all of them.
    """
    if spec.gpu is not None or states_threads(named(spec)):
        return spec.cpu.cores
    machine = machine_of(spec, specs)
    return sum(
        s.cpu.cores
        for s in specs
        if s.gpu is None and not states_threads(named(s)) and machine_of(s, specs) == machine
    )
