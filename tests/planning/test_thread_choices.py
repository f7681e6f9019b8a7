"""Cores as a variable of the plan."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

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


def splits(count: int, total: int) -> list[tuple[int, ...]]:
    specs = [device(f"host~{i}", total) for i in range(count)]
    return [tuple(spec.cpu.cores for spec in choice) for choice in thread_choices(specs)]


@pytest.mark.parametrize("total", range(1, 9))
@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_up_to_eight_cores_every_way_to_share_them_is_a_choice(count: int, total: int):
    every = {
        parts
        for used in range(1, count + 1)
        for parts in itertools.combinations_with_replacement(range(total, 0, -1), used)
        if sum(parts) == total
    }
    found = splits(count, total)
    assert len(found) == len(set(found))
    assert set(found) == every


@pytest.mark.parametrize("total", [9, 12, 16, 64, 100, 128, 256])
@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_many_cores_are_shared_in_some_ways(count: int, total: int):
    found = splits(count, total)
    assert len(found) == len(set(found)) < 200
    assert all(sum(parts) == total and min(parts) > 0 for parts in found)
    assert all(list(parts) == sorted(parts, reverse=True) for parts in found)
    assert (total,) in found
    assert (total - 1, 1) in found
    for used in range(2, count + 1):
        even = next(parts for parts in found if len(parts) == used and parts[0] - parts[-1] <= 1)
        assert sum(even) == total


def test_two_stages_on_many_cores_need_few_numbers_of_threads():
    found = splits(2, 128)
    assert {(126, 2), (125, 3), (112, 16), (64, 64)} < set(found)
    assert len({threads for parts in found for threads in parts}) < 30


def test_shares_of_several_machines_are_few_together():
    boxes = [
        dataclasses.replace(device(f"{box}~{i}", 64), machine=box) for box in "ab" for i in range(3)
    ]
    assert len(thread_choices(boxes)) < 200
