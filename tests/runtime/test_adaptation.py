from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from tvm_iovt.errors import UsageError
from tvm_iovt.runtime.adaptation import HOME, Drift, DriftSettings, Part, PreparedCut, Proposal
from tvm_iovt.runtime.timeline_recorder import StageTimes
from tvm_iovt.types import PartitionPlan, Prediction, Stage, StagePrediction

MS = 1e-3


def cut(name: str, *stages: tuple[str, float, float], send_ms: float = 0.0) -> PreparedCut:
    """A cut of `(target, receive, compute)` in milliseconds, planned with full overlap."""
    places = [HOME, *(target for target, _, _ in stages), HOME]
    moves = [*(receive for _, receive, _ in stages), send_ms]
    parts = [*(compute for _, _, compute in stages), *moves]
    return PreparedCut(
        name=name,
        compute=tuple(Part(key=(t,), predicted_s=c * MS) for t, _, c in stages),
        transfers=tuple(
            Part(key=(places[i], places[i + 1]), predicted_s=m * MS) for i, m in enumerate(moves)
        ),
        latency_s=sum(parts) * MS,
        period_s=max(parts) * MS,
        noise=0.1,
    )


# 24 ms of work; the board is half as fast. The balanced cut has a period of 16 ms.
BALANCED = cut("host | arm", ("host", 0, 16), ("arm", 2, 16))
MOST_HERE = cut("most on host", ("host", 0, 20), ("arm", 6, 8))
ALL_HERE = cut("all on host", ("host", 0, 24))
ALL_THERE = cut("all on arm", ("arm", 3, 48))
CUTS = (BALANCED, MOST_HERE, ALL_HERE, ALL_THERE)


def times(of: PreparedCut, host: float = 1.0, arm: float = 1.0, link: float = 1.0) -> Sequence:
    """What the stages of a cut need where devices and links are slower by these factors."""
    slower = {"host": host, "arm": arm, "host/1": host, "host/1~2": host}
    stages = [
        StageTimes(
            receive_s=move.predicted_s * link,
            compute_s=part.predicted_s * slower[part.key[0]],
            send_s=0.0,
        )
        for part, move in zip(of.compute, of.transfers, strict=False)
    ]
    stages[-1] = dataclasses.replace(stages[-1], send_s=of.transfers[-1].predicted_s * link)
    return stages


def frames_until_proposal(
    drift: Drift, observed: Sequence, limit: int = 300
) -> tuple[int, Proposal] | None:
    for i in range(limit):
        proposal = drift.observe(observed)
        if proposal is not None:
            return i + 1, proposal
    return None


def test_nothing_is_proposed_while_all_is_as_planned() -> None:
    random = np.random.default_rng(0)
    drift = Drift(CUTS)
    for _ in range(2000):
        host, arm, link = random.normal(1, 0.05, 3)
        assert drift.observe(times(BALANCED, host, arm, link)) is None
    for i, found in enumerate(CUTS):
        assert drift.estimate_s(i) == pytest.approx(found.period_s, rel=0.1)


def test_a_slow_board_moves_work_away_from_it() -> None:
    drift = Drift(CUTS)
    found = frames_until_proposal(drift, times(BALANCED, arm=2.5))
    assert found is not None
    frames, proposal = found
    assert (proposal.cut, proposal.name) == (1, "most on host")
    assert proposal.current_s == pytest.approx(40 * MS, rel=0.03)
    assert proposal.expected_s == pytest.approx(20 * MS, rel=0.03)
    assert frames == DriftSettings().dwell_frames
    assert proposal.reason.startswith("computing on arm takes 40 ms instead of 16 ms for ")
    assert "most on host should need 20" in proposal.reason


def test_an_even_slower_board_is_left() -> None:
    found = frames_until_proposal(Drift(CUTS), times(BALANCED, arm=6))
    assert found is not None
    assert found[1].name == "all on host"


def test_a_slow_link_moves_the_cut_to_where_less_travels() -> None:
    drift = Drift(CUTS)
    found = frames_until_proposal(drift, times(BALANCED, link=20))
    assert found is not None
    # 2 ms became 40 ms; 6 ms would be 120 ms.
    assert found[1].name == "all on host"
    assert "moving tensors from host to arm takes 40 ms" in found[1].reason
    assert drift.estimate_s(1) > drift.estimate_s(0)


def test_a_busy_host_moves_work_to_the_board() -> None:
    found = frames_until_proposal(Drift(CUTS, 2), times(ALL_HERE, host=1.5))
    assert found is not None
    # At 1.5 times: balanced 24 ms, most here 30 ms, all here 36 ms.
    assert found[1].name == "host | arm"
    assert found[1].expected_s == pytest.approx(24 * MS, rel=0.03)


def test_the_objective_decides_what_is_compared() -> None:
    slow = times(ALL_HERE, host=1.2)
    assert frames_until_proposal(Drift(CUTS, 2, objective="throughput"), slow) is not None
    # Its latency is 28.8 ms; those of the cuts with a transfer and the slow board are more.
    assert frames_until_proposal(Drift(CUTS, 2, objective="latency"), slow) is None


