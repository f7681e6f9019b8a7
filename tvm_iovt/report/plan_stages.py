"""The stages of a plan in an HTML report, and what they promise."""

from __future__ import annotations

from collections.abc import Sequence

from tvm_iovt.cost_graph import CostGraph
from tvm_iovt.report.blocks import facts_list, rows_table
from tvm_iovt.report.markup import Markup, breakable, element, joined
from tvm_iovt.report.plan_view import (
    StageView,
    frames_per_s,
    objective_words,
    sets_period,
    source_words,
    stage_views,
    with_band,
)
from tvm_iovt.report.units import (
    counted,
    format_bytes,
    format_flops,
    format_percent,
    format_seconds,
)
from tvm_iovt.types import PartitionPlan, TargetSpec


def stages_panel(
    plan: PartitionPlan, graph: CostGraph | None, targets: Sequence[TargetSpec]
) -> Markup:
    """What each stage does, where, how long it is expected to take, and what all promise."""
    views = stage_views(plan, graph, targets)
    predicted = plan.prediction is not None
    names = ["", "Target", "Units", "FLOPs", "Weights"]
    if predicted:
        names += ["Receive", "Compute", "Send", "Memory", "Share"]
    rows = [_stage_row(view) for view in views]
    table = rows_table(names, rows, numeric_from=3)
    notes = []
    if plan.prediction is not None:
        notes.append("Share: of the period, that the stage's kernels take.")
        setter = sets_period(plan.prediction)
        if setter:
            notes.append(f"The period is that of {setter}.")
    note = element("p", " ".join(notes), class_="soft small") if notes else joined()
    return element(
        "div",
        element("h3", "Stages"),
        element("div", table, class_="scroll plan stages"),
        note,
        facts_list(promise_facts(plan)),
        class_="panel padded",
    )


def _stage_row(view: StageView) -> list[str]:
    first, last = view.ends
    if not view.count:
        units: Markup = element("span", "the whole network")
    else:
        names = [element("code", breakable(first))]
        if last != first:
            names += [joined(" … "), element("code", breakable(last))]
        units = joined(*names, element("span", counted(view.count, "unit"), class_="soft"))
    row: list[str] = [
        str(view.stage.index),
        joined(view.stage.target, element("span", view.threads, class_="soft")),
        units,
        format_flops(view.flops) if view.flops else "-",
        format_bytes(view.bytes_weights) if view.bytes_weights else "-",
    ]
    expected = view.prediction
    if expected is not None:
        received = format_seconds(expected.receive_s) if expected.receive_s else "-"
        moved = format_bytes(expected.bytes_in) if expected.bytes_in else ""
        row += [
            joined(received, element("span", moved, class_="soft")) if moved else received,
            format_seconds(expected.compute_s),
            format_seconds(expected.send_s) if expected.send_s else "-",
            format_bytes(expected.memory_bytes) if expected.memory_bytes else "-",
            format_percent(view.share),
        ]
    return row


def promise_facts(plan: PartitionPlan) -> list[tuple[str, str]]:
    """What the plan is for and what it promises."""
    facts = [("Objective", objective_words(plan))]
    prediction = plan.prediction
    if prediction is not None:
        rate = frames_per_s(prediction.period_s)
        facts += [
            ("Latency", _exact(with_band(format_seconds(prediction.latency_s), prediction))),
            (
                "Period",
                _exact(with_band(format_seconds(prediction.period_s), prediction)) + f", {rate}",
            ),
        ]
        if prediction.transfer_s:
            facts.append(("Transfers", f"{format_seconds(prediction.transfer_s)} of the latency"))
        if prediction.energy_j:
            facts.append(("Energy", f"{prediction.energy_j * 1e3:.3g} mJ a frame beyond idling"))
        facts.append(("Numbers", source_words(prediction)))
    return facts


def _exact(text: str) -> str:
    return text.replace("+-", "±")
