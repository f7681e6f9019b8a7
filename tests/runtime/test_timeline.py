from __future__ import annotations

import pytest

from tvm_iovt.json_codec import from_json, to_json
from tvm_iovt.runtime.timeline import Busy, Span, Timeline


def span(stage: int, action: str, start_s: float, end_s: float) -> Span:
    return Span(stage=stage, lane=0, frame=0, action=action, start_s=start_s, end_s=end_s)


SPANS = (
    span(0, "compute", 0.0, 2.0),
    span(0, "send", 2.0, 2.5),
    span(1, "compute", 2.5, 3.5),
    span(0, "compute", 3.0, 4.0),
)


def test_sums_come_from_the_spans_where_these_are_all() -> None:
    timeline = Timeline(stages=("a", "b"), spans=SPANS, length_s=4.0)
    assert timeline.busy_s(0) == 3.0
    assert timeline.occupancy(0) == 0.75
    assert timeline.occupancy(0, "send") == 0.125
    assert timeline.occupancy(1, "receive") == 0
    assert timeline.left_out == 0


def test_sums_of_a_long_run_are_of_all_spans() -> None:
    totals = (Busy(stage=0, action="compute", spans=30, busy_s=70.0),)
    timeline = Timeline(stages=("a",), spans=SPANS[:1], length_s=100.0, totals=totals)
    assert timeline.occupancy(0) == pytest.approx(0.7)
    assert timeline.left_out == 29


def test_an_empty_run() -> None:
    assert Timeline(stages=("a",), spans=(), length_s=0.0).occupancy(0) == 0


def test_to_json_and_back() -> None:
    totals = (Busy(stage=0, action="compute", spans=30, busy_s=70.0),)
    timeline = Timeline(stages=("a", "b"), spans=SPANS, length_s=4.0, totals=totals)
    assert from_json(Timeline, to_json(timeline)) == timeline
