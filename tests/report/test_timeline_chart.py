import itertools
import re

import pytest

from tvm_iovt.report import timeline_chart
from tvm_iovt.report.page import page
from tvm_iovt.report.predicted_timeline import predicted_timeline
from tvm_iovt.report.timeline_chart import (
    timeline_plot,
    timeline_windows,
    windows_of,
)
from tvm_iovt.runtime.timeline import COMPUTE, Busy, Span, Timeline
from tvm_iovt.types import Prediction, StagePrediction

PREDICTION = Prediction(
    latency_s=0.04,
    period_s=0.012,
    stages=(
        StagePrediction(receive_s=0.0004, compute_s=0.0098),
        StagePrediction(receive_s=0.0062, compute_s=0.012),
        StagePrediction(receive_s=0.0031, compute_s=0.0079, send_s=0.0006),
    ),
    source="assumed",
)
NAMES = ("stage 0 on host", "stage 1 on arm", "stage 2 on cuda")


def run(frames=40, names=NAMES):
    return predicted_timeline(PREDICTION, names, frames)


def bars(svg):
    return [r for r in svg.iter("rect") if "bar" in r.get("class", "").split()]


def plots(svgs, markup):
    return [svg for svg in svgs(markup) if "gantt" in svg.get("class", "")]


def test_a_bar_for_every_span(svgs):
    timeline = run(12)
    (svg,) = plots(svgs, timeline_plot(timeline, 0.0, timeline.length_s))
    assert len(bars(svg)) == len(timeline.spans)


def test_bars_of_a_lane_do_not_overlap(svgs):
    timeline = run(12)
    (svg,) = plots(svgs, timeline_plot(timeline, 0.0, timeline.length_s))
    rows = {}
    for bar in bars(svg):
        rows.setdefault(bar.get("y"), []).append(
            (float(bar.get("x")), float(bar.get("x")) + float(bar.get("width")))
        )
    assert len(rows) == len({(span.stage, span.lane) for span in timeline.spans})
    for row in rows.values():
        for (_, end), (start, _) in itertools.pairwise(sorted(row)):
            assert start >= end - 0.9  # shortest bars are drawn 0.8 wide


def test_bars_are_as_long_as_their_spans(svgs):
    span = Span(stage=0, lane=0, frame=3, action=COMPUTE, start_s=0.2, end_s=0.7)
    timeline = Timeline(stages=("a",), spans=(span,), length_s=1.0)
    (svg,) = plots(svgs, timeline_plot(timeline, 0.0, 1.0))
    (bar,) = bars(svg)
    (lane,) = [r for r in svg.iter("rect") if r.get("class") == "lane"]
    assert float(bar.get("width")) / float(lane.get("width")) == pytest.approx(0.5, abs=0.002)
    offset = float(bar.get("x")) - float(lane.get("x"))
    assert offset / float(lane.get("width")) == pytest.approx(0.2, abs=0.002)
    assert bar.get("class") == "bar f3"
    assert "frame 3: compute 500 ms" in bar[0].text
    assert "3" in ["".join(text.itertext()) for text in svg.iter("text")]


def test_a_window_shows_what_lies_in_it(svgs):
    timeline = run(40)
    (svg,) = plots(svgs, timeline_plot(timeline, 0.2, 0.25))
    inside = [s for s in timeline.spans if s.end_s > 0.2 and s.start_s < 0.25]
    assert len(bars(svg)) == len(inside) < len(timeline.spans)
    lane = next(r for r in svg.iter("rect") if r.get("class") == "lane")
    left, right = float(lane.get("x")), float(lane.get("x")) + float(lane.get("width"))
    for bar in bars(svg):
        assert left - 0.01 <= float(bar.get("x"))
        assert float(bar.get("x")) + float(bar.get("width")) <= right + 0.9


def test_windows_of_a_long_run_have_one_scale():
    timeline = run(40)
    (_, _, start_s, end_s), (_, _, full_s, full_end_s) = windows_of(timeline, 10)
    assert start_s == 0
    assert full_end_s - full_s == pytest.approx(end_s)
    assert full_s > end_s / 2
    assert full_end_s <= timeline.length_s + 1e-9


def test_a_short_run_is_shown_whole():
    timeline = run(9)
    assert windows_of(timeline, 10) == [("The whole run", "9 frames", 0.0, timeline.length_s)]


def test_the_gap_of_a_long_run_is_not_shown():
    whole = run(200)
    kept = tuple(s for s in whole.spans if s.frame < 40 or s.frame >= 180)
    total = Busy(stage=0, action=COMPUTE, spans=len(whole.spans), busy_s=1.0)
    timeline = Timeline(stages=whole.stages, spans=kept, length_s=whole.length_s, totals=(total,))
    _, (_, _, start_s, end_s) = windows_of(timeline, 10)
    first = [s for s in whole.spans if s.frame < 40]
    assert end_s <= max(s.end_s for s in first) + 1e-9
    assert start_s > 0


def test_frames_need_not_begin_at_zero():
    whole = run(40)
    late = tuple(s for s in whole.spans if s.frame >= 12)
    timeline = Timeline(stages=whole.stages, spans=late, length_s=whole.length_s)
    assert len(windows_of(timeline, 10)) == 2


def test_no_spans():
    empty = Timeline(stages=("a",), spans=(), length_s=0.0)
    assert timeline_windows(empty, 10) == ""


def test_labels_stay_inside(svgs):
    for svg in plots(svgs, timeline_windows(run(names=("s" * 60, "stage 1 on arm", "c")), 10)):
        _, _, width, height = map(float, svg.get("viewBox").split())
        for text in svg.iter("text"):
            assert 0 <= float(text.get("x")) <= width
            assert 0 <= float(text.get("y")) <= height
            if text.get("class") == "stage-name":
                label = text[0].tail
                assert len(label) <= 20
                assert float(text.get("x")) >= 7.8 * len(label)


def test_names_are_escaped(svgs):
    markup = timeline_windows(run(names=("<script>", "&amp;\"'", "\x1b[2J")), 10)
    assert "<script" not in markup
    assert "\x1b" not in markup
    assert plots(svgs, markup)


def luminance(color):
    color = color if len(color) == 7 else "#" + "".join(2 * c for c in color[1:])
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_numbers_of_frames_can_be_read_in_both_themes(theme):
    surface = re.findall(r"--surface:(#\w+)", page("", timeline_plot(run(3), 0, 1)))[theme]
    shades = re.findall(r"--f\d:(#\w+)", timeline_chart.STYLE)[4 * theme : 4 * theme + 4]
    assert len(shades) == 4
    for shade in shades:
        assert contrast(shade, surface) >= 4.5
