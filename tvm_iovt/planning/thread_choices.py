"""The threads of several stages on one machine, as a choice that the planner makes.

`host,host` are two stages on this machine's cores: with four of them the stages may have 1 and 3
threads, or 2 and 2, or there may be one stage with all. `host/1,host/1` leaves no choice.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from tvm_iovt.planning.places import machine_of
from tvm_iovt.types import TargetSpec

_FIXED = re.compile(r"/\d+")


def thread_choices(specs: Sequence[TargetSpec]) -> tuple[tuple[TargetSpec, ...], ...]:
    """All ways to give cores to the devices; each a list of devices to plan for.

    Devices of one machine that do not state their threads share its cores in every way that leaves
    none idle, and in some of which not all of them are used; all others are in every list. Which of
    the equal devices gets more does not matter, since a plan may use them in any order.
    """
    sharing: dict[str, list[TargetSpec]] = defaultdict(list)
    for spec in specs:
        if spec.gpu is None and not _FIXED.search(spec.name):
            sharing[machine_of(spec, specs)].append(spec)
    groups = [group for group in sharing.values() if len(group) > 1]
    shared = {spec.name for group in groups for spec in group}
    choices = []
    for shares in itertools.product(*(_shares(group) for group in groups)):
        given = {spec.name: spec for group in shares for spec in group}
        choices.append(
            tuple(
                given.get(spec.name, spec)
                for spec in specs
                if spec.name in given or spec.name not in shared
            )
        )
    return tuple(choices)


def _shares(group: Sequence[TargetSpec]) -> tuple[tuple[TargetSpec, ...], ...]:
    cores = group[0].cpu.cores
    return tuple(
        tuple(
            dataclasses.replace(spec, cpu=dataclasses.replace(spec.cpu, cores=threads))
            for spec, threads in zip(group, parts, strict=False)
        )
        for parts in _partitions(cores, len(group), cores)
    )


def _partitions(total: int, most_parts: int, largest: int) -> Iterator[tuple[int, ...]]:
    """Non-increasing positive integers that add up to a total."""
    if total == 0:
        yield ()
        return
    if most_parts == 0:
        return
    for first in range(min(total, largest), 0, -1):
        for rest in _partitions(total - first, most_parts - 1, first):
            yield (first, *rest)
