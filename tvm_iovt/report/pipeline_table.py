"""A run of a pipeline on the terminal."""

from __future__ import annotations

import math

from rich.table import Table

from tvm_iovt.report import plain
from tvm_iovt.report.tables import facts_table
from tvm_iovt.report.units import format_percent, format_seconds
from tvm_iovt.runtime.pipeline_statistics import PipelineStatistics
from tvm_iovt.types import Prediction


def pipeline_facts(
    statistics: PipelineStatistics,
    prediction: Prediction | None = None,
    *,
    sequential: bool = False,
) -> Table:
    """Frame rate and latencies, beside what the plan expected.

    Args:
        statistics: Of the run.
        prediction: Of the plan.
        sequential: Whether a frame entered only when the one before it had left.
    """
    expected_rate = expected_latency = ""
    if prediction is not None and prediction.period_s > 0:
        period_s = prediction.latency_s if sequential else prediction.period_s
        expected_rate = f" (predicted {1 / period_s:.4g})"
        expected_latency = f" (predicted for a frame alone {format_seconds(prediction.latency_s)})"
    p50, p90, p99 = (
        format_seconds(value) if math.isfinite(value) else "-"
        for value in (statistics.latency_p50_s, statistics.latency_p90_s, statistics.latency_p99_s)
    )
    return facts_table(
        [
            ("frames", f"{statistics.frames} in {format_seconds(statistics.length_s)}"),
            ("rate", f"{statistics.frames_per_s:.4g} frames/s{expected_rate}"),
            ("latency", f"median {p50}, p90 {p90}, p99 {p99}{expected_latency}"),
        ]
    )


def occupancy_table(statistics: PipelineStatistics) -> Table:
    """What each stage needs for a frame, and how busy it was."""
    table = plain.table(
        "Stages",
        note="Mean of a frame, without waiting for other stages; shares of the run.",
    )
    table.add_column("Stage", overflow="fold")
    for name in ("Receive", "Compute", "Send", "Computing", "Transferring"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in statistics.stages:
        mean = stage.mean
        table.add_row(
            plain.text(stage.name),
            *(format_seconds(s) for s in (mean.receive_s, mean.compute_s, mean.send_s)),
            format_percent(stage.occupancy),
            format_percent(stage.transfer_occupancy),
        )
    return table
