"""Minimum cuts equal the enumeration of all cuts between two devices."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random

import pytest

from tvm_iovt.errors import UsageError
from tvm_iovt.partition.evaluate import Evaluator
from tvm_iovt.partition.flow import FlowNetwork
from tvm_iovt.partition.min_cut import cut_for_latency


@pytest.mark.parametrize("part", range(3))
def test_cuts_equal_enumeration(part, make_problem, all_placements):
    cuts = 0
    for seed in range(part * 700, part * 700 + 700):
        rng = random.Random(-seed)
        units = rng.randrange(8, 13) if rng.random() < 0.01 else rng.randrange(2, 7)
        problem = make_problem(seed, units=units, devices=2, chain=rng.random() < 0.2, limits=False)
        order = rng.choice((None, None, (0, 1), (1, 0)))
        expected = min(
            (
                one.latency
                for one in all_placements(problem)
                if len(one.devices) == 2 and order in (None, one.devices)
            ),
            default=math.inf,
        )
        found = cut_for_latency(problem, order)
        if found is None:
            assert expected == math.inf
            continue
        cuts += 1
        assert order in (None, found.devices)
        evaluation = Evaluator(problem).evaluate(found)
        assert math.isclose(evaluation.prediction.latency_s, expected, abs_tol=1e-9)
    assert cuts > 400


def test_flow_equals_enumeration():
    rng = random.Random(0)
    for _ in range(200):
        nodes = rng.randrange(2, 8)
        arcs = [
            (a, b, rng.choice((math.inf, 0.0, rng.random(), rng.random() * 1e-6)))
            for a, b in itertools.permutations(range(nodes), 2)
            if rng.random() < 0.4
        ]
        network = FlowNetwork(nodes)
        for arc in arcs:
            network.add(*arc)
        capacity, side = network.minimum_cut(0, nodes - 1)
        best = math.inf
        for chosen in itertools.product((False, True), repeat=nodes - 2):
            inside = {0, *(n + 1 for n, taken in enumerate(chosen) if taken)}
            best = min(best, sum(c for a, b, c in arcs if a in inside and b not in inside))
        assert capacity == best or math.isclose(capacity, best, rel_tol=1e-9)
        assert 0 in side
        assert nodes - 1 not in side


def test_a_long_network_needs_no_deep_stack():
    network = FlowNetwork(20_001)
    for node in range(20_000):
        network.add(node, node + 1, 1.0 + (node == 777) * -0.5)
    assert network.minimum_cut(0, 20_000) == (0.5, set(range(778)))


def test_a_tensor_is_paid_once_however_many_read_it(make_problem):
    problem = make_problem(0, units=4, devices=2, chain=True, limits=False)
    edges = tuple(
        dataclasses.replace(edge, consumers=tuple(range(edge.producer + 1, 4)))
        for edge in problem.graph.edges
    )
    graph = dataclasses.replace(problem.graph, edges=edges)
    problem = dataclasses.replace(problem, graph=graph)
    found = cut_for_latency(problem)
    evaluator = Evaluator(problem)
    done = sum(1 << unit for unit in found.stages[0][1])
    crossing = sum(e.nbytes for e in graph.crossing(set(found.stages[0][1])))
    assert evaluator.crossing_bytes(done) == crossing


def test_two_devices_are_needed(make_problem):
    with pytest.raises(UsageError, match="two devices"):
        cut_for_latency(make_problem(0, units=3, devices=3, chain=True))
