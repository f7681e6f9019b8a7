"""The best cut between two devices equals the enumeration, for every objective."""

from __future__ import annotations

import math
import random

import pytest

from tvm_iovt.partition.evaluate import OBJECTIVES, Evaluator
from tvm_iovt.partition.ideals import TooManyIdealsError
from tvm_iovt.partition.pairs import best_pair


@pytest.mark.parametrize(
    ("objective", "sharing"),
    [*((objective, False) for objective in OBJECTIVES), ("throughput", True)],
)
def test_pairs_equal_enumeration(objective, sharing, make_problem, all_placements):
    for seed in range(400):
        rng = random.Random(-seed)
        units = rng.randrange(1, 7)
        problem = make_problem(seed, units=units, devices=2, chain=False, sharing=sharing)
        order = rng.choice((None, (0, 1), (1, 0)))
        cuts = [
            one
            for one in all_placements(problem)
            if len(one.devices) == 2 and order in (None, one.devices)
        ]
        found = best_pair(Evaluator(problem), objective, order)
        if not cuts:
            assert found is None
            continue
        assert not found.obstacle
        least = min(getattr(one, objective) for one in cuts)
        assert math.isclose(found.value(objective), least, abs_tol=1e-9)
        bound = least * 1.2
        near = best_pair(Evaluator(problem), objective, order, within=bound)
        assert near.value(objective) <= bound + 1e-9
        fastest = min(one.latency for one in cuts if getattr(one, objective) <= bound + 1e-9)
        assert near.value("latency") <= fastest * (1 + 1e-6) + 1e-9


def test_more_cuts_than_the_limit_are_refused(make_problem):
    problem = make_problem(3, units=8, devices=2, chain=False)
    with pytest.raises(TooManyIdealsError):
        best_pair(Evaluator(problem), "latency", limit=2)
