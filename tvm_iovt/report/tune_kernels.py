"""The table of kernels in the report of a tuning run."""

from __future__ import annotations

from tvm_iovt.report.blocks import section
from tvm_iovt.report.markup import Markup, breakable, element, joined
from tvm_iovt.report.tune_history import TaskState, TuneHistory
from tvm_iovt.report.units import format_flops, format_percent, format_seconds
from tvm_iovt.tuning.schedule_records import SEARCH

STYLE = """
.kernels .name{min-width:190px;width:26%}
.kernels .reason{display:block;color:var(--soft);font-size:12.5px;white-space:normal;
min-width:150px;max-width:34ch;margin-top:3px}
.kernels .trials .reason{min-width:0}
.kernels td.share{min-width:96px}
.kernels .gain{color:var(--good);font-weight:600}
@media (max-width:600px){.kernels .wide{display:none}.kernels .name{min-width:130px}
.kernels .reason{min-width:120px;max-width:24ch}}
"""


def kernels_section(history: TuneHistory) -> Markup:
    """A row for each kernel that is tuned; sorted and filtered by the script of the page."""
    tasks = history.tasks
    if not tasks:
        return section("Kernels", "No kernel of this network has schedules to choose from.")
    names = (
        ("Kernel", "name"),
        ("Of network", "share"),
        ("Template", "num"),
        ("Best", "num"),
        ("Ratio", "num"),
        ("Chosen", None),
        ("In the network", "num wide"),
        ("Roofline", "num wide"),
        ("Trials", "num"),
    )
    head = [
        element("th", name, class_=kind, data_numeric="" if kind == "share" else None)
        for name, kind in names
    ]
    parts = history.shares()
    rows = [_kernel_row(task, parts, max(parts.values(), default=0.0)) for task in tasks]
    table = element(
        "table",
        element("thead", element("tr", *head)),
        element("tbody", *rows),
        id="sortable",
        class_="operators kernels",
    )
    # Hidden until the script that makes it work has run.
    tools = element(
        "div",
        element(
            "input",
            id="filter",
            type="search",
            placeholder="Filter by name or reason",
            aria_label="Filter kernels",
        ),
        element("span", id="count", class_="soft small"),
        class_="tools no-script",
    )
    known = any(task.summary.bound_s for task in tasks)
    roofline = (
        " Roofline: the least possible time, by the measured ceilings of the machine, over the "
        "best one."
        if known
        else " The machine's ceilings were not measured, so no share of the roofline is known."
    )
    resumed = (
        " Trials are those made since the run was resumed."
        if history.started and history.started.resumed_trials and history.outcome is None
        else ""
    )
    return section(
        "Kernels",
        "Times are of one call, inside the network of all calls in one run. A schedule is chosen "
        f"only where it is faster there, too.{roofline}{resumed}",
        element("div", tools, element("div", table, class_="scroll"), class_="panel"),
    )


def _kernel_row(task: TaskState, parts: dict[str, float], largest: float) -> Markup:
    summary, outcome = task.summary, task.outcome
    template_s = outcome.template_s if outcome else task.template_s
    best_s = outcome.best_s if outcome else task.best_s
    ratio = best_s / template_s if best_s is not None and template_s else None
    share = parts.get(summary.name, 0.0)
    trials, failed = task.trials, task.failed
    if outcome is not None:
        trials, failed = outcome.trials, outcome.trials - outcome.valid
    tip = f"{summary.weight} calls, {format_flops(summary.flops)} each" if summary.flops else None
    calls = f" ×{summary.weight}" if summary.weight > 1 else ""  # noqa: RUF001
    return element(
        "tr",
        element(
            "td",
            element("code", breakable(summary.name), title=tip),
            element("span", calls, class_="soft"),
            class_="name",
            data_value=summary.name,
        ),
        element(
            "td",
            element("div", format_percent(share) if share else "-"),
            class_="share",
            data_value=share,
            style=f"--part:{100 * share / largest if largest else 0:.1f}%",
        ),
        _seconds(template_s),
        _seconds(best_s),
        element(
            "td",
            element("span", f"{ratio:.2f}x", class_="gain" if ratio < 0.995 else None)
            if ratio is not None
            else "-",
            class_="num",
            data_value=ratio if ratio is not None else 9.0,
        ),
        _chosen(task),
        _inside(task),
        _roofline(task),
        element(
            "td",
            str(trials),
            element("span", f"{failed} failed", class_="reason") if failed else joined(),
            class_="num trials",
            data_value=trials,
        ),
    )


def _seconds(seconds: float | None) -> Markup:
    text = "-" if seconds is None else format_seconds(seconds)
    return element("td", text, class_="num", data_value=0.0 if seconds is None else seconds)


def _chosen(task: TaskState) -> Markup:
    outcome = task.outcome
    if outcome is None:
        return element("td", element("span", task.ended or "open", class_="reason"), data_value="")
    good = outcome.chosen == SEARCH
    return element(
        "td",
        element("span", outcome.chosen, class_=f"pill {'good' if good else 'same'}"),
        element("span", outcome.reason or task.ended, class_="reason"),
        data_value=outcome.chosen,
    )


def _inside(task: TaskState) -> Markup:
    outcome = task.outcome
    after_s = outcome.chosen_network_s if outcome else None
    before_s = outcome.template_network_s if outcome else None
    if after_s is None or before_s is None:
        return element("td", "-", class_="num wide", data_value=0)
    return element(
        "td",
        f"{format_seconds(before_s)} → {format_seconds(after_s)}",
        class_="num wide",
        data_value=after_s,
    )


def _roofline(task: TaskState) -> Markup:
    share = task.roofline_share
    return element(
        "td",
        "-" if share is None else format_percent(share),
        class_="num wide",
        data_value=0.0 if share is None else share,
    )
