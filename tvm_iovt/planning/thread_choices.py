"""The threads of several stages on one machine, as a choice that the planner makes.

`host,host` are two stages on this machine's cores: with four of them the stages may have 1 and 3
threads, or 2 and 2, or there may be one stage with all. `host/1,host/1` leaves no choice.

Up to eight cores every way to share them is a choice. Beyond that the largest stage has whatever
the others leave, and those have 1, 2, 3, 4, 6, 8, 12, 16, ... threads; 1, 2, 4, 8, ... (or steps of
four, of eight, ...) where that would make more than 150 choices. Equal shares are always among
them.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

from tvm_iovt.planning.places import machine_of, named
from tvm_iovt.targets import states_threads
from tvm_iovt.types import TargetSpec

_ALL_WAYS_CORES = 8
_MOST_CHOICES = 150


def thread_choices(specs: Sequence[TargetSpec]) -> tuple[tuple[TargetSpec, ...], ...]:
    """All ways to give cores to the devices; each a list of devices to plan for.

    Devices of one machine that do not state their threads share its cores in ways that leave none
    idle, and in some of which not all of them are used; all others are in every list. Which of the
    equal devices gets more does not matter, since a plan may use them in any order.
    """
    sharing: dict[str, list[TargetSpec]] = defaultdict(list)
    for spec in specs:
        if spec.gpu is None and not states_threads(named(spec)):
            sharing[machine_of(spec, specs)].append(spec)
    groups = [group for group in sharing.values() if len(group) > 1]
    shared = {spec.name for group in groups for spec in group}
    most = _MOST_CHOICES ** (1 / max(1, len(groups)))
    choices = []
    for shares in itertools.product(*(_shares(group, most) for group in groups)):
        given = {spec.name: spec for group in shares for spec in group}
        choices.append(
            tuple(
                given.get(spec.name, spec)
                for spec in specs
                if spec.name in given or spec.name not in shared
            )
        )
    return tuple(choices)


def _shares(group: Sequence[TargetSpec], most: float) -> tuple[tuple[TargetSpec, ...], ...]:
    return tuple(
        tuple(
            dataclasses.replace(spec, cpu=dataclasses.replace(spec.cpu, cores=threads))
            for spec, threads in zip(group, parts, strict=False)
        )
        for parts in _splits(group[0].cpu.cores, len(group), most)
    )


def _splits(cores: int, most_parts: int, most: float) -> tuple[tuple[int, ...], ...]:
    """Ways to share cores, each in non-increasing order; the larger ones first."""
    if cores <= _ALL_WAYS_CORES:
        return tuple(_partitions(cores, most_parts, cores))
    sizes = _sizes(cores, most_parts, most)
    found = {_even(cores, parts) for parts in range(1, min(most_parts, cores) + 1)}
    for count in range(min(most_parts, cores)):
        for others in itertools.combinations_with_replacement(sizes, count):
            largest = cores - sum(others)
            if largest >= max(others, default=1):
                found.add((largest, *others))
    return tuple(sorted(found, reverse=True))


def _sizes(cores: int, most_parts: int, most: float) -> list[int]:
    """Threads of all stages but the largest, in falling order; as many as `most` ways allow."""
    powers = [1 << bit for bit in range(cores.bit_length())]
    ladders = [sorted({*powers, *(3 * power for power in powers)})]
    ladders += [powers[::step] for step in range(1, len(powers) + 1)]
    for ladder in ladders:
        sizes = [size for size in reversed(ladder) if 2 * size <= cores]
        if math.comb(len(sizes) + most_parts - 1, most_parts - 1) <= most:
            return sizes
    return [1]


def _even(total: int, parts: int) -> tuple[int, ...]:
    size, more = divmod(total, parts)
    return (size + 1,) * more + (size,) * (parts - more)


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
