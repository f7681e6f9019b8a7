"""How a tuning run ended, for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tvm_iovt.report import plain
from tvm_iovt.report.tune_history import TuneHistory
from tvm_iovt.report.units import counted, format_percent, format_seconds, printable
from tvm_iovt.tuning.events import TaskOutcome, TuneOutcome
from tvm_iovt.tuning.schedule_records import SEARCH

_REASONS_SHOWN = 5
_ERRORS_SHOWN = 3


def outcome_table(history: TuneHistory) -> RenderableType:
    """The kernels that gained, or plainly that none did.

    Args:
        history: Of a run that has ended with an outcome.
    """
    outcome = history.outcome
    assert outcome is not None
    gained = [task for task in outcome.tasks if task.chosen == SEARCH]
    parts: list[RenderableType] = []
    if gained:
        parts.append(gains_table(gained))
    elif outcome.tasks:
        parts.append(plain.text("nothing gained: every kernel keeps its template"))
        parts += [plain.text(f"  {line}") for line in _reasons(outcome.tasks)]
    else:
        parts.append(plain.text("nothing to tune: no kernel of the network has choices"))
    return Group(*parts)


def gains_table(tasks: Sequence[TaskOutcome]) -> Table:
    """Kernels whose schedule the search has found, those that save most first."""
    table = plain.table(
        "Kernels that gained", note="Alone: one call. In the network: all calls in one run."
    )
    table.add_column("Kernel", overflow="fold", ratio=1, min_width=12)
    for name in ("Calls", "Alone", "", "In the network", "", "Trials"):
        table.add_column(name, justify="right", no_wrap=True)
    for task in sorted(tasks, key=_saved_s, reverse=True):
        table.add_row(
            plain.text(task.task),
            str(task.weight),
            *_change(task.template_s, task.best_s),
            *_change(task.template_network_s, task.chosen_network_s),
            str(task.trials),
        )
    return table


def summary_lines(history: TuneHistory) -> list[str]:
    """Coverage, the network before and after, trials, where the time went, failures, records."""
    outcome = history.outcome
    assert outcome is not None
    failed = outcome.trials_done - outcome.trials_valid
    trials = f"{counted(outcome.trials_done, 'trial')}, {failed} failed"
    if history.trials_per_s:
        trials += f"; {history.trials_per_s:.1f} trials/s"
    network = network_verdict(outcome)
    lines = [outcome.coverage, f"network: {network}; {trials}" if network else trials]
    if outcome.elapsed_s:
        lines.append(f"took {format_seconds(outcome.elapsed_s)}: {time_shares(outcome)}")
    if failed:
        groups = history.failures()
        lines += [
            f"failed ({group.count}): {group.failed}: {group.error}"
            for group in groups[:_ERRORS_SHOWN]
        ]
        if not groups:
            lines += [f"failed: {error}" for error in outcome.errors[:_ERRORS_SHOWN]]
        if len(groups) > _ERRORS_SHOWN:
            lines.append(f"and {len(groups) - _ERRORS_SHOWN} other messages; see the report")
    if not outcome.complete:
        lines.append("the budget is not spent: run the same command to go on")
    return lines


def network_verdict(outcome: TuneOutcome) -> str:
    """`2.31 ms -> 2.19 ms, 0.95x +- 0.01`; empty if the network was not measured."""
    before_s, after_s = outcome.template_network_s, outcome.tuned_network_s
    if not before_s or after_s is None:
        return ""
    ratio = after_s / before_s
    # A noise of less than half a percent would print as none at all.
    digits = 2 if outcome.noise is None or outcome.noise >= 0.005 else 4
    change = f"{ratio:.{digits}f}x"
    if outcome.noise is not None:
        change += f" +- {outcome.noise:.{digits}f}"
        if abs(1 - ratio) <= outcome.noise:
            change += " (no more than the noise)"
    if any(task.chosen == SEARCH for task in outcome.tasks):
        return f"{format_seconds(before_s)} -> {format_seconds(after_s)}, {change}"
    return (
        f"{format_seconds(before_s)}; with the best schedules found {format_seconds(after_s)}, "
        f"{change}, so none is used"
    )


def time_shares(outcome: TuneOutcome) -> str:
    """`70.0% measuring, 20.0% building, 10.0% searching`."""
    parts = (
        (outcome.share_measure, "measuring"),
        (outcome.share_build, "building"),
        (outcome.share_search, "searching"),
    )
    return ", ".join(f"{format_percent(share)} {doing}" for share, doing in parts)


def _saved_s(task: TaskOutcome) -> float:
    """Seconds that one run of the network saves, as far as they are known."""
    if task.template_network_s is not None and task.chosen_network_s is not None:
        return task.template_network_s - task.chosen_network_s
    if task.template_s is not None and task.best_s is not None:
        return task.weight * (task.template_s - task.best_s)
    return 0.0


def _change(before_s: float | None, after_s: float | None) -> tuple[Text, Text]:
    """`412 µs -> 390 µs` and `0.95x`, with a dash for what is not known."""
    before = "-" if before_s is None else format_seconds(before_s)
    after = "-" if after_s is None else format_seconds(after_s)
    if before_s is None and after_s is None:
        return Text("-"), Text("")
    if not before_s or after_s is None:
        return Text(f"{before} -> {after}"), Text("")
    ratio = after_s / before_s
    return Text(f"{before} -> {after}"), Text(f"{ratio:.2f}x", "green" if ratio < 1 else "")


def _reasons(tasks: Sequence[TaskOutcome]) -> list[str]:
    reasons = Counter(printable(task.reason) for task in tasks if task.reason)
    lines = [
        f"{reason}: {counted(count, 'kernel')}"
        for reason, count in reasons.most_common(_REASONS_SHOWN)
    ]
    rest = sum(reasons.values()) - sum(count for _, count in reasons.most_common(_REASONS_SHOWN))
    return [*lines, f"other reasons: {counted(rest, 'kernel')}"] if rest else lines
