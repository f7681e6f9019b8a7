from __future__ import annotations

import math

import numpy as np
import pytest

from tvm_iovt.runtime.pipeline_statistics import FrameTiming, statistics
from tvm_iovt.runtime.timeline import ACTIONS, COMPUTE, RECEIVE, SEND, Span, Timeline
from tvm_iovt.runtime.timeline_recorder import TimelineRecorder


def simulate(times_s: list[float], n: int) -> tuple[list[FrameTiming], Timeline]:
    """An ideal pipeline with room for any number of frames between its stages."""
    free_s = [0.0] * len(times_s)
    timings = []
    recorder = TimelineRecorder([f"stage {i}" for i in range(len(times_s))])
    for frame in range(n):
        entered_s = now_s = free_s[0]
        for i, time_s in enumerate(times_s):
            start_s = max(now_s, free_s[i])
            now_s = free_s[i] = start_s + time_s
            for action, a_s, b_s in (
                (RECEIVE, start_s, start_s),
                (COMPUTE, start_s, now_s),
                (SEND, now_s, now_s),
            ):
                recorder.add(i, 0, frame, action, a_s, b_s)
        recorder.finish_frame(now_s)
        timings.append(FrameTiming(entered_s=entered_s, finished_s=now_s))
    return timings, recorder.timeline()


@pytest.mark.parametrize(
    "times_s", [[0.5, 0.2, 0.1], [0.1, 0.5, 0.2], [0.1, 0.2, 0.5], [0.5], [0.5] * 6]
)
@pytest.mark.parametrize("n", [2, 9, 40])
def test_the_rate_leaves_filling_and_draining_out(times_s: list[float], n: int) -> None:
    found = statistics(*simulate(times_s, n))
    assert found.frames == n
    assert found.frames_per_s == pytest.approx(2.0)
    assert n / found.length_s < 2.0 or len(times_s) == 1  # the naive rate is too low


def test_frames_that_come_out_while_the_pipeline_runs_empty_do_not_count() -> None:
    # Two stages that share a CPU: the second one is faster when the first one has no work left.
    spans = [
        Span(stage=0, lane=0, frame=i, action=COMPUTE, start_s=0.5 * i, end_s=0.5 * (i + 1))
        for i in range(8)
    ]
    outputs_s = [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.1]
    timings = [
        FrameTiming(entered_s=0.5 * i, finished_s=output_s) for i, output_s in enumerate(outputs_s)
    ]
    found = statistics(timings, Timeline(stages=("a",), spans=tuple(spans), length_s=4.1))
    assert found.frames_per_s == pytest.approx(2.0)


def test_occupancy_and_means_are_of_the_whole_run() -> None:
    timings, timeline = simulate([0.1, 0.5], 20)
    found = statistics(timings, timeline)
    assert found.length_s == pytest.approx(0.1 + 20 * 0.5)
    assert found.stages[1].occupancy == pytest.approx(10 / 10.1)
    assert found.stages[0].occupancy == pytest.approx(2 / 10.1)
    assert found.stages[0].mean.compute_s == pytest.approx(0.1)
    assert found.stages[0].transfer_occupancy == 0


def test_percentiles_are_of_the_latencies() -> None:
    latencies_s = np.random.default_rng(0).random(500)
    timings = [FrameTiming(entered_s=i, finished_s=i + s) for i, s in enumerate(latencies_s)]
    found = statistics(timings, Timeline(stages=(), spans=(), length_s=500.0))
    expected = np.percentile(latencies_s, (50, 90, 99))
    np.testing.assert_allclose(
        (found.latency_p50_s, found.latency_p90_s, found.latency_p99_s), expected
    )


def test_runs_of_no_and_of_one_frame() -> None:
    none = statistics([], Timeline(stages=("a",), spans=(), length_s=0.0))
    assert (none.frames, none.frames_per_s) == (0, 0.0)
    assert math.isnan(none.latency_p50_s)
    one = statistics(*simulate([0.1, 0.4], 1))
    assert one.frames_per_s == pytest.approx(2.0)
    assert one.latency_p99_s == pytest.approx(0.5)


def test_a_long_run_is_recorded_in_bounded_memory() -> None:
    recorder = TimelineRecorder(["a", "b"], kept=50)
    expected = {}
    random = np.random.default_rng(1)
    for i in range(1000):
        for stage in (0, 1):
            for action in ACTIONS:
                end_s = i + random.random()
                recorder.add(stage, 0, i, action, i, end_s)
                expected[stage, action] = expected.get((stage, action), 0) + end_s - i
        recorder.finish_frame(i + 1.0)
    timeline = recorder.timeline()
    assert len(timeline.spans) == 100
    assert timeline.left_out == 6000 - 100
    assert {s.frame for s in timeline.spans} == {*range(9), *range(991, 1000)}
    assert timeline.length_s == 1000
    for (stage, action), busy_s in expected.items():
        assert timeline.busy_s(stage, action) == pytest.approx(busy_s)
        assert timeline.occupancy(stage, action) == pytest.approx(busy_s / 1000)
    assert statistics([], timeline).stages[1].mean.compute_s == pytest.approx(
        expected[1, COMPUTE] / 1000
    )
