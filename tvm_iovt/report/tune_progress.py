"""A tuning run while it goes on: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tvm_iovt.report.tune_history import RunnerState, TaskState, TuneHistory
from tvm_iovt.report.units import counted, format_percent, format_seconds, printable
from tvm_iovt.tuning.events import (
    Event,
    Listener,
    Note,
    RunStarted,
    TaskEnded,
    TrialDone,
)

Clock = Callable[[], float]

# Often enough to see that it works, seldom enough to read the log of an hour.
PLAIN_INTERVAL_S = 5.0
_TASKS_SHOWN = 8
_QUIET_S = 15.0  # a runner that gave nothing back for so long is worth a remark


@contextmanager
def tune_progress(
    history: TuneHistory,
    stream: TextIO,
    *,
    live: bool | None = None,
    clock: Clock = time.monotonic,
) -> Iterator[Listener]:
    """A listener that shows each event of a run after adding it to `history`.

    Args:
        history: Of the run, empty.
        stream: Where to show it, usually stderr.
        live: Whether to redraw a display in place; by default if the stream is a terminal. Plain
            lines have no control codes.
        clock: Seconds that never go back.
    """
    if not (stream.isatty() if live is None else live):
        plain = _PlainLines(stream, clock)

        def write(event: Event) -> None:
            history.add(event)
            plain.show(event, history)

        yield write
        return

    console = Console(file=stream, force_terminal=True, markup=False, emoji=False, highlight=False)
    display = _Display(clock)
    # Stdout may be a pipe that somebody reads: it is never redirected.
    with Live(
        display, console=console, transient=True, refresh_per_second=4, redirect_stdout=False
    ) as screen:

        def draw(event: Event) -> None:
            history.add(event)
            display.take(history)
            if isinstance(event, Note):
                screen.console.print(Text(f"note: {printable(event.text)}", "yellow"))

        yield draw


def started_line(event: RunStarted, *, short: bool = False) -> str:
    """What is tuned for what; unless it should be short, also with which budget and by whom."""
    kernels = counted(len(event.tasks), "kernel")
    if event.fixed:
        kernels += f", {event.fixed} more without choices"
    parts = [f"tuning {event.model} for {event.target} ({event.device})", kernels]
    if not short:
        budgets = [counted(event.trials_asked, "trial")] if event.trials_asked else []
        if event.time_asked_s:
            budgets.append(_span(event.time_asked_s))
        parts.append(f"budget {' or '.join(budgets)}" if budgets else "no budget")
        if event.runners:
            parts.append(f"measured by {', '.join(event.runners)}")
    if event.resumed_trials:
        parts.append(f"resumed after {counted(event.resumed_trials, 'trial')}")
    return "; ".join(parts)


def network_change(before_s: float | None, after_s: float | None) -> str:
    """`2.31 ms -> 2.19 ms (0.95x)`; what is known of it."""
    if before_s is None or after_s is None:
        known = after_s if after_s is not None else before_s
        return "not known yet" if known is None else format_seconds(known)
    ratio = f" ({after_s / before_s:.2f}x)" if before_s else ""
    return f"{format_seconds(before_s)} -> {format_seconds(after_s)}{ratio}"


def totals_line(history: TuneHistory) -> str:
    """Trials, their rate and failures, and the time left."""
    trial, started = history.last, history.started
    line = counted(history.trials_done, "trial")
    if started and started.trials_asked:
        line = f"{history.trials_done} of {counted(started.trials_asked, 'trial')}"
    if trial is None:
        return line
    line += f", {trial.trials_per_s:.1f}/s, {history.trials_failed} failed"
    return f"{line}; {_span(trial.eta_s)} left"


def network_line(history: TuneHistory) -> str:
    """The estimated time of the network with the templates and now."""
    trial = history.last
    if trial is None:
        return "network (estimated) not known yet"
    return f"network (estimated) {network_change(trial.template_network_s, trial.network_s)}"


def _span(seconds: float) -> str:
    """Whole seconds: `8 s`, `1 min 04 s`."""
    return f"{round(seconds)} s" if seconds < 59.5 else format_seconds(seconds)


class _PlainLines:
    """One line every few seconds while trials come; notes at once."""

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock
        self._began_s = clock()
        self._last_s: float | None = None

    def show(self, event: Event, history: TuneHistory) -> None:
        if isinstance(event, RunStarted):
            self._write(started_line(event))
        elif isinstance(event, TrialDone):
            if self._last_s is None or self._clock() - self._last_s >= PLAIN_INTERVAL_S:
                self._last_s = self._clock()
                self._write(f"{totals_line(history)}; {network_line(history)}")
        elif isinstance(event, TaskEnded):
            self._write(f"{event.task}: {event.reason}, after {counted(event.trials, 'trial')}")
        elif isinstance(event, Note):
            self._write(f"note: {event.text}")

    def _write(self, line: str) -> None:
        text = f"[{self._clock() - self._began_s:7.1f} s] {printable(line)}\n"
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(text.encode(encoding, "replace").decode(encoding))
        self._stream.flush()


class _Display:
    """The live display; drawn by rich's own thread, so it keeps only what never changes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began_s = clock()
        self._run_began_s = self._began_s
        self._started: RunStarted | None = None
        self._totals = self._network = ""
        self._doing = ""
        self._fraction = 0.0
        self._tasks: tuple[TaskState, ...] = ()
        self._shares: dict[str, float] = {}
        self._runners: tuple[RunnerState, ...] = ()

    def take(self, history: TuneHistory) -> None:
        """Show this from now on."""
        # The run's own clock: the last trial came back just now.
        self._run_began_s = self._clock() - history.elapsed_s
        self._totals, self._network = totals_line(history), network_line(history)
        self._doing = printable(history.doing)
        self._fraction = _fraction(history)
        self._tasks, self._runners = history.tasks, history.runners
        self._shares = history.shares()
        self._started = history.started

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        now_s = self._clock()
        elapsed = _span(now_s - self._began_s)
        if self._started is None:
            yield Text(f"preparing for {elapsed}" + (f": {self._doing}" if self._doing else ""))
            return
        yield Text(printable(started_line(self._started, short=True)), "bold")
        yield self._bar(elapsed, options.max_width)
        yield Text(self._network)
        rows = max(min(_TASKS_SHOWN, console.size.height - 10 - len(self._runners)), 1)
        yield _tasks_table(self._tasks, self._shares, rows)
        # While something else goes on, no runner is expected to give anything back.
        quiet_s = float("inf") if self._doing else _QUIET_S
        for runner in self._runners:
            yield _runner_line(runner, now_s - self._run_began_s, quiet_s)
        if self._doing:
            yield Text(f"now: {self._doing}")

    def _bar(self, elapsed: str, width: int) -> RenderableType:
        row = Table.grid(padding=(0, 1))
        row.add_row(
            ProgressBar(total=1.0, completed=self._fraction, width=max(min(width // 6, 24), 4)),
            Text(f"{self._totals}, after {elapsed}"),
        )
        return row


def _fraction(history: TuneHistory) -> float:
    """How much of the budget is spent; of two budgets, the one that ends first."""
    started = history.started
    if started is None:
        return 0.0
    spent = [0.0]
    if started.trials_asked:
        spent.append(history.trials_done / started.trials_asked)
    if started.time_asked_s:
        spent.append(history.elapsed_s / started.time_asked_s)
    return min(max(spent), 1.0)


def _tasks_table(tasks: tuple[TaskState, ...], shares: dict[str, float], rows: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0), expand=True)
    table.add_column("kernel", overflow="ellipsis", no_wrap=True, min_width=12, max_width=40)
    # The numbers keep their place where names and reasons are cut.
    for name, least in (("of network", 10), ("template", 8), ("best", 8), ("", 5), ("trials", 6)):
        table.add_column(name, justify="right", no_wrap=True, min_width=least)
    table.add_column("", overflow="ellipsis", no_wrap=True, ratio=1)
    for task in tasks[:rows]:
        share, ratio = shares.get(task.summary.name), task.ratio
        table.add_row(
            Text(printable(task.summary.name)),
            format_percent(share) if share is not None else "-",
            format_seconds(task.template_s) if task.template_s is not None else "-",
            format_seconds(task.best_s) if task.best_s is not None else "-",
            Text(f"{ratio:.2f}x", "green" if ratio < 0.995 else "") if ratio is not None else "",
            str(task.trials),
            Text(printable(task.ended or (f"{task.failed} failed" if task.failed else "")), "dim"),
        )
    if len(tasks) > rows:
        table.add_row(Text(f"and {len(tasks) - rows} more", "dim"))
    return table


def _runner_line(runner: RunnerState, elapsed_s: float, quiet_s: float) -> Text:
    line = Text(f"{printable(runner.name)}: ", "dim")
    if runner.note:
        return line.append(printable(runner.note), "yellow")
    if runner.last_s is None:
        return line.append("nothing yet")
    line.append(counted(runner.trials, "trial"))
    if runner.failed:
        line.append(f", {runner.failed} failed")
    silent_s = elapsed_s - runner.last_s
    if silent_s > quiet_s:
        line.append(f", silent for {_span(silent_s)}", "yellow")
    return line