def test_a_hiccup_is_no_drift() -> None:
    drift = Drift(CUTS)
    for i in range(600):
        slow = 30.0 if i % 100 == 50 else 1.0
        assert drift.observe(times(BALANCED, arm=slow)) is None


def test_a_drift_that_ends_in_time_is_none() -> None:
    settings = DriftSettings(dwell_frames=10, patience=30)
    drift = Drift(CUTS, settings=settings)
    for arm, frames in ((1.0, 40), (2.5, 5), (1.0, 300)):
        for _ in range(frames):
            assert drift.observe(times(BALANCED, arm=arm)) is None


def test_small_gains_are_not_worth_a_switch() -> None:
    # 22 instead of 20 ms: 9 percent less than the margin of 10.
    slow = times(BALANCED, arm=22 / 16)
    assert frames_until_proposal(Drift(CUTS), slow) is None
    generous = DriftSettings(margin=0.05)
    assert frames_until_proposal(Drift(CUTS, settings=generous), slow) is not None


def test_hysteresis_between_two_switches() -> None:
    settings = DriftSettings(dwell_frames=200)
    drift = Drift(CUTS, settings=settings)
    first = frames_until_proposal(drift, times(BALANCED, arm=2.5))
    assert first is not None
    assert first[0] == 200
    drift.switched(1)
    # Now the board is idle again: the balanced cut is better, but not before the dwell time.
    second = frames_until_proposal(drift, times(MOST_HERE, arm=1.0), limit=1000)
    assert second is not None
    assert second[0] == 200
    assert second[1].name == "host | arm"


def test_a_steady_state_does_not_oscillate() -> None:
    drift = Drift(CUTS, settings=DriftSettings(half_life_frames=1e9))
    switches = 0
    for _ in range(5000):
        proposal = drift.observe(times(CUTS[drift.current], arm=6, link=1.3))
        if proposal is not None:
            drift.switched(proposal.cut)
            switches += 1
    assert switches == 1
    assert drift.current == 2


def test_a_board_that_was_left_gets_another_chance_ever_more_rarely() -> None:
    drift = Drift(CUTS, settings=DriftSettings(half_life_frames=300))
    returns = []
    for i in range(8_000):
        proposal = drift.observe(times(CUTS[drift.current], arm=6))
        if proposal is not None:
            drift.switched(proposal.cut)
            if proposal.cut != 2:
                returns.append(i)
                assert "may have recovered" in proposal.reason
    waits = np.diff([0, *returns])
    assert len(returns) >= 3
    assert all(later > 1.5 * earlier for earlier, later in itertools.pairwise(waits))
    for _ in range(20_000):  # it has recovered
        proposal = drift.observe(times(CUTS[drift.current], arm=1))
        if proposal is not None:
            drift.switched(proposal.cut)
    assert drift.current == 0


# Less than a millisecond of work in two stages, or in one.
SHORT = cut("short", ("host/1", 0, 0.4), ("host/1~2", 0.02, 0.4))
SHIFTED = cut("shifted", ("host/1", 0, 0.58), ("host/1~2", 0.02, 0.22))
SHORT_WHOLE = cut("whole", ("host/1", 0, 0.8))
SHORT_CUTS = (SHORT, SHIFTED, SHORT_WHOLE)


def busy_system(random: np.random.Generator, of: PreparedCut, slower: float, burst: bool) -> list:
    """Times of stages in threads of one process, on a machine that has other things to do.

    Waking costs tens of microseconds, every now and then a frame takes many times as long, and in
    a burst (somebody has one of the cores for a while) one stage takes twice as long.
    """
    found = []
    for stage in times(of):
        factor = slower if len(found) == 1 else 1.0
        factor *= float(random.lognormal(0, 0.15)) * (2.0 if burst and found else 1.0)
        if random.random() < 0.02:
            factor *= 20
        found.append(
            StageTimes(
                receive_s=stage.receive_s + float(random.exponential(30e-6)),
                compute_s=stage.compute_s * factor + float(random.exponential(20e-6)),
                send_s=float(random.exponential(5e-6)),
            )
        )
    return found


def switches(
    drift: Drift, random: np.random.Generator, frames: int, slower: float = 1.0, bursts: bool = True
) -> list[str]:
    """The cuts that a noisy stream changes to, in which the second stage's device is slower."""
    made, left = [], 0
    for _ in range(frames):
        if bursts and left == 0 and random.random() < 0.005:
            left = int(random.integers(5, 80))
        left = max(left - 1, 0)
        proposal = drift.observe(busy_system(random, drift.cuts[drift.current], slower, left > 0))
        if proposal is not None:
            drift.switched(proposal.cut)
            made.append(proposal.name)
    return made


@pytest.mark.parametrize("seed", range(4))
def test_noise_of_the_system_is_no_reason_to_switch(seed: int) -> None:
    assert switches(Drift(SHORT_CUTS), np.random.default_rng(seed), 4000) == []


