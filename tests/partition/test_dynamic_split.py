"""Dynamic split: beats every fixed cut where the link changes, and is calm where it does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_iovt.errors import IovtError
from tvm_iovt.partition.bandwidth_trace import BandwidthTrace
from tvm_iovt.partition.dynamic_split import SplitPolicy, replay
from tvm_iovt.partition.split_candidates import Candidate

# A network of 100 ms on the device and 10 ms on the server: all there, two cuts, all here.
CUTS = (
    Candidate(position=0, before_s=0.0, after_s=0.010, nbytes=150_000),
    Candidate(position=4, before_s=0.020, after_s=0.008, nbytes=60_000),
    Candidate(position=9, before_s=0.050, after_s=0.005, nbytes=12_000),
    Candidate(position=14, before_s=0.100, after_s=0.0, nbytes=0),
)


def mobile_trace(seed: int, seconds: int = 300) -> BandwidthTrace:
    """A 4G-like link: a mean that wanders, regimes of good and bad reception, and drop-outs."""
    random = np.random.default_rng(seed)
    good, level, rates = True, 0.0, []
    for _ in range(seconds * 2):
        good = good if random.random() > 1 / 40 else not good
        level = 0.9 * level + 0.15 * random.standard_normal()
        rate = (6e6 if good else 0.25e6) * math.exp(level)
        rates.append(0.0 if random.random() < 0.01 else rate)
    rates[-1] = 1e6
    return BandwidthTrace((np.arange(seconds * 2) / 2).tolist(), rates)


def mean(latencies) -> float:
    return sum(latencies) / len(latencies)


@pytest.mark.parametrize("seed", range(8))
def test_dynamic_beats_the_best_fixed_cut_over_a_mobile_link(seed: int) -> None:
    found = replay(mobile_trace(seed), SplitPolicy(CUTS), frame_interval_s=0.2)
    fixed = mean(found.fixed_s[found.best_fixed])
    assert mean(found.oracle_s) <= mean(found.dynamic_s) < fixed
    assert len(set(found.chosen)) > 1
    assert found.switches <= len(found.chosen) // 2


def test_dynamic_beats_the_best_fixed_cut_over_steps() -> None:
    trace = BandwidthTrace([0, 20, 40, 60, 80], [20e6, 0.5e6, 3e6, 50e3, 50e3])
    found = replay(trace, SplitPolicy(CUTS), frame_interval_s=0.25)
    fixed, oracle = mean(found.fixed_s[found.best_fixed]), mean(found.oracle_s)
    assert fixed - mean(found.dynamic_s) > 0.5 * (fixed - oracle)
    settled = [found.chosen[round(time / 0.25)] for time in (19.0, 39.0, 59.0, 80.0)]
    assert settled == [0, 9, 4, 14]
    assert 3 <= found.switches <= 6  # a deep step may be followed in two


@pytest.mark.parametrize("rate", [20e3, 0.3e6, 2e6, 30e6])
def test_a_constant_link_is_never_switched_on(rate: float) -> None:
    found = replay(BandwidthTrace([0, 10], [rate, rate]), SplitPolicy(CUTS), frame_interval_s=0.1)
    assert found.switches == 0
    assert len(found.chosen) == 101
    assert found.dynamic_s[1:] == found.fixed_s[found.best_fixed][1:]
    assert found.dynamic_s[1:] == pytest.approx(found.oracle_s[1:])


def test_noise_around_the_point_of_indifference_makes_no_switches() -> None:
    # Cuts 0 and 4 are equally fast where 90 kB take 18 ms.
    random = np.random.default_rng(0)
    rates = (90_000 / 0.018 * random.uniform(0.8, 1.25, 400)).tolist()
    trace = BandwidthTrace(list(range(400)), rates)
    hasty = replay(trace, SplitPolicy(CUTS, margin=0.0, patience=1), frame_interval_s=1.0)
    calm = replay(trace, SplitPolicy(CUTS, margin=0.15), frame_interval_s=1.0)
    assert hasty.switches > 50
    assert calm.switches == 0


@given(st.lists(st.floats(0, 1e8), max_size=60), st.integers(1, 5), st.floats(0, 0.5))
def test_hysteresis_bounds_the_switches(rates, patience, margin) -> None:
    policy = SplitPolicy(CUTS, patience=patience, margin=margin)
    before, changes = policy.current, 0
    for i, rate in enumerate(rates):
        after = policy.observe(rate)
        changes += i > 0 and after != before
        before = after
    assert policy.switches == changes
    assert policy.switches <= max(len(rates) - 1, 0) // patience


def test_only_observations_in_a_row_count() -> None:
    policy = SplitPolicy(CUTS, smoothing=1.0, margin=0.1, patience=2)
    for rate in (20e6, 0.5e6) * 10:  # cut 0, then cut 9 would be best
        assert policy.observe(rate).position == 0
    assert policy.observe(0.5e6).position == 9
    assert policy.switches == 1


@given(st.floats(1e3, 1e9))
def test_a_steady_rate_leads_to_the_best_cut_within_the_margin(rate) -> None:
    policy = SplitPolicy(CUTS, margin=0.1, patience=3)
    policy.observe(1e6)
    for _ in range(60):
        policy.observe(rate)
    best = min(c.latency_s(rate) for c in CUTS)
    assert best >= policy.current.latency_s(rate) * 0.9 * (1 - 1e-6)


def test_frames_that_send_nothing_still_learn_that_the_link_is_back() -> None:
    trace = BandwidthTrace([0, 10, 20], [5e3, 20e6, 20e6])
    found = replay(trace, SplitPolicy(CUTS), frame_interval_s=0.5)
    assert found.chosen[0] == found.chosen[19] == 14
    assert found.chosen[-1] == 0


def test_frames_see_the_bandwidth_at_the_time_of_their_transfer() -> None:
    trace = BandwidthTrace([0, 0.05, 1], [1e6, 12e6, 12e6])
    found = replay(trace, SplitPolicy(CUTS), frame_interval_s=1.0, frames=1)
    by_hand = [0.01 + 0.05 + 0.1e6 / 12e6, 0.028 + 0.03 + 0.03e6 / 12e6, 0.055 + 0.001, 0.1]
    assert [latencies[0] for latencies in found.fixed_s] == pytest.approx(by_hand)
    assert found.oracle_s[0] == pytest.approx(min(by_hand))


@pytest.mark.parametrize(
    "wrong", [{"smoothing": 0.0}, {"margin": 1.0}, {"patience": 0}, {"candidates": ()}]
)
def test_policies_that_make_no_sense_are_refused(wrong) -> None:
    with pytest.raises(IovtError, match="cannot be set up"):
        SplitPolicy(**({"candidates": CUTS} | wrong))


def test_replays_that_make_no_sense_are_refused() -> None:
    trace = BandwidthTrace([0], [1.0])
    with pytest.raises(IovtError, match="interval"):
        replay(trace, SplitPolicy(CUTS), frame_interval_s=0.0)
    with pytest.raises(IovtError, match="no frames"):
        replay(trace, SplitPolicy(CUTS), frame_interval_s=1.0, frames=0)
    with pytest.raises(IovtError, match="observed bandwidth"):
        SplitPolicy(CUTS).observe(math.nan)
