import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_iovt.report.predicted_timeline import predicted_timeline
from tvm_iovt.runtime.timeline import COMPUTE, RECEIVE, SEND
from tvm_iovt.types import Prediction, StagePrediction


def prediction(*stages, period_s=None):
    made = tuple(StagePrediction(receive_s=r, compute_s=c, send_s=s) for r, c, s in stages)
    times = [t for stage in stages for t in stage]
    return Prediction(
        latency_s=sum(times), period_s=period_s or max(times), stages=made, source="assumed"
    )


def ends(timeline):
    found = {}
    for span in timeline.spans:
        found[span.frame] = max(found.get(span.frame, 0.0), span.end_s)
    return [found[frame] for frame in sorted(found)]


TIMES = st.floats(0.0, 1.0).map(lambda value: round(value, 3))
STAGES = st.lists(st.tuples(TIMES, TIMES.map(lambda t: t + 0.01), TIMES), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(stages=STAGES)
def test_frames_follow_each_other_at_the_period(stages):
    expected = prediction(*stages)
    timeline = predicted_timeline(expected, [str(i) for i in range(len(stages))], 60)
    finished = ends(timeline)
    assert finished[0] == pytest.approx(expected.latency_s)
    assert finished == sorted(finished)
    rate = (finished[-1] - finished[20]) / (len(finished) - 21)
    assert rate == pytest.approx(expected.period_s, rel=0.02)
    assert timeline.length_s == finished[-1]


@settings(max_examples=30, deadline=None)
@given(stages=STAGES)
def test_steps_are_in_order_and_lanes_hold_one_frame(stages):
    timeline = predicted_timeline(prediction(*stages), [str(i) for i in range(len(stages))], 12)
    lanes = {}
    for span in timeline.spans:
        lanes.setdefault((span.stage, span.lane), []).append(span)
    for spans in lanes.values():
        for a, b in itertools.pairwise(sorted(spans, key=lambda s: (s.start_s, s.end_s))):
            assert b.start_s >= a.end_s - 1e-9
    for stage in range(len(stages)):
        computing = sorted(timeline.of(stage, COMPUTE), key=lambda span: span.start_s)
        assert [span.frame for span in computing] == list(range(12))
        for a, b in itertools.pairwise(computing):
            assert b.start_s >= a.end_s - 1e-9
    order = {RECEIVE: 0, COMPUTE: 1, SEND: 2}
    for frame in range(12):
        steps = [span for span in timeline.spans if span.frame == frame]
        steps.sort(key=lambda span: (span.stage, order[span.action]))
        for a, b in itertools.pairwise(steps):
            assert b.start_s >= a.end_s - 1e-9


def test_transfers_over_several_links_keep_the_period():
    expected = prediction((0, 0.01, 0), (0.025, 0.01, 0), period_s=0.01)
    finished = ends(predicted_timeline(expected, ["a", "b"], 40))
    assert finished[-1] - finished[-2] == pytest.approx(0.01)


def test_no_frames():
    timeline = predicted_timeline(prediction((0, 1, 0)), ["a"], 0)
    assert timeline.spans == ()
    assert timeline.length_s == 0


def test_stages_that_take_no_time():
    timeline = predicted_timeline(prediction((0, 0, 0), period_s=0.0), ["a"], 5)
    assert timeline.spans == ()


@settings(max_examples=40, deadline=None)
@given(stages=STAGES, share=st.floats(1.0, 3.0))
def test_a_shared_memory_sets_the_pace(stages, share):
    steps = prediction(*stages)
    memory_s = share * steps.period_s
    expected = dataclasses.replace(steps, period_s=memory_s, memory_s=memory_s)
    timeline = predicted_timeline(expected, [str(i) for i in range(len(stages))], 60)
    finished = ends(timeline)
    assert finished[0] == pytest.approx(expected.latency_s)
    rate = (finished[-1] - finished[20]) / (len(finished) - 21)
    assert rate == pytest.approx(expected.period_s, rel=0.02)


def test_frames_wait_for_the_memory_at_the_first_stage():
    expected = dataclasses.replace(
        prediction((0, 0.01, 0), (0.001, 0.01, 0), period_s=0.025), memory_s=0.025
    )
    timeline = predicted_timeline(expected, ["a", "b"], 4)
    begins = [span.start_s for span in timeline.of(0, COMPUTE)]
    assert begins == pytest.approx([0.0, 0.025, 0.05, 0.075])
    assert ends(timeline) == pytest.approx([start_s + 0.021 for start_s in begins])
