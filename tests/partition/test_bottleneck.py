"""Cuts for the frame rate: exact where cuts can be listed, and bounded where they cannot."""

from __future__ import annotations

import math
import random

import pytest

from tvm_iovt.errors import UsageError
from tvm_iovt.partition.bottleneck import cut_for_rate


def least(counted, order):
    cuts = [one for one in counted if len(one.devices) == 2 and order in (None, one.devices)]
    return min((one.throughput, one.latency) for one in cuts) if cuts else None


@pytest.mark.parametrize("part", range(2))
def test_periods_equal_enumeration(part, make_problem, all_placements):
    for seed in range(part * 600, part * 600 + 600):
        rng = random.Random(-seed)
        units = rng.randrange(8, 13) if rng.random() < 0.01 else rng.randrange(2, 7)
        chain, sharing = rng.random() < 0.2, part == 1
        problem = make_problem(seed, units=units, devices=2, chain=chain, sharing=sharing)
        order = rng.choice((None, (0, 1)))
        expected = least(all_placements(problem), order)
        found = cut_for_rate(problem, order)
        assert found.exact
        if expected is None:
            assert found.evaluation is None
            continue
        prediction = found.evaluation.prediction
        assert math.isclose(prediction.period_s, expected[0], abs_tol=1e-9)
        assert prediction.latency_s <= expected[1] * (1 + 1e-6) + 1e-9


def test_parametric_search_keeps_its_bound(make_problem, all_placements):
    gaps = []
    for seed in range(120):
        limits, sharing = seed % 3 == 0, seed % 4 == 3
        problem = make_problem(
            seed, units=6, devices=2, chain=False, limits=limits, sharing=sharing
        )
        found = cut_for_rate(problem, limit=1)
        expected = least(all_placements(problem), None)
        if expected is None:
            assert found.evaluation is None
            continue
        assert not found.exact
        assert found.least_period_s <= expected[0] + 1e-9
        if found.evaluation is not None:  # with memory limits it may miss what would fit
            period = found.evaluation.prediction.period_s
            assert period >= expected[0] - 1e-9
            assert period <= found.least_period_s * (1 + found.gap) + 1e-9
            gaps.append(period / expected[0] - 1 if expected[0] else 0)
    assert len(gaps) > 60
    assert sum(gap < 1e-6 for gap in gaps) > 0.8 * len(gaps)


def test_two_devices_are_needed(make_problem):
    with pytest.raises(UsageError, match="two devices"):
        cut_for_rate(make_problem(0, units=3, devices=1, chain=True))
