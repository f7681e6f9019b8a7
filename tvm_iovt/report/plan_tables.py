"""A partition plan on the terminal: stages, cuts, what it was compared with, memory, units."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tvm_iovt.cost_graph import CostGraph
from tvm_iovt.report import plain
from tvm_iovt.report.plan_view import (
    StageView,
    Times,
    format_ratio,
    frames_per_s,
    known_time,
    memory_by_target,
    objective_words,
    sets_period,
    source_words,
    stage_views,
    unit_stages,
    with_band,
)
from tvm_iovt.report.tables import facts_table
from tvm_iovt.report.units import (
    counted,
    format_bytes,
    format_flops,
    format_percent,
    format_seconds,
    format_seconds_range,
    printable,
)
from tvm_iovt.types import PartitionPlan, Prediction, TargetSpec

_FEW_TARGETS = 2  # with more of them there is no room for kinds and bytes in 80 columns


def plan_tables(
    plan: PartitionPlan,
    graph: CostGraph,
    unit_s: Times,
    targets: Sequence[TargetSpec],
    *,
    measured: Times = (),
    verbosity: int = 0,
) -> list[RenderableType]:
    """All of a plan, part by part; a blank line precedes each but the first.

    Args:
        plan: What was decided.
        graph: The network that was planned.
        unit_s: Seconds that the plan rests on, a row for each of `targets`.
        targets: That the planner could choose from.
        measured: Of the same units, where they were measured; empty without measurements.
        verbosity: From 1 on, every unit with its time on each target.
    """
    parts: list[RenderableType] = [plan_facts(plan, graph), stages_table(plan, graph, targets)]
    if len(plan.stages) > 1:
        parts.append(cut_reasons(plan))
    if plan.alternatives:
        parts.append(alternatives_table(plan))
    if plan.prediction is not None and any(s.memory_bytes for s in plan.prediction.stages):
        parts.append(memory_table(plan, targets))
    if verbosity > 0:
        parts.append(units_table(plan, graph, unit_s, targets, measured=measured))
    return [parts[0], *(Group(Text(""), part) for part in parts[1:])]


def plan_facts(plan: PartitionPlan, graph: CostGraph | None = None) -> Table:
    """What the plan is for, why it was chosen, and what it promises."""
    facts = [("objective", objective_words(plan)), ("plan", plan.reason)]
    if graph is not None:
        flops = sum(unit.flops for unit in graph.units)
        weights = sum(unit.bytes_weights for unit in graph.units)
        facts.append(
            (
                "network",
                f"{counted(len(graph.units), 'unit')}, {format_flops(flops)}, "
                f"{format_bytes(weights)} of weights",
            )
        )
    if plan.prediction is not None:
        facts += _prediction_facts(plan.prediction)
    return facts_table((name, value) for name, value in facts if value)


def stages_table(
    plan: PartitionPlan, graph: CostGraph | None = None, targets: Sequence[TargetSpec] = ()
) -> Table:
    """What each stage does, where, and how long it is expected to take."""
    prediction = plan.prediction
    note = ""
    if prediction is not None:
        note = "W: weights. Below the compute time: its share of the period."
        setter = sets_period(prediction)
        if setter:
            note += f" The period is that of {setter}."
    table = plain.table("Stages", note=note, leading=1 if len(plan.stages) > 1 else 0)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("Target", overflow="fold", min_width=11)
    table.add_column("Units", overflow="fold", ratio=1, min_width=12)
    names = ["Work"]
    if prediction is not None:
        names += ["Transfers", "Compute", "Memory"]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for view in stage_views(plan, graph, targets):
        table.add_row(*_stage_cells(view))
    return table


def cut_reasons(plan: PartitionPlan) -> Group:
    """Why each cut lies where it does."""
    parts: list[RenderableType] = [Text("Cuts", style="bold")]
    for place, (before, after) in enumerate(zip(plan.stages, plan.stages[1:], strict=False)):
        reason = plan.reasons[place] if place < len(plan.reasons) else "no reason was recorded"
        named = not before.units or before.units[-1] in reason
        behind = "" if named else f" behind {before.units[-1]}"
        line = Text(f"{printable(before.target)} | {printable(after.target)}{printable(behind)}: ")
        line.append(printable(reason))
        parts.append(Padding(line, (0, 0, 0, 2)))
    return Group(*parts)


def alternatives_table(plan: PartitionPlan) -> Table:
    """Plans that were not chosen, best first; times beside those of the chosen plan."""
    prediction = plan.prediction
    note = "" if prediction is None else "1.00x is the chosen plan."
    table = plain.table("Alternatives", note=note)
    table.add_column("Plan", overflow="fold", min_width=16)
    table.add_column("Latency", justify="right", no_wrap=True)
    table.add_column("Period", justify="right", no_wrap=True)
    table.add_column("Why not", overflow="fold", ratio=1, min_width=16)
    latency_s = prediction.latency_s if prediction is not None else 0.0
    period_s = prediction.period_s if prediction is not None else 0.0
    for other in plan.alternatives:
        table.add_row(
            plain.text(other.name),
            format_ratio(other.latency_s, latency_s),
            format_ratio(other.period_s, period_s),
            plain.text(other.reason),
        )
    return table


def memory_table(plan: PartitionPlan, targets: Sequence[TargetSpec]) -> Table:
    """What the stages need on each target, and what they may use there."""
    note = "Weights, the largest working set, and the buffers at both ends."
    table = plain.table("Memory", note=note)
    table.add_column("Target", overflow="fold")
    for name in ("Needed", "Allowed", "Used"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, nbytes, allowed in memory_by_target(plan, targets):
        table.add_row(
            plain.text(name),
            format_bytes(nbytes),
            format_bytes(allowed) if allowed else "any",
            format_percent(nbytes / allowed) if allowed else "-",
        )
    return table


def units_table(
    plan: PartitionPlan,
    graph: CostGraph,
    unit_s: Times,
    targets: Sequence[TargetSpec],
    *,
    measured: Times = (),
) -> Table:
    """Every unit, its stage, and its time on each target; the plan's choice has an asterisk."""
    known = any(
        known_time(measured, target, unit.index) is not None
        for target in range(len(targets))
        for unit in graph.units
    )
    note = "*: where the plan runs it."
    if known:
        note += " m: measured; the others are predicted."
    roomy = len(targets) <= _FEW_TARGETS
    table = plain.table("Units", note=note)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("Unit", overflow="fold", ratio=1, min_width=12)
    if roomy:
        table.add_column("Kind", no_wrap=True)
    for name in ("FLOPs", "Bytes") if roomy else ("FLOPs",):
        table.add_column(name, justify="right", no_wrap=True)
    for target in targets:
        name, at, launcher = target.name.partition("@")
        lines = (name, at + launcher) if at else (name,)
        table.add_column(plain.text(*lines), justify="right", no_wrap=True, overflow="crop")
    stage_of = unit_stages(plan, graph)
    for unit in graph.units:
        place = stage_of[unit.index]
        chosen = plan.stages[place].target if place >= 0 else ""
        cells: list[str | Text] = [
            str(unit.index),
            plain.text(unit.name),
            *((unit.kind,) if roomy else ()),
            format_flops(unit.flops) if unit.flops else "-",
            *((format_bytes(unit.nbytes) if unit.nbytes else "-",) if roomy else ()),
        ]
        for column, target in enumerate(targets):
            cells.append(_unit_time(unit_s, measured, column, unit.index, target.name == chosen))
        table.add_row(*cells)
    return table


