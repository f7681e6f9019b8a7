"""Evaluations: by hand for one network, and equal to the enumeration's numbers for many."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict

import pytest

from tvm_iovt.cost_graph import INPUT, CostGraph, Edge, Unit
from tvm_iovt.errors import IovtError, UsageError
from tvm_iovt.partition.evaluate import Evaluator, evaluate, megabytes
from tvm_iovt.partition.placement import Placement, placement_of, plan_stages
from tvm_iovt.partition.problem import Device, Problem, Route
from tvm_iovt.types import Link, TensorSpec


def tensor(name: str, producer: int, *readers: int, size: int, output: bool = False) -> Edge:
    spec = TensorSpec(name=name, shape=(size,), dtype="uint8")
    return Edge(spec=spec, producer=producer, consumers=readers, is_output=output)


def unit(index: int, name: str, activations: int, weights: int) -> Unit:
    return Unit(
        index=index,
        name=name,
        operators=(name,),
        kind="conv",
        flops=10,
        bytes_in=activations,
        bytes_out=0,
        bytes_weights=weights,
    )


def link(start: str, end: str, rate: float, latency: float) -> Link:
    return Link(src=start, dst=end, bytes_per_s=rate, latency_s=latency)


@pytest.fixture
def problem() -> Problem:
    """Stem, left and right branch of which right is an output, join; from home `h` to a and b."""
    graph = CostGraph(
        units=(
            unit(0, "stem", 5, 7),
            unit(1, "left", 9, 0),
            unit(2, "right", 2, 1),
            unit(3, "join", 4, 100),
        ),
        edges=(
            tensor("image", INPUT, 0, size=10),
            tensor("features", 0, 1, 2, size=20),
            tensor("l", 1, 3, size=3),
            tensor("r", 2, 3, size=4, output=True),
            tensor("y", 3, size=1, output=True),
        ),
    )
    none = Route()
    home_a = Route(hops=(link("h", "a", 10, 0.5),))
    a_b = Route(hops=(link("a", "h", 10, 0.5), link("h", "b", 5, 1.0)))
    b_home = Route(hops=(link("b", "h", 5, 0.25),))
    return Problem(
        graph=graph,
        devices=(
            Device(name="a", stage_s=0.1, active_w=2.0),
            Device(name="b", memory_bytes=200),
        ),
        unit_s=((1.0, 2.0, 3.0, 4.0), (0.5, math.inf, 0.5, 0.5)),
        routes=((none, a_b, home_a), (none, none, b_home), (home_a, none, none)),
    )


def test_by_hand(problem):
    placement = Placement(stages=((0, (0, 1)), (1, (2, 3))))
    found = evaluate(problem, placement, source="measured", noise=0.1)
    first, second = found.prediction.stages
    assert not found.obstacle
    # image 10 B over home_a; features and l 23 B over two hops; r and y 5 B over b_home
    assert (first.bytes_in, second.bytes_in) == (10, 23)
    assert first.receive_s == pytest.approx(0.5 + 1.0)
    assert first.compute_s == pytest.approx(1 + 2 + 0.1)
    assert second.receive_s == pytest.approx(0.5 + 2.3 + 1.0 + 4.6)
    assert second.compute_s == pytest.approx(1.0)
    assert (first.send_s, second.send_s) == (0, pytest.approx(0.25 + 1.0))
    assert found.prediction.latency_s == pytest.approx(1.5 + 3.1 + 8.4 + 1.0 + 1.25)
    assert found.prediction.period_s == pytest.approx(1.0 + 4.6)  # the slower hop
    assert first.memory_bytes == 7 + 9 + 2 * (10 + 23)
    assert second.memory_bytes == 101 + 4 + 2 * (23 + 5)
    assert found.prediction.energy_j == pytest.approx(6.2)
    assert (found.prediction.source, found.prediction.noise) == ("measured", 0.1)


def test_stages_name_what_they_read_and_make(problem):
    stages = plan_stages(problem, Placement(stages=((0, (0, 2)), (1, (1, 3)))))
    assert [[spec.name for spec in stage.inputs] for stage in stages] == [
        ["image"],
        ["features", "r"],
    ]
    assert [[spec.name for spec in stage.outputs] for stage in stages] == [
        ["features", "r"],
        ["y"],
    ]
    assert [stage.units for stage in stages] == [("stem", "right"), ("left", "join")]
    assert [stage.target for stage in stages] == ["a", "b"]


def test_obstacles_name_the_stage_and_the_numbers(problem):
    left = evaluate(problem, Placement(stages=((0, (0,)), (1, (1, 2, 3)))))
    assert left.obstacle == "b cannot run left"
    assert left.value("latency") == math.inf
    small = Problem(
        graph=problem.graph,
        devices=(problem.devices[0], Device(name="b", memory_bytes=150)),
        unit_s=problem.unit_s,
        routes=problem.routes,
    )
    big = evaluate(small, Placement(stages=((0, (0, 1)), (1, (2, 3)))))
    assert big.obstacle == "stage 1 needs 161 B on b, which has 150 B"


@pytest.mark.parametrize(
    "stages",
    [
        ((0, (0, 3)), (1, (1, 2))),  # join before its branches
        ((0, (0, 1)), (0, (2, 3))),  # a device twice
        ((0, (0, 1)), (1, (2,))),  # join is missing
        ((0, (0, 1, 2, 3)), (1, ())),
        ((5, (0, 1, 2, 3)),),
        (),
    ],
)
def test_what_is_no_placement_is_refused(problem, stages):
    with pytest.raises(IovtError, match="do not make the network"):
        evaluate(problem, Placement(stages=stages))


@pytest.mark.parametrize("sharing", [False, True])
def test_evaluations_equal_the_enumeration(sharing, make_problem, all_placements):
    """Every feasible placement by closed sets is evaluated to the numbers counted by hand."""
    compared = 0
    for seed in range(60):
        problem = make_problem(seed, units=4, devices=2, chain=False, sharing=sharing)
        counted = defaultdict(list)
        for one in all_placements(problem):
            counted[one.devices].append((one.latency, one.throughput, one.memory, one.energy))
        evaluator = Evaluator(problem)
        found = defaultdict(list)
        for mask in range(1, 16):
            ahead = tuple(u for u in range(4) if mask >> u & 1)
            behind = tuple(u for u in range(4) if not mask >> u & 1)
            for first in (0, 1):
                stages = ((first, ahead), (1 - first, behind)) if behind else ((first, ahead),)
                try:
                    one = evaluator.evaluate(Placement(stages=stages))
                except IovtError:
                    continue  # not closed
                if not one.obstacle:
                    names = ("latency", "throughput", "memory", "energy")
                    found[one.placement.devices].append(tuple(map(one.value, names)))
        assert set(found) == set(counted)
        for devices, rows in found.items():
            expected = sorted(counted[devices])
            for row, other in zip(sorted(rows), expected, strict=True):
                assert row == pytest.approx(other)
                compared += 1
    assert compared > 300


def test_plans_name_their_placements(problem):
    placement = Placement(stages=((0, (0, 2)), (1, (1, 3))))
    assert placement_of(problem, plan_stages(problem, placement)) == placement
    (whole,) = plan_stages(problem, Placement.whole(1, 4))
    assert whole.inputs[0].name == "image"
    with pytest.raises(UsageError, match="does not fit this network") as caught:
        placement_of(problem, (dataclasses.replace(whole, target="c"),))
    assert "'c'" in caught.value.seen
    with pytest.raises(UsageError, match="do not make the network"):
        placement_of(problem, plan_stages(problem, placement)[::-1])


def test_sizes_for_people():
    assert [megabytes(n) for n in (640, 12_345, 800_000, 12_340_000)] == [
        "640 B",
        "12.3 kB",
        "0.80 MB",
        "12.3 MB",
    ]


def test_a_stage_pays_only_beside_others(problem):
    """What a stage of a pipeline costs is counted where there are several, and told apart."""
    piped = evaluate(problem, Placement(stages=((0, (0, 1)), (1, (2, 3))))).prediction
    assert [stage.overhead_s for stage in piped.stages] == [0.1, 0.0]  # b's cost nothing
    assert [stage.compute_s for stage in piped.stages] == pytest.approx([3.1, 1.0])
    assert [stage.kernels_s for stage in piped.stages] == pytest.approx([3.0, 1.0])
    both = dataclasses.replace(
        problem,
        devices=tuple(dataclasses.replace(device, stage_s=0.1) for device in problem.devices),
    )
    two = evaluate(both, Placement(stages=((0, (0, 1)), (1, (2, 3))))).prediction
    assert [stage.overhead_s for stage in two.stages] == [0.1, 0.1]
    assert two.latency_s == pytest.approx(piped.latency_s + 0.1)
    (whole,) = evaluate(both, Placement.whole(0, 4)).prediction.stages
    assert whole.overhead_s == 0.0
    assert whole.compute_s == whole.kernels_s == pytest.approx(10.0)
