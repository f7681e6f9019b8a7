"""The report of a plan as one HTML file that needs no server, font, script or network."""

from __future__ import annotations

from tvm_iovt.report.blocks import section, tiles_panel
from tvm_iovt.report.markup import Markup, breakable, element, joined
from tvm_iovt.report.page import page
from tvm_iovt.report.plan_section import STYLE, plan_panels
from tvm_iovt.report.plan_view import (
    PlanLike,
    frames_per_s,
    known_time,
    objective_words,
    unit_stages,
)
from tvm_iovt.report.units import (
    counted,
    format_bytes,
    format_flops,
    format_percent,
    format_seconds,
    format_shape,
)

_STYLE = (
    STYLE
    + """
td.chosen{font-weight:650}
td.chosen::before{content:"";display:inline-block;width:7px;height:7px;border-radius:4px;
background:var(--work);margin-right:6px;vertical-align:1px}
"""
)


def plan_page(planned: PlanLike) -> str:
    """Stages and why they were chosen, the timeline, rooflines, and every unit's times.

    Args:
        planned: The plan with the network and the targets that it was made for.

    Returns:
        A complete HTML document. Every string of the plan is escaped.
    """
    plan = planned.plan
    sections = [
        section(
            "The plan",
            plan.reason,
            plan_panels(plan, planned.graph, planned.targets, planned.unit_s, planned.measured),
        ),
        _units(planned),
    ]
    body = joined(_header(planned), element("main", *sections), _footer())
    return page(f"{planned.model_name} - tvm-iovt plan", body, style=_STYLE)


def _header(planned: PlanLike) -> Markup:
    names = ", ".join(target.name for target in planned.targets)
    facts = (f"for {names}", objective_words(planned.plan))
    return element(
        "header",
        element("p", "tvm-iovt plan", class_="eyebrow"),
        element("h1", breakable(planned.model_name)),
        element("p", *(element("span", fact) for fact in facts), class_="meta"),
        tiles_panel(_tiles(planned)),
    )


def _tiles(planned: PlanLike) -> list[tuple[str, str, str]]:
    plan, units = planned.plan, planned.graph.units
    tiles = []
    prediction = plan.prediction
    if prediction is not None:
        band = f"±{format_percent(prediction.noise)}, " if prediction.noise else ""
        tiles += [
            ("Latency", format_seconds(prediction.latency_s), f"{band}{prediction.source}"),
            (
                "Period",
                format_seconds(prediction.period_s),
                frames_per_s(prediction.period_s),
            ),
        ]
        if len(plan.stages) > 1:
            share = prediction.transfer_s / prediction.latency_s if prediction.latency_s else 0.0
            note = f"{format_percent(share)} of the latency"
            tiles.append(("Transfers", format_seconds(prediction.transfer_s), note))
    stages = len(plan.stages)
    tiles.append(("Stages", str(stages), f"on {counted(_used(planned), 'target')}"))
    flops = sum(unit.flops for unit in units)
    weights = format_bytes(sum(unit.bytes_weights for unit in units))
    note = f"{counted(len(units), 'unit')}, {weights} of weights"
    tiles.append(("Work", format_flops(flops), note))
    return tiles


def _used(planned: PlanLike) -> int:
    return len({stage.target for stage in planned.plan.stages})


def _units(planned: PlanLike) -> Markup:
    if not planned.graph.units:
        return section("Units", "The network has none.")
    names = ("#", "Unit", "Kind", "Output", "FLOPs", "Bytes", "FLOP/B")
    kinds = ("num", "name", None, "wide", "num", "num wide", "num wide")
    head = [element("th", name, class_=kind) for name, kind in zip(names, kinds, strict=True)]
    head += [element("th", target.name, class_="num") for target in planned.targets]
    table = element(
        "table",
        element("thead", element("tr", *head)),
        element("tbody", *_unit_rows(planned)),
        id="sortable",
        class_="operators",
    )
    # Hidden until the script that makes it work has run.
    tools = element(
        "div",
        element(
            "input",
            id="filter",
            type="search",
            placeholder="Filter by name or kind",
            aria_label="Filter units",
        ),
        element("span", id="count", class_="soft small"),
        class_="tools no-script",
    )
    return section(
        "Units",
        "What the compiler makes one kernel of, in the order of the graph, with the time on each "
        "target; a dot marks where the plan runs it, m a measured time.",
        element("div", tools, element("div", table, class_="scroll"), class_="panel"),
    )


def _unit_rows(planned: PlanLike) -> list[Markup]:
    stage_of = unit_stages(planned.plan, planned.graph)
    rows = []
    for unit in planned.graph.units:
        place = stage_of[unit.index]
        chosen = planned.plan.stages[place].target if place >= 0 else ""
        shape = format_shape(unit.shape_out) if unit.shape_out else ""
        cells = [
            element("td", str(unit.index), class_="num soft", data_value=unit.index),
            element(
                "td", element("code", breakable(unit.name)), class_="name", data_value=unit.name
            ),
            element("td", unit.kind, data_value=unit.kind),
            element("td", shape, class_="wide mono", data_value=shape),
            _number(format_flops(unit.flops) if unit.flops else "-", unit.flops, "num"),
            _number(format_bytes(unit.nbytes) if unit.nbytes else "-", unit.nbytes, "num wide"),
            _number(f"{unit.intensity:.2f}" if unit.flops else "-", unit.intensity, "num wide"),
        ]
        for column, target in enumerate(planned.targets):
            cells.append(_time_cell(planned, column, unit.index, target.name == chosen))
        rows.append(element("tr", *cells))
    return rows


def _time_cell(planned: PlanLike, target: int, unit: int, chosen: bool) -> Markup:
    class_ = "num chosen" if chosen else "num"
    measured_s = known_time(planned.measured, target, unit)
    if measured_s is not None:
        return _number(f"{format_seconds(measured_s)} m", measured_s, class_)
    seconds = known_time(planned.unit_s, target, unit)
    if seconds is not None:
        return _number(format_seconds(seconds), seconds, class_)
    row = planned.unit_s[target] if target < len(planned.unit_s) else ()
    cannot = unit < len(row) and row[unit] == float("inf")
    # Sorted behind all times.
    return _number("cannot" if cannot else "-", 1e30 if cannot else 0, class_)


def _number(text: str, value: float, class_: str) -> Markup:
    return element("td", text, class_=class_, data_value=value)


def _footer() -> Markup:
    return element(
        "footer",
        element("p", "Times without a mark are predictions; compiled and run, they may differ."),
    )
