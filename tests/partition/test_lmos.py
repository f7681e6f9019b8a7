"""LMOS: the Pareto set equals enumeration, the knee follows its rule, limits are kept."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from tvm_iovt.cost_graph import INPUT, CostGraph, Edge, Unit
from tvm_iovt.errors import IovtError, UsageError
from tvm_iovt.partition.evaluate import evaluate
from tvm_iovt.partition.lmos import Split, knee, pareto_front, plan_lmos, splits
from tvm_iovt.partition.planner import plan
from tvm_iovt.partition.problem import BUFFERS, Device, Problem, Route
from tvm_iovt.types import Link, TensorSpec


def random_problem(random: np.random.Generator, *, memory_bytes: int = 0) -> Problem:
    """A camera on the edge device; a residual edge now and then; ties in times and bytes."""
    count = int(random.integers(1, 13))
    units = tuple(
        Unit(
            index=i,
            name=f"u{i}",
            operators=(f"op{i}",),
            kind="conv",
            flops=int(random.integers(1, 100)),
            bytes_in=int(random.integers(1, 5)) * 100,
            bytes_out=int(random.integers(1, 5)) * 100,
            bytes_weights=int(random.integers(0, 6)) * 500,
        )
        for i in range(count)
    )
    edges = []
    for i in range(INPUT, count):
        last = i == count - 1
        consumers = () if last else {i + 1, int(random.integers(i + 1, min(i + 4, count)))}
        size = int(random.integers(1, 9)) * 100
        spec = TensorSpec(name=f"t{i}", shape=(size,), dtype="uint8")
        edges.append(
            Edge(spec=spec, producer=i, consumers=tuple(sorted(consumers)), is_output=last)
        )
    there = Route(
        hops=(Link(src="edge", dst="cloud", bytes_per_s=float(random.integers(1, 4)) * 100,
                   latency_s=float(random.integers(0, 3))),)
    )  # fmt: skip
    none = Route()
    return Problem(
        graph=CostGraph(units=units, edges=tuple(edges)),
        devices=(
            Device(name="edge", memory_bytes=memory_bytes, stage_s=0.5),
            Device(name="cloud", stage_s=0.25),
        ),
        unit_s=(
            tuple(random.integers(1, 9, count).astype(float).tolist()),
            tuple((random.integers(1, 9, count) / 4).tolist()),
        ),
        routes=((none, there, none), (there, none, there), (none, there, none)),
    )


def beats(one: Split, other: Split) -> bool:
    """Whether it is no worse in both objectives, and better in one."""
    mine, others = (-one.latency_s, one.edge_bytes), (-other.latency_s, other.edge_bytes)
    return mine != others and mine[0] >= others[0] and mine[1] >= others[1]


def test_latency_and_bytes_are_those_of_the_network() -> None:
    random = np.random.default_rng(0)
    for _ in range(100):
        problem = random_problem(random)
        graph, (edge_s, cloud_s) = problem.graph, problem.unit_s
        link, units = problem.routes[0][1].hops[0], len(graph.units)
        for split in splits(problem, 0, 1):
            p = split.position
            by_hand = sum(edge_s[:p]) + sum(cloud_s[p:])
            by_hand += 0.75 * (0 < p < units)  # a lone stage is just called
            if p < units:
                by_hand += link.time_s(graph.crossing_bytes[p])
                by_hand += link.time_s(graph.crossing_bytes[units])
            assert split.latency_s == pytest.approx(by_hand)
            if p:
                weights = sum(unit.bytes_weights for unit in graph.units[:p])
                working = max(unit.bytes_in + unit.bytes_out for unit in graph.units[:p])
                buffers = BUFFERS * (graph.crossing_bytes[0] + graph.crossing_bytes[p])
                assert split.edge_bytes == weights + working + buffers
            else:
                assert split.edge_bytes == 0


def test_the_front_equals_enumeration() -> None:
    random = np.random.default_rng(1)
    sizes = []
    for _ in range(1500):
        problem = random_problem(random, memory_bytes=int(random.integers(1, 10)) * 2000)
        share = float(random.uniform(0.2, 1))
        limit = share * problem.devices[0].memory_bytes
        feasible = [s for s in splits(problem, 0, 1) if s.edge_bytes <= limit and not s.obstacle]
        found = plan_lmos(problem, memory_share=share)
        unbeaten = [s for s in feasible if not any(beats(other, s) for other in feasible)]
        assert sorted(found.front, key=lambda s: s.position) == unbeaten
        assert found.limit_bytes == limit
        assert found.split in unbeaten
        sizes.append(len(unbeaten))
    assert max(sizes) >= 5
    assert min(sizes) == 1


def test_equals_are_all_kept() -> None:
    random = np.random.default_rng(2)
    for _ in range(500):
        points = [
            Split(position=i, latency_s=float(a), edge_bytes=int(b))
            for i, (a, b) in enumerate(random.integers(0, 4, (int(random.integers(1, 12)), 2)))
        ]
        unbeaten = {s for s in points if not any(beats(other, s) for other in points)}
        front = pareto_front(points)
        assert set(front) == unbeaten
        assert len(front) == len(unbeaten)
        assert [s.latency_s for s in front] == sorted(s.latency_s for s in front)


def split(latency_s: float, edge_bytes: int) -> Split:
    return Split(position=0, latency_s=latency_s, edge_bytes=edge_bytes)


def test_the_knee_is_farthest_from_the_line_between_the_ends() -> None:
    bent = [split(10, 0), split(11, 50), split(12, 80), split(16, 90), split(20, 100)]
    assert knee(bent) == bent[2]
    hollow = [split(10, 0), split(18, 30), split(20, 100)]
    assert knee(hollow) == hollow[0]  # nothing on the good side; the faster end
    assert knee(bent[:1]) == bent[0]
    assert knee([split(1, 5), split(1, 5)]) == split(1, 5)


def test_the_knee_is_the_farthest_point_in_the_plane() -> None:
    random = np.random.default_rng(3)
    for _ in range(300):
        front = pareto_front(splits(random_problem(random), 0, 1))
        latencies = np.array([s.latency_s for s in front])
        sizes = np.array([float(s.edge_bytes) for s in front])
        if len(front) < 3 or np.ptp(latencies) == 0:
            continue
        x, y = (latencies - latencies[0]) / np.ptp(latencies), (sizes - sizes[0]) / np.ptp(sizes)
        distance = (y - x) / math.sqrt(2)  # of a point from the diagonal, signed
        chosen = front.index(knee(front))
        assert distance[chosen] == pytest.approx(distance.max())


def test_latency_first_takes_the_memory_that_latency_leaves() -> None:
    random = np.random.default_rng(4)
    used_slack = 0
    for _ in range(300):
        problem = random_problem(random, memory_bytes=9000)
        feasible = [s for s in splits(problem, 0, 1) if s.edge_bytes <= 4500 and not s.obstacle]
        least_s = min(s.latency_s for s in feasible)
        strict = plan_lmos(problem, rule="latency-first", memory_share=0.5).split
        assert strict.latency_s == least_s
        loose = plan_lmos(problem, rule="latency-first", memory_share=0.5, slack=0.2).split
        assert loose.latency_s <= 1.2 * least_s
        fast = [s.edge_bytes for s in feasible if s.latency_s <= 1.2 * least_s]
        assert loose.edge_bytes == max(fast)
        used_slack += loose.edge_bytes > strict.edge_bytes
    assert used_slack > 20


def test_latency_only_ignores_the_limit() -> None:
    random = np.random.default_rng(5)
    beyond = 0
    for _ in range(300):
        problem = random_problem(random, memory_bytes=20_000)
        plan = plan_lmos(problem, rule="latency-only")
        possible = [s for s in splits(problem, 0, 1) if not s.obstacle]
        assert plan.split.latency_s == min(s.latency_s for s in possible)
        assert plan.limit_bytes == 2000
        beyond += plan.split.edge_bytes > plan.limit_bytes
    assert beyond > 20


def test_the_plan_is_a_placement_with_the_promised_latency() -> None:
    random = np.random.default_rng(6)
    for _ in range(100):
        problem = random_problem(random)
        plan = plan_lmos(problem)
        assert plan.limit_bytes == math.inf
        prediction = evaluate(problem, plan.placement(problem, 0, 1)).prediction
        assert prediction.latency_s == plan.split.latency_s
        assert f"{plan.split.position} of {len(problem.graph.units)} units on edge" in plan.reason


def test_without_a_limit_the_fastest_split_is_the_planners() -> None:
    random = np.random.default_rng(7)
    for _ in range(60):
        problem = random_problem(random)
        best = plan(problem, order=(0, 1)).prediction
        assert best is not None
        assert plan_lmos(problem, rule="latency-only").split.latency_s == best.latency_s


def test_units_that_the_edge_cannot_run_stay_in_the_cloud() -> None:
    problem = random_problem(np.random.default_rng(8))
    units = len(problem.graph.units)
    assert units > 3
    edge_s = (*problem.unit_s[0][:2], math.inf, *problem.unit_s[0][3:])
    problem = dataclasses.replace(problem, unit_s=(edge_s, problem.unit_s[1]))
    assert {s.position for s in plan_lmos(problem).front} <= {0, 1, 2}
    nowhere = dataclasses.replace(problem, unit_s=((math.inf,) * units,) * 2)
    with pytest.raises(UsageError, match="No split") as caught:
        plan_lmos(nowhere)
    assert "cannot run u0" in caught.value.seen


def test_a_limit_that_nothing_meets_is_an_error_with_numbers() -> None:
    problem = random_problem(np.random.default_rng(8), memory_bytes=100_000)
    units = len(problem.graph.units)
    cloud_s = (*problem.unit_s[1][:-1], math.inf)
    only_edge = dataclasses.replace(problem, unit_s=(problem.unit_s[0], cloud_s))
    assert plan_lmos(only_edge, memory_share=1.0).split.position == units
    with pytest.raises(UsageError, match="No split") as caught:
        plan_lmos(only_edge, memory_share=0.001)
    assert "kB of the edge's memory, the limit is 100 B" in caught.value.seen


def test_choices_that_make_no_sense_are_refused() -> None:
    problem = random_problem(np.random.default_rng(0))
    for wrong in ({"rule": "best"}, {"memory_share": 0.0}, {"slack": -1.0}):
        with pytest.raises(IovtError, match="cannot choose"):
            plan_lmos(problem, **wrong)
    for pair in ((0, 0), (0, 2)):
        with pytest.raises(IovtError, match="two devices"):
            splits(problem, *pair)