def _prediction_facts(prediction: Prediction) -> list[tuple[str, str]]:
    rate = frames_per_s(prediction.period_s)
    facts = [
        ("latency", _in_words(prediction.latency_s, prediction)),
        ("period", f"{_in_words(prediction.period_s, prediction)}; {rate}"),
    ]
    if prediction.transfer_s:
        share = prediction.transfer_s / prediction.latency_s if prediction.latency_s else 0.0
        text = f"{format_seconds(prediction.transfer_s)} of the latency"
        facts.append(("transfers", f"{text} ({format_percent(share)})"))
    if prediction.energy_j:
        facts.append(("energy", f"{prediction.energy_j * 1e3:.3g} mJ a frame beyond idling"))
    facts.append(("numbers", f"{prediction.source}: {source_words(prediction)}"))
    return facts


def _in_words(seconds: float, prediction: Prediction) -> str:
    """`12.3 ms +-8.0% (11.3 .. 13.3 ms)`."""
    text = with_band(format_seconds(seconds), prediction)
    if not prediction.noise:
        return text
    low_s, high_s = seconds * (1 - prediction.noise), seconds * (1 + prediction.noise)
    return f"{text} ({format_seconds_range(max(low_s, 0.0), high_s)})"


def _stage_cells(view: StageView) -> list[str | Text]:
    first, last = view.ends
    lines = [first] if first == last else [first, f".. {last}"]
    if view.count:
        lines.append(counted(view.count, "unit"))
    cells: list[str | Text] = [
        str(view.stage.index),
        plain.text(view.stage.target, view.threads),
        plain.text(*lines) if view.count else Text("the whole network"),
        plain.text(
            format_flops(view.flops) if view.flops else "-",
            *((f"{format_bytes(view.bytes_weights)} W",) if view.bytes_weights else ()),
        ),
    ]
    expected = view.prediction
    if expected is not None:
        moved = [f"{format_seconds(expected.receive_s)} in"] if expected.receive_s else []
        if expected.bytes_in:
            moved.append(format_bytes(expected.bytes_in))
        if expected.send_s:
            moved.append(f"{format_seconds(expected.send_s)} out")
        cells += [
            plain.text(*(moved or ("-",))),
            plain.text(format_seconds(expected.compute_s), format_percent(view.share)),
            format_bytes(expected.memory_bytes) if expected.memory_bytes else "-",
        ]
    return cells


def _unit_time(unit_s: Times, measured: Times, target: int, unit: int, chosen: bool) -> Text:
    """A time with its marks, or a dash where the target cannot run the unit."""
    mark = "*" if chosen else ""
    seconds = known_time(measured, target, unit)
    if seconds is not None:
        return Text(f"{mark}m {format_seconds(seconds)}", style="bold" if chosen else "")
    if target >= len(unit_s) or unit >= len(unit_s[target]):
        return Text("-")
    seconds = unit_s[target][unit]
    if seconds == float("inf"):
        return Text("cannot", style="dim")
    return Text(f"{mark} {format_seconds(seconds)}".lstrip(), style="bold" if chosen else "")
