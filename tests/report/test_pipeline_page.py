import dataclasses
import re

import pytest

from tvm_iovt.report.pipeline_page import pipeline_page
from tvm_iovt.report.predicted_timeline import predicted_timeline
from tvm_iovt.runtime.pipeline_statistics import FrameTiming, statistics
from tvm_iovt.runtime.timeline import Timeline

NASTY = "<script>alert('x')</script>\x1b[2J"


def words(page):
    body = page.split("<body>")[1].split("<script>")[0]
    return " ".join(re.sub(r"<[^>]+>", " ", body.replace("<wbr>", "")).split())


def ran(plan, frames=40, slower=1.0):
    stages = tuple(
        dataclasses.replace(stage, compute_s=slower * stage.compute_s)
        for stage in plan.prediction.stages
    )
    timeline = predicted_timeline(
        dataclasses.replace(plan.prediction, stages=stages),
        [f"stage {stage.index} on {stage.target}" for stage in plan.stages],
        frames,
    )
    ends = {}
    for span in timeline.spans:
        ends[span.frame] = max(ends.get(span.frame, 0.0), span.end_s)
    timings = [FrameTiming(entered_s=0.9 * end_s, finished_s=end_s) for end_s in ends.values()]
    return timeline, statistics(timings, timeline)


def page_of(plan, **more):
    timeline, numbers = ran(plan)
    return pipeline_page(
        model_name="mobilenet_v2",
        deployment="arm+x86",
        timeline=timeline,
        statistics=numbers,
        plan=plan,
        **more,
    )


def test_everything_is_there(planned):
    _, numbers = ran(planned.plan)
    text = words(page_of(planned.plan, facts=(("Source", "clip.avi"), ("Empty", ""))))
    for expected in (
        "mobilenet_v2",
        "deployment arm+x86",
        f"{numbers.frames_per_s:.1f} frames/s",
        f"{1 / planned.plan.prediction.period_s:.1f} frames/s ±8.0% predicted",
        "40",
        "Measured timeline",
        "Predicted timeline",
        "Filling",
        "stage 0 on arm",
        "clip.avi",
        "throughput: Three stages",
    ):
        assert expected in text, expected
    assert "Empty" not in text


@pytest.mark.parametrize(("slower", "off"), [(1.0, 0), (1.07, 0), (1.2, 3)])
def test_stages_are_compared_with_their_prediction(planned, slower, off):
    timeline, numbers = ran(planned.plan, slower=slower)
    page = pipeline_page(
        model_name="m", deployment="d", timeline=timeline, statistics=numbers, plan=planned.plan
    )
    assert page.count(f"{slower:.2f}x") == 3
    assert page.count('class="off"') == off


def test_one_frame_at_a_time_is_held_against_the_latency(planned):
    text = words(page_of(planned.plan, sequential=True))
    assert f"{1 / planned.plan.prediction.latency_s:.1f} frames/s ±8.0% predicted" in text
    assert "Predicted timeline" not in text


def test_without_a_plan_nothing_is_compared(planned):
    timeline, numbers = ran(planned.plan)
    page = pipeline_page(model_name="m", deployment="d", timeline=timeline, statistics=numbers)
    assert "redicted" not in words(page)
    unplanned = dataclasses.replace(planned.plan, prediction=None)
    other = pipeline_page(
        model_name="m", deployment="d", timeline=timeline, statistics=numbers, plan=unplanned
    )
    assert "Predicted" not in words(other)


def test_a_run_without_frames():
    timeline = Timeline(stages=("a", "b"), spans=(), length_s=0.0)
    numbers = statistics((), timeline)
    page = pipeline_page(model_name="m", deployment="d", timeline=timeline, statistics=numbers)
    assert "No frame came out." in words(page)
    assert "Measured timeline" not in words(page)


def test_nothing_is_fetched_and_names_are_escaped(planned):
    timeline, numbers = ran(planned.plan)
    timeline = dataclasses.replace(timeline, stages=(NASTY,) * 3)
    numbers = dataclasses.replace(
        numbers, stages=tuple(dataclasses.replace(s, name=NASTY) for s in numbers.stages)
    )
    page = pipeline_page(
        model_name=NASTY,
        deployment=NASTY,
        timeline=timeline,
        statistics=numbers,
        plan=planned.plan,
        facts=((NASTY, NASTY),),
    )
    assert page.count("<script") == 1
    assert "\x1b" not in page
    assert not re.search(r"https?://|url\(|@import|<(link|img|iframe|object)\b", page)
