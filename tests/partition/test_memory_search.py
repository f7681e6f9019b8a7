"""Periods with shared memories equal the enumeration of all placements; gaps are kept."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest

from tvm_iovt.partition import memory_search, path_walk
from tvm_iovt.partition.evaluate import Evaluator
from tvm_iovt.partition.methods import best_by_count, of_less_latency
from tvm_iovt.partition.planner import plan, plan_cuts


def binds(prediction) -> bool:
    longest_s = max(stage.compute_s for stage in prediction.stages)
    return prediction.memory_s >= prediction.period_s > longest_s * (1 + 1e-9)


def least_by_count(counted):
    found = {}
    for one in counted:
        count = len(one.devices)
        found[count] = min(found.get(count, math.inf), one.throughput)
    return found


@pytest.mark.parametrize("part", range(3))
def test_periods_of_every_number_of_stages_equal_enumeration(
    part, make_problem, all_placements, along_order
):
    bound = 0
    for seed in range(part * 250, part * 250 + 250):
        rng = random.Random(-seed)
        devices = rng.randrange(2, 5)
        units = rng.randrange(2, 7 if devices < 4 else 6)
        chain = rng.random() < 0.5
        problem = make_problem(seed, units=units, devices=devices, chain=chain, sharing=True)
        counted = all_placements(problem)
        order = None
        if rng.random() < 0.3:
            order = rng.sample(range(devices), rng.randrange(1, devices + 1))
            counted = along_order(counted, order)
        found = best_by_count(Evaluator(problem), "throughput", order)
        assert not found.note
        expected = least_by_count(counted)
        assert set(found.by_count) == set(expected)
        for count, one in found.by_count.items():
            assert math.isclose(one.value("throughput"), expected[count], abs_tol=1e-9)
            bound += binds(one.prediction)
    assert bound > 12


def two_memories(problem):
    """Devices of two boards by turns, on a chain, that often wait for both memories."""
    devices = tuple(
        dataclasses.replace(
            device, memory_group="ab"[i % 2], shared_bandwidth_bytes_per_s=(12.0, 9.0)[i % 2]
        )
        for i, device in enumerate(problem.devices)
    )
    edges = tuple(
        dataclasses.replace(edge, consumers=edge.consumers[:1]) for edge in problem.graph.edges
    )
    graph = dataclasses.replace(problem.graph, edges=edges)
    return dataclasses.replace(problem, devices=devices, graph=graph)


@pytest.mark.parametrize("nodes", [3000, 2])
def test_several_memories_at_once_equal_enumeration(
    nodes, make_problem, all_placements, along_order, monkeypatch
):
    """Also where weights are left to the walk; if that ends early it is told."""
    monkeypatch.setattr(memory_search, "_BALANCES", 1)
    monkeypatch.setattr(path_walk, "_NODES", nodes)
    walks = []
    walk = path_walk.PathWalk.best_below

    def counting(*args):
        walks.append(args)
        return walk(*args)

    monkeypatch.setattr(path_walk.PathWalk, "best_below", counting)
    order = (0, 1, 2, 3)
    told = 0
    for seed in range(100):
        problem = two_memories(
            make_problem(seed, units=6, devices=4, chain=True, limits=False, sharing=True)
        )
        counted = along_order(all_placements(problem, prefixes_only=True), order)
        if not counted:
            continue
        found = best_by_count(Evaluator(problem), "throughput", order)
        expected = least_by_count(counted)
        if nodes > 2:
            for count, one in found.by_count.items():
                assert math.isclose(one.value("throughput"), expected[count], abs_tol=1e-9)
        made = min(one.value("throughput") for one in found.by_count.values())
        best = min(expected.values())
        told += bool(found.note)
        assert found.note or math.isclose(made, best, abs_tol=1e-9)
        if found.note:
            assert made <= best * (
                1 + float(found.note.split("at most ")[1].split("%")[0]) / 100 + 1e-4
            )
    assert len(walks) > 5
    assert (told > 0) == (nodes == 2)


def test_plans_are_the_fastest_of_the_best(make_problem, all_placements):
    """Of the placements of least period, and of those within a bound, the least latency."""
    bound = 0
    for seed in range(200):
        problem = make_problem(seed, units=5, devices=3, chain=seed % 2 == 0, sharing=True)
        counted = all_placements(problem)
        if not counted:
            continue
        made = plan(problem, "throughput").prediction
        best = min(one.throughput for one in counted)
        assert math.isclose(made.period_s, best, abs_tol=1e-9)
        near = [one for one in counted if one.throughput <= best * (1 + 1e-8) + 1e-12]
        fewest = min(len(one.devices) for one in near)
        assert len(made.stages) == fewest
        if fewest > 1:
            fastest = min(one.latency for one in near if len(one.devices) == fewest)
            assert math.isclose(made.latency_s, fastest, rel_tol=1e-6, abs_tol=1e-9)
            bound += binds(made)
    assert bound > 5


@pytest.mark.parametrize("mixes", [1, 12])
def test_the_least_latency_within_a_bound_equals_enumeration(
    mixes, make_problem, all_placements, monkeypatch
):
    monkeypatch.setattr(memory_search, "_MIXES", mixes)
    monkeypatch.setattr(memory_search, "_FEW_PASSES", 0)
    kept_out = 0
    for seed in range(150):
        rng = random.Random(seed)
        problem = make_problem(seed, units=5, devices=3, chain=seed % 2 == 0, sharing=True)
        devices = tuple(
            dataclasses.replace(
                device, memory_group="a", shared_bandwidth_bytes_per_s=6.0, cache_bytes=0
            )
            for device in problem.devices
        )
        problem = dataclasses.replace(problem, devices=devices)
        counted = [one for one in all_placements(problem) if len(one.devices) == 2]
        if not counted:
            continue
        bound_s = min(one.throughput for one in counted) * rng.uniform(1.0, 1.5) + 1e-9
        found = best_by_count(Evaluator(problem), "throughput")
        path = memory_search.fastest_within(found.points, None, 2, bound_s)
        fastest = min(one.latency for one in counted if one.throughput <= bound_s * (1 + 1e-9))
        assert path is not None
        assert math.isclose(path.cost, fastest, rel_tol=1e-6)
        stages = [(d, found.points.units_between(a, b)) for d, a, b in path.stages]
        placement = dataclasses.replace(found.by_count[2].placement, stages=tuple(stages))
        one = Evaluator(problem).evaluate(placement)
        assert math.isclose(one.value("latency"), fastest, rel_tol=1e-6, abs_tol=1e-9)
        assert one.value("throughput") <= bound_s * (1 + 1e-8)
        chosen = of_less_latency(
            Evaluator(problem), "throughput", None, found, found.by_count[2], bound_s
        )
        assert math.isclose(chosen.value("latency"), fastest, rel_tol=1e-6, abs_tol=1e-9)
        others = [other.latency for other in counted if other.throughput > bound_s * (1 + 1e-9)]
        kept_out += min(others, default=math.inf) < fastest
    assert kept_out > 10


@pytest.mark.parametrize("few", [0, 1, 3])
def test_a_search_that_stops_early_tells_how_far_off_it_is(
    few, make_problem, all_placements, monkeypatch
):
    monkeypatch.setattr(memory_search, "_FEW_PASSES", few)
    monkeypatch.setattr(memory_search, "_WORK", 0.0)
    told = off = 0
    for seed in range(120):
        problem = make_problem(seed, units=6, devices=3, chain=True, limits=False, sharing=True)
        counted = all_placements(problem)
        if not counted:
            continue
        best = min(one.throughput for one in counted)
        made = plan(problem, "throughput")
        period_s = made.prediction.period_s
        assert period_s >= best - 1e-9
        if period_s > best * (1 + 1e-6):
            off += 1
            assert "from the best, as stages share a memory" in made.reason
        if "Its period is at most " in made.reason:
            told += 1
            share = made.reason.split("Its period is at most ")[1].split("%")[0]
            assert period_s <= best * (1 + float(share) / 100 + 1e-4)
    assert told > (5 if few < 3 else 0)
    assert off <= told


def test_plans_tell_what_the_memory_limits(make_problem):
    told = others = 0
    for seed in range(60):
        problem = make_problem(
            seed, units=5, devices=2, chain=True, limits=False, gaps=False, sharing=True
        )
        made = plan_cuts(problem, [2], [1, 0])
        limits = "Not a stage but the memory that d1 and d0 share limits" in made.reason
        assert limits == binds(made.prediction)
        told += limits
        best = plan(problem, "throughput")
        others += any("the memory that" in one.reason for one in best.alternatives)
    assert told > 5
    assert others > 2


def test_500_units_on_8_devices_that_share_a_memory(make_problem):
    """There is time for a few passes only; it is still better than a device alone."""
    problem = make_problem(5, units=500, devices=8, chain=True, limits=False, gaps=False)
    devices = tuple(
        dataclasses.replace(
            device, memory_group="board", shared_bandwidth_bytes_per_s=20.0, cache_bytes=10
        )
        for device in problem.devices
    )
    edges = tuple(
        dataclasses.replace(edge, consumers=edge.consumers[:1]) for edge in problem.graph.edges
    )
    graph = dataclasses.replace(problem.graph, edges=edges)
    problem = dataclasses.replace(problem, devices=devices, graph=graph)
    made = plan(problem, "throughput")
    assert len(made.stages) > 1
    assert made.prediction.memory_s > 0
    assert made.prediction.period_s < min(
        one.period_s for one in made.alternatives if one.name.startswith("the whole network")
    )
