import pytest

from tvm_iovt.report.occupancy_bars import occupancy_bars, occupancy_legend
from tvm_iovt.runtime.timeline import COMPUTE, RECEIVE, Span, Timeline


def span(lane, action, start_s, end_s):
    return Span(stage=0, lane=lane, frame=0, action=action, start_s=start_s, end_s=end_s)


def shares(svg):
    return {r.get("class"): float(r.get("width").rstrip("%")) for r in svg.iter("rect")}


def test_parts_of_the_bar_are_shares_of_the_run(svgs):
    spans = (span(0, RECEIVE, 0.0, 0.1), span(0, COMPUTE, 0.1, 0.6))
    markup = occupancy_bars(Timeline(stages=("near",), spans=spans, length_s=1.0))
    assert "50.0% computing, 1 lane" in markup
    (svg,) = svgs(markup)
    assert shares(svg) == {"track": 100, "receive": 10, "f1": 50}


def test_a_bar_is_full_when_all_lanes_are_busy(svgs):
    spans = tuple(
        part
        for lane in range(2)
        for part in (span(lane, RECEIVE, 0.0, 0.75), span(lane, COMPUTE, 0.75, 1.0))
    )
    markup = occupancy_bars(Timeline(stages=("near",), spans=spans, length_s=1.0))
    (svg,) = svgs(markup)
    found = shares(svg)
    assert found["receive"] + found["f1"] == pytest.approx(100)
    assert "50.0% computing, 2 lanes" in markup
    assert "receive 150.0%" in markup


def test_an_idle_stage(svgs):
    markup = occupancy_bars(Timeline(stages=("<b>",), spans=(), length_s=0.0))
    assert "0.0% computing" in markup
    assert "<b>" not in markup
    (svg,) = svgs(markup)
    assert svg.get("aria-label") == "<b>: idle"


def test_legend_names_all_actions():
    assert all(word in occupancy_legend() for word in ("receiving", "computing", "sending"))
