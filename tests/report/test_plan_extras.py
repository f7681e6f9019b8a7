"""Findings of the planners for two devices, on the terminal."""

from __future__ import annotations

import dataclasses
import io
import math

from tvm_iovt.partition.findings import (
    CutSpan,
    FixedCut,
    FrontPoint,
    OperatorSplit,
    OperatorSplits,
    ParetoFront,
    ServedModel,
    SharedServer,
    TraceReplay,
)
from tvm_iovt.report.plan_extras import pareto_tables, shared_tables, split_tables, trace_tables
from tvm_iovt.report.tables import render
from tvm_iovt.types import Decision, Link

LINK = Link(src="arm", dst="host", bytes_per_s=1e6, latency_s=2e-3)
NASTY = "conv\x1b[2J[red]"


def printed(parts) -> str:
    stream = io.StringIO()
    for part in parts:
        render(part, stream)
    return stream.getvalue()


def point(position: int, cut: str, latency_s: float) -> FrontPoint:
    return FrontPoint(
        position=position,
        cut=cut,
        latency_s=latency_s,
        period_s=latency_s / 2,
        edge_bytes=position * 1_000_000,
        limit_share=position / 10,
    )


def front(link: Link | None = LINK) -> ParetoFront:
    points = (point(0, "", 0.010), point(3, NASTY, 0.012), point(5, "", 0.030))
    return ParetoFront(
        model_name="net",
        units=5,
        edge="arm",
        server="host",
        link=link,
        memory_bytes=100_000_000,
        memory_share=0.1,
        limit_bytes=1e7,
        rule="knee",
        reason="because",
        chosen=1,
        front=points,
        fastest=points[0],
        source="assumed",
    )


def test_the_front_names_both_ends_and_marks_the_choice():
    text = printed(pareto_tables(front()))
    rows = [line.split() for line in text.splitlines() if " + " in line]
    assert [row[:3] for row in rows] == [
        ["all", "on", "host"],
        ["*", "behind", "conv\\x1b[2J[red]"],
        ["all", "on", "arm"],
    ]
    assert rows[1][-7:] == ["12.0", "ms", "6.00", "ms", "3.0", "MB", "30.0%"]
    assert "10.0 MB of its 100.0 MB may be used (10%)" in text
    assert "1.0 MB/s, 2.00 ms (stated)" in text
    assert "\x1b" not in text


def test_one_machine_has_no_link():
    assert "parts of one machine" in printed(pareto_tables(front(link=None)))


def trace(spans: int) -> TraceReplay:
    cuts = tuple(
        FixedCut(position=p, cut="", nbytes=n, mean_s=m, p90_s=2 * m, chosen=0.5)
        for p, n, m in ((0, 1000, 0.020), (5, 0, 0.030))
    )
    return TraceReplay(
        model_name="net",
        units=5,
        edge="arm",
        server="host",
        link=LINK,
        frames=100,
        frame_interval_s=0.1,
        dynamic_mean_s=0.010,
        dynamic_p90_s=0.011,
        oracle_mean_s=0.005,
        oracle_p90_s=0.006,
        switches=spans - 1,
        cuts=cuts,
        best_fixed=0,
        spans=tuple(
            CutSpan(begin_s=i, end_s=i + 1, position=5 * (i % 2), cut="") for i in range(spans)
        ),
        source="measured",
    )


def test_policies_are_compared_with_the_dynamic_one():
    lines = printed(trace_tables(trace(3))).splitlines()
    by_name = {line.split("  ")[0]: line for line in lines}
    assert "1.00x" in by_name["dynamic"]
    assert "0.50x" in by_name["oracle"]
    assert "2.00x" in by_name["all on host *"]
    assert "3.00x" in by_name["all on arm"]


def test_many_switches_are_shown_when_asked_for():
    short, full = (printed(trace_tables(trace(40), verbosity=v)) for v in (0, 1))
    assert "28 more; -v shows them." in short
    assert "39.00 s" not in short
    assert "39.00 s" in full
    assert "more; -v" not in full


def test_models_that_cannot_run_without_the_server_say_so():
    model = ServedModel(
        model_name="net",
        units=5,
        position=0,
        cut="",
        cores=3,
        latency_s=0.004,
        edge_s=0.0,
        transfer_s=0.001,
        server_s=0.003,
        edge_only_s=math.inf,
        alone_s=0.004,
    )
    shared = SharedServer(
        edge="arm",
        server="host",
        cores=4,
        link=LINK,
        models=(model,),
        longest_s=0.004,
        equal_s=0.004,
        source="datasheet",
    )
    text = printed(shared_tables(shared))
    (row,) = (line for line in text.splitlines() if line.startswith("net"))
    assert row.split()[-1] == "inf"
    assert "3 of 4 cores are used" in text


def test_refused_splits_are_explained_when_asked_for():
    split = OperatorSplit(
        unit="conv0",
        kind="conv",
        axis="rows",
        parts=(5, 3),
        split_s=0.003,
        alone_s=0.004,
        gain=0.25,
        halo_rows=2,
    )
    refused = Decision(transform="SplitOperator", subject="b", applied=False, reason="too small")
    found = OperatorSplits(
        model_name="net",
        first="host",
        second="cuda",
        network_s=0.02,
        splits=(split,),
        refused=(refused,),
        margin=0.05,
        source="assumed",
    )
    short, full = (printed(split_tables(found, verbosity=v)) for v in (0, 1))
    assert "1 of 2 convolutions, by 5% at least" in short
    assert "1.00 ms by all of them together" in short
    assert "5 + 3 rows" in short
    assert "25.0%" in short
    assert "too small" not in short
    assert "too small" in full
    nothing = printed(split_tables(dataclasses.replace(found, splits=())))
    assert "0 of 1 convolution" in nothing
    assert "together" not in nothing
