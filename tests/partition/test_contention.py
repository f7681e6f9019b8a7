"""Contention: the Gables bound is reached, the shares are the best, threads equal brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_iovt.cost_graph import CostGraph, Unit
from tvm_iovt.errors import IovtError, UsageError
from tvm_iovt.partition.contention import (
    Demand,
    bandwidth_shares,
    contended_period_s,
    placement_memory_s,
    roofline_demand,
    shared_memory_s,
    thread_allocation,
)
from tvm_iovt.partition.placement import Placement
from tvm_iovt.partition.problem import Device, Problem, Route

demands = st.builds(
    Demand,
    alone_s=st.one_of(st.just(0.0), st.floats(1e-4, 1.0)),
    nbytes=st.one_of(st.just(0.0), st.floats(1.0, 1e9)),
)
bandwidths = st.floats(1e6, 1e11)


def test_the_bound_by_hand() -> None:
    both = [Demand(alone_s=2e-3, nbytes=10e6), Demand(alone_s=3e-3, nbytes=20e6)]
    assert contended_period_s(both, 5e9) == pytest.approx(6e-3)  # 30 MB at 5 GB/s
    assert contended_period_s(both, 20e9) == pytest.approx(3e-3)  # the longer stage
    assert contended_period_s([], 1.0) == 0


@given(st.lists(demands, max_size=5), bandwidths)
def test_the_best_shares_reach_the_bound(stages, bandwidth) -> None:
    shares = bandwidth_shares(stages, bandwidth)
    assert sum(share.share for share in shares) <= 1 + 1e-9
    longest_s = max((share.stage_s for share in shares), default=0.0)
    assert longest_s == pytest.approx(contended_period_s(stages, bandwidth), rel=1e-9)


@given(st.lists(demands, min_size=1, max_size=5), bandwidths)
@pytest.mark.parametrize("policy", ["longest", "sum", "fair"])
def test_nobody_waits_for_a_memory_that_is_fast_enough(policy, stages, bandwidth) -> None:
    shares = bandwidth_shares(stages, bandwidth, policy)
    fits = sum(stage.bytes_per_s for stage in stages) <= bandwidth
    slowed = [s.stage_s > d.alone_s * (1 + 1e-9) for s, d in zip(shares, stages, strict=True)]
    if fits:
        assert not any(slowed)
    elif sum(stage.bytes_per_s for stage in stages) > bandwidth * (1 + 1e-6):
        assert any(slowed)
        assert sum(share.share for share in shares) == pytest.approx(1)


def test_shares_for_the_sum_beat_all_others() -> None:
    random = np.random.default_rng(1)
    mixes = random.dirichlet((1, 1, 1), 20_000)
    for _ in range(100):
        alone_s, nbytes = random.uniform(0.1, 2, 3), random.uniform(0.1, 5, 3)
        stages = [Demand(alone_s=a, nbytes=q) for a, q in zip(alone_s, nbytes, strict=True)]
        shares = bandwidth_shares(stages, 2.0, "sum")
        least_s = sum(share.stage_s for share in shares)
        others_s = np.maximum(alone_s, nbytes / (2.0 * mixes)).sum(axis=1)
        assert least_s <= others_s.min() * (1 + 1e-9)
        assert least_s >= others_s.min() * 0.97  # that near the random ones come


@given(st.lists(demands, min_size=2, max_size=5), bandwidths)
def test_a_fair_memory_gives_equal_rates_to_all_who_wait(stages, bandwidth) -> None:
    shares = bandwidth_shares(stages, bandwidth, "fair")
    rates = [share.share * bandwidth for share in shares]
    waiting = [r for r, d in zip(rates, stages, strict=True) if r < d.bytes_per_s * (1 - 1e-9)]
    if waiting:
        assert max(rates) <= min(waiting) * (1 + 1e-9)


def test_demands_follow_the_roofline() -> None:
    device = {"peak_flops_per_s": 100e9, "bandwidth_bytes_per_s": 10e9}
    assert roofline_demand(1e9, 1e6, **device).alone_s == pytest.approx(10e-3)
    assert roofline_demand(1e9, 1e6, core_share=0.5, **device).alone_s == pytest.approx(20e-3)
    assert roofline_demand(1e6, 1e9, core_share=0.5, **device).alone_s == pytest.approx(0.1)
    with pytest.raises(IovtError, match="rates"):
        roofline_demand(1, 1, core_share=0.0, **device)


def test_only_devices_of_one_memory_are_added_up() -> None:
    def device(name: str, group: str, bandwidth: float) -> Device:
        return Device(name=name, memory_group=group, shared_bandwidth_bytes_per_s=bandwidth)

    devices = [
        device("cpu", "board", 10e9),
        device("gpu", "board", 8e9),
        device("server", "", 1e9),
        device("npu", "other", 0.0),
    ]
    assert shared_memory_s(devices, [1e6, 3e6, 1e9, 1e9]) == pytest.approx(0.5e-3)
    assert shared_memory_s(devices[2:], [1e9, 1e9]) == 0


def test_a_placement_has_the_traffic_of_its_units() -> None:
    def unit(index: int, weights: int) -> Unit:
        return Unit(
            index=index,
            name=f"u{index}",
            operators=(),
            kind="conv",
            flops=1,
            bytes_in=100,
            bytes_out=50,
            bytes_weights=weights,
        )

    board = {"memory_group": "board", "shared_bandwidth_bytes_per_s": 1000.0}
    problem = Problem(
        graph=CostGraph(units=(unit(0, 0), unit(1, 850), unit(2, 2850)), edges=()),
        devices=(Device(name="cpu", **board), Device(name="gpu", **board), Device(name="server")),
        unit_s=((1.0,) * 3,) * 3,
        routes=((Route(),) * 4,) * 4,
    )
    both = Placement.of_cuts((1, 0), (2,), 3)
    assert placement_memory_s(problem, both) == pytest.approx(0.15 + 1 + 3)
    assert placement_memory_s(problem, Placement.of_cuts((0, 2), (2,), 3)) == pytest.approx(1.15)


def random_stage_tables(random: np.random.Generator) -> tuple[list[list[float]], int]:
    cores = int(random.integers(1, 7))
    stages = int(random.integers(1, 4))
    return random.uniform(1, 9, (stages, cores)).round(1).tolist(), cores


def test_threads_equal_brute_force() -> None:
    random = np.random.default_rng(2)
    for _ in range(1000):
        tables, cores = random_stage_tables(random)
        every = [
            [table[count - 1] for table, count in zip(tables, counts, strict=True)]
            for counts in itertools.product(range(1, cores + 1), repeat=len(tables))
            if sum(counts) <= cores
        ]
        if not every:
            with pytest.raises(UsageError, match="do not fit"):
                thread_allocation(tables, cores)
            continue
        period = thread_allocation(tables, cores)
        assert (period.period_s, period.latency_s) == min((max(s), sum(s)) for s in every)
        latency = thread_allocation(tables, cores, "latency")
        assert latency.latency_s == min(map(sum, every))
        for found in (period, latency):
            assert sum(found.threads) <= cores
            taken = [table[n - 1] for table, n in zip(tables, found.threads, strict=True)]
            assert (found.period_s, found.latency_s) == (max(taken), sum(taken))


def test_threads_that_do_not_help_are_not_given() -> None:
    found = thread_allocation([[4.0, 5.0, 6.0, 7.0], [9.0, 5.0, 3.0, 3.0]], 6)
    assert found.threads == (1, 3)
    assert found.period_s == 4.0


@pytest.mark.parametrize("stage", [(-1.0, 1.0), (1.0, -1.0), (math.inf, 1.0), (1.0, math.nan)])
def test_demands_that_are_none_are_refused(stage) -> None:
    with pytest.raises(IovtError, match="demand"):
        Demand(alone_s=stage[0], nbytes=stage[1])


def test_unknown_words_are_refused() -> None:
    with pytest.raises(IovtError, match="no policy 'best'"):
        bandwidth_shares([], 1.0, "best")
    with pytest.raises(IovtError, match="bandwidth"):
        contended_period_s([], 0.0)
    with pytest.raises(IovtError, match="no objective 'speed'"):
        thread_allocation([[1.0]], 1, "speed")