@pytest.mark.parametrize("seed", range(4))
def test_a_short_network_follows_its_drift_once_and_back_once(seed: int) -> None:
    random = np.random.default_rng(seed)
    drift = Drift(SHORT_CUTS[:2])
    assert switches(drift, random, 1000) == []
    assert switches(drift, random, 3000, slower=2.2) == ["shifted"]
    # It is as fast as it was planned.
    assert switches(drift, random, 3000) == ["short"]


def test_gains_below_what_waking_a_thread_takes_are_none() -> None:
    fast, faster = (cut(name, ("host", 0, ms)) for name, ms in (("fast", 0.16), ("faster", 0.1)))
    far = cut("elsewhere", ("arm", 0, 0.1))
    for settings, expected in (
        (DriftSettings(), None),
        (DriftSettings(floor_s=0.0), "elsewhere"),
    ):
        drift = Drift([fast, far, faster], settings=settings)
        drift.exclude(2)
        found = frames_until_proposal(drift, times(fast, host=1.2), 5000)
        assert (found[1].name if found else None) == expected


def test_what_varies_more_has_to_differ_more() -> None:
    # On average 1.4 times as long as predicted: of steady times that is drift, of others not yet.
    wide = DriftSettings(deviations=12.0)
    for spread, expected in ((0.0, "most on host"), (2.0, None)):
        random = np.random.default_rng(3)
        drift = Drift(CUTS, settings=wide)
        proposal = None
        for _ in range(400):
            arm = 1.5 + spread * (random.random() - 0.5)
            proposal = proposal or drift.observe(times(BALANCED, arm=arm))
        assert (proposal.name if proposal else None) == expected


def test_a_state_of_the_system_lasts_longer_than_a_few_short_frames() -> None:
    drift = Drift(SHORT_CUTS)
    slow = [
        StageTimes(receive_s=0.0, compute_s=0.4 * MS, send_s=0.0),
        StageTimes(receive_s=0.02 * MS, compute_s=1.0 * MS, send_s=0.0),
    ]
    found = frames_until_proposal(drift, slow, 5000)
    assert found is not None
    assert found[0] * 1.0 * MS >= DriftSettings().dwell_s
    impatient = DriftSettings(dwell_s=0.0, patience_s=0.0)
    found = frames_until_proposal(Drift(SHORT_CUTS, settings=impatient), slow, 5000)
    assert found is not None
    assert found[0] == impatient.dwell_frames


def test_a_cut_that_cannot_be_used_is_not_proposed() -> None:
    drift = Drift(CUTS)
    drift.exclude(1)
    found = frames_until_proposal(drift, times(BALANCED, arm=2.5))
    assert found is not None
    assert found[1].name == "all on host"
    drift.exclude(2)
    drift.exclude(3)
    assert frames_until_proposal(drift, times(BALANCED, arm=2.5)) is None


def test_warm_up_frames_do_not_count() -> None:
    drift = Drift(CUTS, settings=DriftSettings(dwell_frames=0, patience=3, warmup_frames=5))
    for _ in range(5):
        assert drift.observe(times(BALANCED, arm=50)) is None
    for _ in range(200):
        assert drift.observe(times(BALANCED)) is None


def test_predictions_of_nothing_do_no_harm() -> None:
    empty = cut("empty", ("host", 0, 0))
    drift = Drift([empty, empty], settings=DriftSettings(dwell_frames=0))
    for _ in range(50):
        assert drift.observe(times(BALANCED)[:1]) is None


def plan(prediction: Prediction | None) -> PartitionPlan:
    return PartitionPlan(
        stages=(
            Stage(index=0, target="host", inputs=(), outputs=()),
            Stage(index=1, target="arm", inputs=(), outputs=()),
        ),
        objective="throughput",
        reason="",
        prediction=prediction,
    )


def test_a_prepared_cut_from_a_plan() -> None:
    stages = (
        StagePrediction(receive_s=0.1, compute_s=0.2),
        StagePrediction(receive_s=0.3, compute_s=0.4, send_s=0.5),
    )
    prediction = Prediction(
        latency_s=1.6, period_s=0.55, stages=stages, source="measured", noise=0.2
    )
    found = PreparedCut.of("both", plan(prediction))
    assert [(p.key, p.predicted_s) for p in found.parts] == [
        (("host",), 0.2),
        (("arm",), 0.4),
        ((HOME, "host"), 0.1),
        (("host", "arm"), 0.3),
        (("arm", HOME), 0.5),
    ]
    assert (found.latency_s, found.period_s, found.noise) == (1.6, 0.55, 0.2)


def test_a_plan_without_a_prediction_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot take part"):
        PreparedCut.of("both", plan(None))


@pytest.mark.parametrize(("current", "objective"), [(4, "latency"), (-1, "latency"), (0, "speed")])
def test_nonsense_is_refused(current: int, objective: str) -> None:
    with pytest.raises(UsageError, match="cannot start"):
        Drift(CUTS, current, objective=objective)
