"""The report of a tuning run as one HTML file that needs no server, font, script or network."""

from __future__ import annotations

from collections.abc import Sequence

from tvm_iovt.report.blocks import facts_list, rows_table, section, tiles_panel
from tvm_iovt.report.markup import Markup, breakable, element, joined
from tvm_iovt.report.page import page
from tvm_iovt.report.tune_bars import STYLE as BAR_STYLE
from tvm_iovt.report.tune_bars import network_bars, stacked_bar
from tvm_iovt.report.tune_charts import STYLE as CHART_STYLE
from tvm_iovt.report.tune_charts import curve_legend, tuning_curve
from tvm_iovt.report.tune_curve import over_time, over_trials
from tvm_iovt.report.tune_history import FailureGroup, TuneHistory
from tvm_iovt.report.tune_kernels import STYLE as KERNEL_STYLE
from tvm_iovt.report.tune_kernels import kernels_section
from tvm_iovt.report.tune_tables import network_verdict
from tvm_iovt.report.units import (
    counted,
    format_bytes,
    format_count,
    format_flops,
    format_seconds,
)
from tvm_iovt.tuning.events import RunStarted, TuneOutcome
from tvm_iovt.tuning.schedule_records import SEARCH

_TASKS_SHOWN = 3
_STYLE = (
    CHART_STYLE
    + BAR_STYLE
    + KERNEL_STYLE
    + """
.pill.same{color:var(--soft);background:var(--track)}
.status{display:flex;flex-wrap:wrap;align-items:center;gap:4px 12px;margin:12px 0 0}
.failures li{grid-template-columns:64px minmax(0,1fr)}
.failures p{overflow-wrap:anywhere}
.failures.passes ul{padding:16px 20px}
h2+.panel{margin-top:14px}
.split.curves{grid-template-columns:minmax(0,1fr) minmax(0,1fr)}
.split h3:not(:first-child){margin-top:26px}
.split th:first-child,.split td:first-child{padding-left:0}
.split th:last-child,.split td:last-child{padding-right:0}
@media (max-width:900px){.split.curves{grid-template-columns:minmax(0,1fr)}}
"""
)


def tune_page(history: TuneHistory, settings: Sequence[tuple[str, str]] = ()) -> str:
    """The tuning curve, what became of every kernel, what failed, and who measured how.

    Args:
        history: Of a run that has begun; it may have been interrupted.
        settings: Names and values of what the run was told, and of versions.

    Returns:
        A complete HTML document. Every string of the events is escaped.
    """
    started = history.started
    assert started is not None
    sections = [
        _curves(history),
        _where(history, _facts(started, settings)),
        kernels_section(history),
        _failures(history),
        _notes(history),
    ]
    body = joined(_header(history, started), element("main", *sections), _footer(history))
    return page(f"{started.model} on {started.target} - tvm-iovt tuning", body, style=_STYLE)


def _header(history: TuneHistory, started: RunStarted) -> Markup:
    facts = (f"target {started.target}", started.device, f"run {started.run}")
    return element(
        "header",
        element("p", "tvm-iovt tuning", class_="eyebrow"),
        element("h1", breakable(started.model)),
        element("p", *(element("span", fact) for fact in facts if fact), class_="meta"),
        element("p", *_status(history), class_="status"),
        _tiles(history, started),
    )


def _status(history: TuneHistory) -> tuple[Markup, ...]:
    outcome = history.outcome
    if outcome is None:
        return (
            element("span", "not finished", class_="pill wait"),
            element("span", "Every trial is kept; the same command goes on.", class_="soft small"),
        )
    if not outcome.complete:
        return (
            element("span", "budget not spent", class_="pill wait"),
            element("span", "The same command goes on.", class_="soft small"),
        )
    gained = sum(task.chosen == SEARCH for task in outcome.tasks)
    if not gained:
        return (
            element("span", "nothing gained", class_="pill wait"),
            element("span", "Every kernel keeps its template.", class_="soft small"),
        )
    kernels = f"{counted(gained, 'kernel')} faster"
    return (element("span", kernels, class_="pill good"),)


def _tiles(history: TuneHistory, started: RunStarted) -> Markup:
    tiles = [_network_tile(history)]
    outcome = history.outcome
    tasks = history.tasks
    if outcome is not None:
        gained = sum(task.chosen == SEARCH for task in outcome.tasks)
        kept = len(outcome.tasks) - gained
        note = f"{kept} keep their template" if kept else "all have a faster schedule"
        value = f"{gained} of {len(outcome.tasks)}"
    else:
        measured = sum(task.best_s is not None for task in tasks)
        note, value = "measured so far", f"{measured} of {len(tasks)}"
    if started.fixed:
        note += f"; {started.fixed} without choices"
    tiles.append(("Kernels", value, note))
    failed = f"{history.trials_failed} failed"
    if started.trials_asked:
        failed = f"of {format_count(started.trials_asked)} asked, {failed}"
    tiles.append(("Trials", str(history.trials_done), failed))
    rate = f"{history.trials_per_s:.1f} trials a second" if history.trials_per_s else ""
    if started.time_asked_s:
        rate = "; ".join(filter(None, (f"of {format_seconds(started.time_asked_s)}", rate)))
    tiles.append(("Time", format_seconds(history.elapsed_s), rate))
    return tiles_panel(tiles)


def _network_tile(history: TuneHistory) -> tuple[str, str, str]:
    outcome, last = history.outcome, history.last
    if outcome is not None and network_verdict(outcome):
        gained = any(task.chosen == SEARCH for task in outcome.tasks)
        used_s = outcome.tuned_network_s if gained else outcome.template_network_s
        assert used_s is not None
        verdict = network_verdict(outcome).replace("->", "→").replace("+-", "±")
        return "Network, measured", format_seconds(used_s), verdict
    if last is not None and last.network_s is not None:
        before = last.template_network_s
        note = f"from {format_seconds(before)}" if before else "templates not measured"
        if before:
            note += f", {last.network_s / before:.2f}x; the sum of its kernels"
        return "Network, estimated", format_seconds(last.network_s), note
    return "Network", "-", "not measured"


