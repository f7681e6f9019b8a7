"""A partition plan in an HTML report: stages, reasons, alternatives, timeline, rooflines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tvm_iovt.cost_graph import CostGraph
from tvm_iovt.report import timeline_chart
from tvm_iovt.report.blocks import rows_table, section
from tvm_iovt.report.markup import Markup, breakable, element, joined
from tvm_iovt.report.plan_devices import STYLE as DEVICE_STYLE
from tvm_iovt.report.plan_devices import device_panels
from tvm_iovt.report.plan_stages import stages_panel
from tvm_iovt.report.plan_view import (
    PlanLike,
    Times,
    format_ratio,
    memory_by_target,
)
from tvm_iovt.report.predicted_timeline import predicted_timeline
from tvm_iovt.report.units import (
    counted,
    format_bytes,
    format_percent,
    format_seconds,
)
from tvm_iovt.types import Deployment, PartitionPlan, TargetSpec

FRAMES_SHOWN = 10

STYLE = (
    DEVICE_STYLE
    + timeline_chart.STYLE
    + """
.stack-panels{display:grid;gap:16px;grid-template-columns:minmax(0,1fr)}
h2+.stack-panels,h2+.panel.padded{margin-top:14px}
summary+.stack-panels{margin-top:14px}
.padded{padding:18px 20px 14px}
.padded>h3{margin-bottom:10px}
.padded>.lead{margin-bottom:12px}
.padded .facts{margin-top:12px}
.plan table{min-width:720px}
.plan td{overflow-wrap:anywhere}
.plan td.num{overflow-wrap:normal}
.plan.stages td:nth-child(2){min-width:104px}
.plan.stages td:nth-child(3){min-width:190px}
.plan:not(.stages) td:nth-child(-n+2){min-width:170px}
.plan td .soft{display:block;font-size:12.5px}
.reasons{margin:0;padding:0;list-style:none;display:grid;gap:9px;font-size:14px}
.reasons b{display:block;font-size:13.5px}
@media (max-width:600px){h2+.stack-panels,h2+.panel.padded{margin-top:14px}
.padded{padding:15px 14px}}
"""
)


def plan_sections(
    deployments: Sequence[Deployment], plans: Mapping[str, PlanLike] | None = None
) -> list[Markup]:
    """A section for each deployment with a predicted plan; but for the first one, folded.

    Args:
        deployments: Of a bundle.
        plans: What they were planned from, by their names, for what depends on units.
    """
    sections: list[Markup] = []
    for deployment in deployments:
        plan = deployment.plan
        if plan.prediction is None:
            continue
        made = (plans or {}).get(deployment.name)
        panels = (
            plan_panels(plan, None, deployment.targets, ())
            if made is None
            else plan_panels(plan, made.graph, made.targets, made.unit_s, made.measured)
        )
        if sections:  # those that were prepared beside the first one
            panels = element("details", element("summary", "The whole plan"), panels)
        sections.append(section(f"Plan of {deployment.name}", plan.reason, panels))
    return sections


def plan_panels(
    plan: PartitionPlan,
    graph: CostGraph | None,
    targets: Sequence[TargetSpec],
    unit_s: Times,
    measured: Times = (),
) -> Markup:
    """Everything of a plan but its title and its reason.

    Args:
        plan: With or without a prediction.
        graph: The network that was planned; None leaves out what depends on units.
        targets: That the planner could choose from.
        unit_s: Seconds that the plan rests on, a row for each of `targets`.
        measured: Of the same units, where they were measured.
    """
    panels = [stages_panel(plan, graph, targets)]
    if len(plan.stages) > 1:
        panels.append(_reasons_panel(plan))
    if plan.alternatives:
        panels.append(_alternatives_panel(plan))
    memory = _memory_panel(plan, targets)
    if memory:
        panels.append(memory)
    timeline = _timeline_panel(plan)
    if timeline:
        panels.append(timeline)
    if graph is not None:
        panels += device_panels(plan, graph, targets, unit_s, measured)
    return element("div", *panels, class_="stack-panels")


def _reasons_panel(plan: PartitionPlan) -> Markup:
    items = []
    for place, (before, after) in enumerate(zip(plan.stages, plan.stages[1:], strict=False)):
        reason = plan.reasons[place] if place < len(plan.reasons) else "No reason was recorded."
        where: list[str] = [f"{before.target} → {after.target}"]
        if before.units and before.units[-1] not in reason:
            where += [", behind ", element("code", breakable(before.units[-1]))]
        items.append(element("li", element("b", *where), reason))
    return element(
        "div",
        element("h3", "Why the cuts lie there"),
        element("ul", *items, class_="reasons"),
        class_="panel padded",
    )


def _alternatives_panel(plan: PartitionPlan) -> Markup:
    prediction = plan.prediction
    latency_s = prediction.latency_s if prediction is not None else 0.0
    period_s = prediction.period_s if prediction is not None else 0.0
    rows: list[list[str]] = []
    if prediction is not None:
        rows.append(
            [
                element("b", "this plan"),
                plan.reason,
                element("b", format_seconds(latency_s)),
                element("b", format_seconds(period_s)),
            ]
        )
    rows += [
        [
            breakable(other.name),
            other.reason,
            format_ratio(other.latency_s, latency_s),
            format_ratio(other.period_s, period_s),
        ]
        for other in plan.alternatives
    ]
    table = rows_table(("Plan", "Why, or why not", "Latency", "Period"), rows, numeric_from=2)
    return element(
        "div",
        element("h3", "What it was compared with"),
        element("div", table, class_="scroll plan"),
        class_="panel padded",
    )


def _memory_panel(plan: PartitionPlan, targets: Sequence[TargetSpec]) -> Markup:
    rows = [
        (
            name,
            format_bytes(nbytes),
            format_bytes(allowed) if allowed else "any",
            format_percent(nbytes / allowed) if allowed else "-",
        )
        for name, nbytes, allowed in memory_by_target(plan, targets)
        if nbytes
    ]
    if not rows:
        return joined()
    table = rows_table(("Target", "Needed", "Allowed", "Used"), rows, numeric_from=1)
    return element(
        "div",
        element("h3", "Memory"),
        element(
            "p",
            "Weights, the largest working set, and the buffers at both ends.",
            class_="soft small",
        ),
        element("div", table, class_="scroll"),
        class_="panel padded",
    )


def stage_names(plan: PartitionPlan) -> tuple[str, ...]:
    """`0 arm`: of the rows of a timeline."""
    return tuple(f"{stage.index} {stage.target}" for stage in plan.stages)


def _timeline_panel(plan: PartitionPlan) -> Markup:
    prediction = plan.prediction
    if prediction is None or not any(stage.compute_s for stage in prediction.stages):
        return joined()
    timeline = predicted_timeline(prediction, stage_names(plan), FRAMES_SHOWN)
    title = "Predicted timeline" if len(plan.stages) > 1 else "Predicted timeline of the stage"
    return element(
        "div",
        element("h3", title),
        element(
            "p",
            f"The first {counted(FRAMES_SHOWN, 'frame')} of a full pipeline, from the predicted "
            "times of the steps. A row is a frame's place in a stage; a stage computes one frame "
            "at a time.",
            class_="soft small",
        ),
        timeline_chart.timeline_windows(timeline, FRAMES_SHOWN),
        class_="panel padded",
    )
