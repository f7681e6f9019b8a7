"""The searches equal the enumeration of all placements, on thousands of random networks."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from tvm_iovt.errors import UsageError
from tvm_iovt.partition.chain import chain_points
from tvm_iovt.partition.cut_points import costs
from tvm_iovt.partition.evaluate import OBJECTIVES, Evaluator
from tvm_iovt.partition.ideals import TooManyIdealsError, ideal_points, ideals, narrow_points
from tvm_iovt.partition.placement import Placement
from tvm_iovt.partition.stage_search import search


def check(problem, points, counted, objective, order):
    """For each number of stages, the search finds the least value there is, by the evaluator."""
    expected = {}
    for one in counted:
        count = len(one.devices)
        expected[count] = min(expected.get(count, math.inf), getattr(one, objective))
    found = search(costs(points, objective), order)
    assert sorted(found) == sorted(expected)
    evaluator = Evaluator(problem)
    for count, path in found.items():
        stages = tuple((d, points.units_between(a, b)) for d, a, b in path.stages)
        evaluation = evaluator.evaluate(Placement(stages=stages))
        assert not evaluation.obstacle
        assert math.isclose(evaluation.value(objective), expected[count], abs_tol=1e-9)
        assert math.isclose(path.cost, expected[count], abs_tol=1e-9)


def sizes(rng, chain):
    if rng.random() < 0.01:  # few of the largest: there are thousands of placements
        return (10, 4) if chain else (rng.randrange(9, 13), 2)
    return (
        (rng.randrange(1, 7), rng.randrange(1, 4))
        if chain
        else (
            rng.randrange(2, 7),
            rng.choice((2, 2, 3)),
        )
    )


@pytest.mark.parametrize("part", range(6))
def test_chains_equal_enumeration(part, make_problem, all_placements, along_order):
    for seed in range(part * 1000, part * 1000 + 1000):
        rng = random.Random(-seed)
        units, devices = sizes(rng, True)
        problem = make_problem(seed, units=units, devices=devices, chain=True)
        counted = all_placements(problem, prefixes_only=True)
        order = None
        if rng.random() < 0.4:
            order = rng.sample(range(devices), rng.randrange(1, devices + 1))
            counted = along_order(counted, order)
        check(problem, chain_points(problem), counted, rng.choice(OBJECTIVES), order)


@pytest.mark.parametrize("part", range(4))
def test_graphs_equal_enumeration(part, make_problem, all_placements, along_order):
    for seed in range(part * 1000, part * 1000 + 1000):
        rng = random.Random(-seed)
        units, devices = sizes(rng, False)
        problem = make_problem(seed, units=units, devices=devices, chain=False)
        counted = all_placements(problem)
        order = None
        if rng.random() < 0.3:
            order = rng.sample(range(devices), rng.randrange(1, devices + 1))
            counted = along_order(counted, order)
        points = ideal_points(problem, 5000)
        check(problem, points, counted, rng.choice(OBJECTIVES), order)


def test_ideals_are_the_closed_sets(make_problem):
    for seed in range(100):
        problem = make_problem(seed, units=7, devices=1, chain=False)
        evaluator = Evaluator(problem)
        found = ideals(problem)
        closed = [
            mask
            for mask in range(1 << 7)
            if all(not evaluator.before[u] & ~mask for u in range(7) if mask >> u & 1)
        ]
        assert sorted(found) == closed
        assert [bin(mask).count("1") for mask in found] == sorted(
            bin(mask).count("1") for mask in found
        )


def test_too_many_ideals_are_refused(make_problem):
    problem = make_problem(3, units=8, devices=1, chain=False)
    count = len(ideals(problem))
    assert ideals(problem, count)
    with pytest.raises(TooManyIdealsError, match="too many ways"):
        ideals(problem, count - 1)


def test_a_choice_of_ideals_holds_the_order_and_is_within_the_limit(make_problem):
    narrowed = 0
    for seed in range(60):
        problem = make_problem(seed, units=8, devices=2, chain=False)
        every = ideals(problem)
        points, count = narrow_points(problem, 20)
        assert count == len(every)
        rows = [sum(1 << int(u) for u in np.flatnonzero(row)) for row in points.member]
        assert len(set(rows)) == len(rows)
        assert set(rows) <= set(every)
        assert {(1 << position) - 1 for position in range(9)} <= set(rows)
        assert rows == [mask for mask in every if mask in set(rows)]  # smaller ones first
        if count <= 20:
            assert len(rows) == count
        else:
            narrowed += 1
            assert len(rows) == 20
            crossing = Evaluator(problem).crossing_bytes
            for mask in set(every) - set(rows):  # what is left out, more crosses
                same = [r for r in rows if bin(r).count("1") == bin(mask).count("1")]
                same = [r for r in same if r & (r + 1)]
                assert all(crossing(r) <= crossing(mask) for r in same)
    assert narrowed > 10


def test_no_free_order_of_too_many_devices(make_problem):
    problem = make_problem(0, units=3, devices=11, chain=True, limits=False)
    table = costs(chain_points(problem), "latency")
    with pytest.raises(UsageError, match="too many devices"):
        search(table)
    assert search(table, range(11))