def _curves(history: TuneHistory) -> Markup:
    trials = over_trials(history)
    if not trials.points:
        text = "No estimate of the network's time: not every kernel has a measured schedule."
        return section("Tuning curve", text)
    panels = [
        element(
            "div",
            element("h3", "Over trials"),
            tuning_curve(trials, timed=False, name="Estimated time of the network over the trials"),
            class_="panel",
        )
    ]
    timed = over_time(history)
    if timed.points:
        title = "Over time" + (", since it was resumed" if trials.resumed_at else "")
        panels.append(
            element(
                "div",
                element("h3", title),
                tuning_curve(
                    timed, timed=True, name="Estimated time of the network over the wall time"
                ),
                class_="panel",
            )
        )
    lead = (
        "The network's time as the sum of its kernels, each measured alone with its best schedule "
        "so far. A dot is a kernel that got faster; the diamonds are the whole network, measured "
        "at the end."
    )
    return section(
        "Tuning curve",
        lead,
        curve_legend(trials),
        element("div", *panels, class_="split curves"),
    )


def _where(history: TuneHistory, facts: Markup) -> Markup:
    side: list[str] = []
    outcome = history.outcome
    if outcome is not None and outcome.elapsed_s:
        side += [element("h3", "Time of the tuner"), stacked_bar(_time_parts(outcome))]
    runners = _runners(history)
    if runners:
        side += [element("h3", "Who measured"), runners]
    side += [element("h3", "Settings"), facts]
    panels = [element("div", *side, class_="panel")]
    if any(task.network_s for task in history.tasks):
        bars = network_bars(history.tasks)
        panels.insert(
            0, element("div", element("h3", "One run of the network"), bars, class_="panel")
        )
    lead = (
        "A run of the network counts all calls of a kernel, measured alone. The tuner's parts may "
        "overlap."
    )
    return section("Where the time goes", lead, element("div", *panels, class_="split"))


def _time_parts(outcome: TuneOutcome) -> tuple[tuple[str, float, str], ...]:
    known = (
        ("measuring", outcome.share_measure, "c0"),
        ("building", outcome.share_build, "c1"),
        ("searching", outcome.share_search, "c2"),
    )
    rest = 1 - sum(share for _, share, _ in known)
    return (*known, ("other", rest, "c5")) if rest > 0.005 else known


def _runners(history: TuneHistory) -> Markup:
    rows = [
        (breakable(runner.name), str(runner.trials), str(runner.failed))
        for runner in history.runners
        if runner.trials or runner.note
    ]
    return rows_table(("Runner", "Trials", "Failed"), rows, numeric_from=1) if rows else joined()


def _failures(history: TuneHistory) -> Markup:
    groups = history.failures()
    if not groups:
        if not history.trials_failed:
            return joined()
        errors = history.outcome.errors if history.outcome else ()
        items = [element("li", element("p", error)) for error in errors]
        text = f"{counted(history.trials_failed, 'trial')} failed before the run was resumed."
        return section("Failures", text, element("ul", *items, class_="small"))
    count = sum(group.count for group in groups)
    lead = f"{count} of {counted(len(history.earlier) + len(history.trials), 'trial')}, by message."
    items = [_failure(group) for group in groups]
    return section(
        "Failures", lead, element("div", element("ul", *items), class_="panel passes failures")
    )


def _failure(group: FailureGroup) -> Markup:
    tasks = ", ".join(group.tasks[:_TASKS_SHOWN])
    more = len(group.tasks) - _TASKS_SHOWN
    return element(
        "li",
        element("span", element("span", group.failed, class_="pill bad")),
        element(
            "div",
            element("p", element("code", group.error or "no message")),
            element(
                "div",
                f"{counted(group.count, 'trial')} of {tasks}"
                + (f" and {more} more" if more > 0 else ""),
                class_="subjects",
            ),
        ),
    )


def _notes(history: TuneHistory) -> Markup:
    if not history.notes:
        return joined()
    rows = [(format_seconds(round(at_s)), text) for at_s, text in history.notes]
    table = rows_table(("After", "Note"), rows)
    return section(
        "Notes", "", element("div", element("div", table, class_="scroll"), class_="panel")
    )


def _facts(started: RunStarted, settings: Sequence[tuple[str, str]]) -> Markup:
    budget = [counted(started.trials_asked, "trial")] if started.trials_asked else []
    if started.time_asked_s:
        budget.append(format_seconds(started.time_asked_s))
    peaks = []
    if started.peak_flops:
        peaks.append(f"{format_flops(round(started.peak_flops))}/s")
    if started.peak_bytes_per_s:
        peaks.append(f"{format_bytes(round(started.peak_bytes_per_s))}/s")
    resumed = f"after {counted(started.resumed_trials, 'trial')}" if started.resumed_trials else ""
    facts = (
        ("Target", started.target),
        ("Device", started.device),
        ("Ceilings", " and ".join(peaks)),
        ("Budget", " or ".join(budget)),
        ("Resumed", resumed),
        ("Measured by", ", ".join(started.runners)),
        *settings,
    )
    return facts_list((name, value) for name, value in facts if value)


def _footer(history: TuneHistory) -> Markup:
    outcome = history.outcome
    if outcome is None:
        return element("footer", element("p", "Written when the run stopped."))
    return element("footer", element("p", "Records: ", element("code", breakable(outcome.records))))
