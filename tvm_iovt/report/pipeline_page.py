"""The report of a pipelined run as one HTML file that needs no server, font, script or network."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm_iovt.report import timeline_chart
from tvm_iovt.report.blocks import facts_list, rows_table, section, tiles_panel
from tvm_iovt.report.markup import Markup, breakable, element, joined
from tvm_iovt.report.occupancy_bars import STYLE as BARS_STYLE
from tvm_iovt.report.occupancy_bars import occupancy_bars, occupancy_legend
from tvm_iovt.report.page import page
from tvm_iovt.report.plan_section import STYLE, stage_names
from tvm_iovt.report.plan_view import frames_per_s, source_words, with_band
from tvm_iovt.report.predicted_timeline import predicted_timeline
from tvm_iovt.report.units import counted, format_percent, format_seconds
from tvm_iovt.runtime.pipeline_statistics import PipelineStatistics
from tvm_iovt.runtime.timeline import Timeline
from tvm_iovt.types import PartitionPlan, Prediction

FRAMES_SHOWN = 12

_STYLE = (
    STYLE
    + BARS_STYLE
    + """
.tiles dd{white-space:normal;overflow-wrap:anywhere}
td .off{color:var(--bad)}
"""
)


def pipeline_page(
    *,
    model_name: str,
    deployment: str,
    timeline: Timeline,
    statistics: PipelineStatistics,
    plan: PartitionPlan | None = None,
    facts: Sequence[tuple[str, str]] = (),
    sequential: bool = False,
) -> str:
    """How fast a pipeline was, how busy its stages were, what each did when, and what was expected.

    Args:
        model_name: Of the bundle.
        deployment: Its name in the bundle.
        timeline: Of the run.
        statistics: Of the same run.
        plan: Of the deployment; without one, or without a prediction, nothing is compared.
        facts: Names and values of what else there is to say about the run: its source, the machine.
        sequential: Whether a frame began only when the one before it was done.

    Returns:
        A complete HTML document. Every string is escaped.
    """
    prediction = _prediction(plan, statistics)
    panels = [_occupancy(timeline)]
    if timeline.spans:
        panels.append(_timeline(timeline))
    if plan is not None and prediction is not None and not sequential:
        panels.append(_expected_timeline(plan, prediction))
    sections = [
        section("Stages", _stages_lead(statistics), _stages(statistics, prediction)),
        section("When", "", element("div", *panels, class_="stack-panels")),
    ]
    header = element(
        "header",
        element("p", "tvm-iovt pipeline", class_="eyebrow"),
        element("h1", breakable(model_name)),
        element("p", element("span", f"deployment {deployment}"), class_="meta"),
        tiles_panel(_tiles(statistics, prediction, sequential=sequential)),
    )
    known = [(name, value) for name, value in facts if value]
    if plan is not None:
        known.append(("Plan", f"{plan.objective}: {plan.reason}"))
    if known:
        panel = element("div", facts_list(known), class_="panel padded")
        sections.append(section("The run", "", panel))
    body = joined(header, element("main", *sections), _footer(prediction))
    return page(f"{model_name} on {deployment} - tvm-iovt pipeline", body, style=_STYLE)


def _prediction(plan: PartitionPlan | None, statistics: PipelineStatistics) -> Prediction | None:
    """What to compare with: a prediction of as many stages as ran."""
    if plan is None or plan.prediction is None:
        return None
    fits = len(plan.prediction.stages) == len(statistics.stages)
    return plan.prediction if fits else None


def _tiles(
    statistics: PipelineStatistics, prediction: Prediction | None, *, sequential: bool
) -> list[tuple[str, str, str]]:
    period_s = 1 / statistics.frames_per_s if statistics.frames_per_s > 0 else 0.0
    rate_note = latency_note = ""
    if prediction is not None:
        expected_s = prediction.latency_s if sequential else prediction.period_s
        expected = with_band(frames_per_s(expected_s), prediction).replace("+-", "±")
        rate_note = f"{expected} predicted"
        alone = format_seconds(prediction.latency_s)
        latency_note = f"{alone} predicted for a frame alone; "
    p90, p99 = map(format_seconds, (statistics.latency_p90_s, statistics.latency_p99_s))
    tiles = [
        ("Frame rate", frames_per_s(period_s), rate_note or "in the steady state"),
        (
            "Latency",
            format_seconds(statistics.latency_p50_s),
            f"{latency_note}p90 {p90}, p99 {p99}",
        ),
        ("Frames", str(statistics.frames), f"in {format_seconds(statistics.length_s)}"),
    ]
    if statistics.stages:
        busiest = max(statistics.stages, key=lambda stage: stage.occupancy)
        note = f"{format_percent(busiest.occupancy)} of the run computing"
        tiles.append(("Busiest stage", busiest.name, note))
    return tiles


def _stages_lead(statistics: PipelineStatistics) -> str:
    return (
        "Mean seconds a frame, without waiting for other stages. The latency of a frame counts its "
        "waiting in the queues between full stages."
        if statistics.frames
        else "No frame came out."
    )


def _stages(statistics: PipelineStatistics, prediction: Prediction | None) -> Markup:
    names = ["Stage", "Receive", "Compute", "Send"]
    if prediction is not None:
        names += ["Predicted compute", "Measured / predicted"]
    names += ["Computing", "Transferring"]
    rows = []
    for index, stage in enumerate(statistics.stages):
        mean = stage.mean
        row: list[str] = [
            element("b", stage.name),
            _seconds(mean.receive_s),
            _seconds(mean.compute_s),
            _seconds(mean.send_s),
        ]
        if prediction is not None:
            expected_s = prediction.stages[index].kernels_s
            row += [
                format_seconds(expected_s),
                _ratio(mean.compute_s, expected_s, prediction.noise),
            ]
        row += [format_percent(stage.occupancy), format_percent(stage.transfer_occupancy)]
        rows.append(row)
    notes = "Computing and transferring: shares of the run."
    if prediction is not None:
        notes += f" Predictions: {source_words(prediction)}"
        band = format_percent(prediction.noise)
        notes += f", ±{band}; ratios outside of that band are red." if prediction.noise else "."
    table = rows_table(names, rows, numeric_from=1)
    return element(
        "div",
        element("div", table, class_="scroll"),
        element("p", notes, class_="soft small"),
        class_="panel padded",
    )


def _seconds(seconds: float) -> str:
    return format_seconds(seconds) if seconds else "-"


def _ratio(measured_s: float, expected_s: float, noise: float) -> Markup:
    if expected_s <= 0 or not math.isfinite(measured_s):
        return element("span", "-")
    ratio = measured_s / expected_s
    off = noise > 0 and not 1 - noise <= ratio <= 1 + noise
    return element("span", f"{ratio:.2f}x", class_="off" if off else None)


def _occupancy(timeline: Timeline) -> Markup:
    return element(
        "div",
        element("h3", "How busy the stages were"),
        element(
            "p",
            "Shares of the run, filling and emptying included; a bar is full where all lanes of "
            "the stage were always busy.",
            class_="soft small",
        ),
        occupancy_legend(),
        occupancy_bars(timeline),
        class_="panel padded",
    )


def _timeline(timeline: Timeline) -> Markup:
    left_out = timeline.left_out
    note = "A row is a lane, which carries one frame at a time; a stage computes one at a time."
    if left_out:
        note += f" {counted(left_out, 'span')} in the middle of the run were not recorded."
    return element(
        "div",
        element("h3", "Measured timeline"),
        element("p", note, class_="soft small"),
        timeline_chart.timeline_windows(timeline, FRAMES_SHOWN),
        class_="panel padded",
    )


def _expected_timeline(plan: PartitionPlan, prediction: Prediction) -> Markup:
    timeline = predicted_timeline(prediction, stage_names(plan), FRAMES_SHOWN)
    return element(
        "div",
        element("h3", "Predicted timeline"),
        element(
            "p",
            f"The first {counted(FRAMES_SHOWN, 'frame')} as the plan expects them.",
            class_="soft small",
        ),
        timeline_chart.timeline_windows(timeline, FRAMES_SHOWN),
        class_="panel padded",
    )


def _footer(prediction: Prediction | None) -> Markup:
    text = "Everything but the predictions was measured in this run."
    return element(
        "footer", element("p", text if prediction is not None else "Measured in this run.")
    )
