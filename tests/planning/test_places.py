"""Which devices share a machine, where the caller is, and the hops between them."""

from __future__ import annotations

import dataclasses

import pytest

from tvm_iovt import targets
from tvm_iovt.planning.links import parse_link
from tvm_iovt.planning.places import HERE, home_of, machine_of, routes_of
from tvm_iovt.types import Link, TargetSpec


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
