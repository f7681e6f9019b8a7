"""Which devices share a machine, where the caller is, and the hops between them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tvm_iovt import targets
from tvm_iovt.planning.links import ETHERNET, parse_link, parse_links
from tvm_iovt.planning.places import HERE, devices_of, home_of, machine_of, routes_of
from tvm_iovt.types import Link, TargetSpec
from tvm_iovt.unit_times import profile_of


def named(name: str, base: str = "arm", **changes: object) -> TargetSpec:
    return dataclasses.replace(targets.load(base), name=name, **changes)


HOST = targets.load("host")
ARM = targets.load("arm")
CUDA_ON_ARM = targets.load_all("arm,cuda")[1]


def hops(route) -> list[tuple[str, str]]:
    return [(hop.src, hop.dst) for hop in route.hops]


def test_a_gpu_is_a_part_of_the_machine_that_launches_its_kernels():
    assert machine_of(CUDA_ON_ARM, (ARM, CUDA_ON_ARM)) == machine_of(ARM, (ARM, CUDA_ON_ARM))
    assert home_of((ARM, CUDA_ON_ARM)) == "arm"


def test_a_gpu_without_a_cpu_in_the_list_is_this_machines():
    cuda = targets.load("cuda")
    assert machine_of(cuda, (cuda,)) == HERE


@pytest.mark.parametrize(
    ("names", "machines"),
    [
        (("arm", "arm~2"), {"arm", "arm~2"}),
        (("arm/1", "arm/1~2"), {"arm"}),
        (("host", "host~2"), {"host"}),
        (("./3d/a.toml", "./3d/b.toml"), {"./3d/a.toml", "./3d/b.toml"}),
        (("./3d/a.toml/1", "./3d/a.toml/1~2"), {"./3d/a.toml"}),
    ],
)
def test_targets_named_twice(names, machines):
    specs = [named(name) for name in names]
    assert {machine_of(spec, specs) for spec in specs} == machines


def test_a_stated_machine_wins():
    specs = [named("a", machine="box"), named("b", machine="box")]
    assert home_of(specs) == "box"


def test_boards_of_their_own_are_reached_through_this_machine():
    board, other = named("arm"), named("arm~2")
    routes = routes_of((HOST, board, other))
    host, a, b, home = range(4)
    assert hops(routes[host][a]) == [("host", "arm")]
    assert hops(routes[a][b]) == [("arm", "host"), ("host", "arm~2")]
    assert hops(routes[b][home]) == [("arm~2", "host")]
    assert hops(routes[host][home]) == hops(routes[a][a]) == []


def test_a_gpu_is_behind_its_bus():
    routes = routes_of((ARM, CUDA_ON_ARM))
    cpu, gpu, home = range(3)
    assert len(routes[cpu][gpu].hops) == len(routes[gpu][cpu].hops) == 1
    assert len(routes[gpu][home].hops) == 1
    assert routes[cpu][home].hops == ()


def test_stages_of_one_machine_hand_on_their_tensors():
    specs = [named("host/1", "host"), named("host/1~2", "host")]
    (hop,) = routes_of(specs)[0][1].hops
    assert hop.latency_s < 1e-3
    assert hop.bytes_per_s > 1e8


def test_stated_links_come_before_those_of_the_target_and_these_before_assumed_ones():
    board = named("arm", links=(Link(src="arm", dst="host", bytes_per_s=5e6, latency_s=0.25),))

    def hop(spec: TargetSpec, *texts: str) -> Link:
        (found,) = routes_of((HOST, spec), [parse_link(text) for text in texts])[0][1].hops
        return found

    assert hop(board).bytes_per_s == 5e6
    assert hop(board, "arm=1MB,1ms").bytes_per_s == 1e6
    assert hop(named("arm")).source == "assumed"


def costs(*specs: TargetSpec, **options: Any) -> list[float]:
    return [device.stage_s for device in devices_of(specs, **options)]


def measured(spec: TargetSpec, stage_s: float) -> TargetSpec:
    return dataclasses.replace(
        spec, profile=dataclasses.replace(profile_of(spec), source="measured", stage_s=stage_s)
    )


def test_a_stage_of_the_callers_machine_costs_what_was_measured_there():
    here = measured(dataclasses.replace(HOST, name="host/1"), 42e-6)
    again = dataclasses.replace(here, name="host/1~2")
    assert costs(here, again) == [42e-6, 42e-6]
    gpu = targets.load("cuda")
    assert costs(here, gpu) == [42e-6, 42e-6]  # the same process launches its kernels


def test_a_stage_that_nobody_measured_costs_something():
    specs = [dataclasses.replace(HOST, name=name, profile=None) for name in ("host/1", "host/1~2")]
    first, second = costs(*specs)
    assert first == second
    assert 10e-6 < first < 1e-3


def test_a_stage_behind_a_link_waits_for_two_messages():
    here, there = measured(HOST, 42e-6), measured(ARM, 50e-6)
    (link,) = parse_links(("arm=100Mbit/s,3ms",), ["host", "arm"])
    assert costs(here, there, stated=[link]) == [42e-6, 6e-3]
    assert costs(here, there)[1] == 2 * ETHERNET[1]
    assert costs(here, there, pipeline=False) == [0.0, 0.0]


def with_memory(
    spec: TargetSpec, *rates: tuple[int, float], cache_bytes: int = 1 << 20
) -> TargetSpec:
    profile = profile_of(spec)
    roofs = tuple(
        dataclasses.replace(profile.roofs[0], threads=threads, bandwidth_bytes_per_s=rate)
        for threads, rate in rates
    )
    profile = dataclasses.replace(profile, roofs=roofs, cache_bytes=cache_bytes)
    return dataclasses.replace(spec, profile=profile)


def memories(*specs: TargetSpec) -> list[tuple[str, float, int]]:
    return [
        (device.memory_group, device.shared_bandwidth_bytes_per_s, device.cache_bytes)
        for device in devices_of(specs)
    ]


def one_core(name: str, *rates: tuple[int, float], **options: int) -> TargetSpec:
    spec = named(name, cpu=dataclasses.replace(ARM.cpu, cores=1))
    return with_memory(spec, *rates, **options)


def test_cpus_of_a_machine_share_what_its_memory_can_do():
    rates = ((1, 5e9), (4, 12e9))
    pair = [one_core(name, *rates) for name in ("arm/1", "arm/1~2")]
    assert memories(*pair) == [("arm", 12e9, 1 << 20)] * 2
    # nobody measured more than a thread: two get no more than twice as much
    pair = [one_core(name, (1, 5e9)) for name in ("arm/1", "arm/1~2")]
    assert memories(*pair) == [("arm", 10e9, 1 << 20)] * 2


def test_of_a_memory_behind_an_unknown_cache_nothing_is_said():
    assert memories(one_core("arm/1", (1, 5e9), cache_bytes=0)) == [("arm", 0.0, 0)]
    assert memories(dataclasses.replace(HOST, profile=None))[0][1] == 0.0


def test_a_gpu_shares_the_memory_of_a_machine_that_it_names():
    gpu = with_memory(CUDA_ON_ARM, (1, 100e9))
    assert [group for group, *_ in memories(ARM, gpu)] == ["arm", ""]
    board = dataclasses.replace(gpu, machine="board")
    cpu = with_memory(dataclasses.replace(ARM, machine="board"), (1, 5e9), (4, 20e9))
    assert memories(cpu, board) == [("board", 20e9, 1 << 20), ("board", 100e9, 1 << 20)]


def test_parts_of_another_machine_exchange_tensors_through_this_one():
    first, second = named("arm/2"), named("arm/2~2")
    link = parse_link("arm/2~2=1MB,1ms")
    routes = routes_of((HOST, first, second), (link,))
    _, a, b, home = range(4)
    assert hops(routes[a][b]) == [("arm/2", "host"), ("host", "arm/2~2")]
    there, back = routes[a][b], routes[b][a]
    nbytes = 1_000_000
    assert there.latency_s(nbytes) == pytest.approx(
        routes[a][home].latency_s(nbytes) + routes[home][b].latency_s(nbytes)
    )
    assert there.latency_s(nbytes) == pytest.approx(back.latency_s(nbytes))
    assert there.hops[1].bytes_per_s == 1e6


def test_so_do_the_cpu_and_the_gpu_of_another_machine():
    routes = routes_of((HOST, ARM, CUDA_ON_ARM))
    _, cpu, gpu, _ = range(4)
    bus = f"CPU of {CUDA_ON_ARM.name}"
    to_gpu = [("arm", "host"), ("host", "cuda"), (bus, "cuda")]
    assert hops(routes[cpu][gpu]) == to_gpu
    assert hops(routes[gpu][cpu]) == [(b, a) for a, b in reversed(to_gpu)]


def test_on_the_callers_machine_tensors_stay():
    parts = (named("arm/2"), named("arm/2~2"))
    assert [len(routes_of(parts)[0][1].hops)] == [1]
    (hop,) = routes_of((HOST, *parts), home="arm")[1][2].hops
    assert hop.latency_s < 1e-3
