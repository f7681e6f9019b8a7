"""Cores as a variable of the plan."""

from __future__ import annotations

import dataclasses

from tvm_iovt import targets
from tvm_iovt.planning.thread_choices import thread_choices
from tvm_iovt.types import TargetSpec


def device(name: str, cores: int, *, gpu: bool = False) -> TargetSpec:
    spec = targets.load("cuda@arm" if gpu else "arm")
    return dataclasses.replace(
        spec, name=name, machine="box", cpu=dataclasses.replace(spec.cpu, cores=cores)
    )


def cores(choices: tuple[tuple[TargetSpec, ...], ...]) -> list[list[tuple[str, int]]]:
    return [[(spec.name, spec.cpu.cores) for spec in choice] for choice in choices]


def test_equal_devices_share_the_cores_of_their_machine_in_every_way():
    found = cores(thread_choices([device("host", 4), device("host~2", 4)]))
    assert found == [
        [("host", 4)],
        [("host", 3), ("host~2", 1)],
        [("host", 2), ("host~2", 2)],
    ]


def test_stated_threads_leave_no_choice():
    specs = [device("host/1", 1), device("host/1~2", 1)]
    assert thread_choices(specs) == (tuple(specs),)


def test_a_single_device_keeps_its_cores():
    specs = [device("host", 4), device("cuda", 4, gpu=True)]
    assert thread_choices(specs) == (tuple(specs),)


def test_devices_of_other_machines_are_in_every_choice():
    board = dataclasses.replace(device("arm", 2), machine="board")
    found = cores(thread_choices([device("host", 2), board, device("host~2", 2)]))
    assert found == [
        [("host", 2), ("arm", 2)],
        [("host", 1), ("arm", 2), ("host~2", 1)],
    ]
