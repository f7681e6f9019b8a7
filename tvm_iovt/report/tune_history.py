"""What a tuning run has told so far: progress lines and the report are drawn from it."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from tvm_iovt.tuning.events import (
    Event,
    Note,
    RunStarted,
    TaskEnded,
    TaskOutcome,
    TaskSummary,
    TrialDone,
    TuneOutcome,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """A kernel, as far as this run has come with it.

    Attributes:
        summary: What it is.
        template_s: One call of the template's schedule alone; None before it was measured.
        best_s: The fastest schedule so far, alone; None before there is one.
        trials: Made in this run; those that an interrupted run has made are not among them.
        failed: Of these, without a time.
        ended: Why nothing more is tried; empty while it goes on.
        outcome: What became of it, at the end.
    """

    summary: TaskSummary
    template_s: float | None = None
    best_s: float | None = None
    trials: int = 0
    failed: int = 0
    ended: str = ""
    outcome: TaskOutcome | None = None

    @property
    def network_s(self) -> float:
        """Its seconds in one run of the network with the best schedule so far; 0 if unknown."""
        known = self.best_s if self.best_s is not None else self.template_s
        return self.summary.weight * known if known is not None else 0.0

    @property
    def ratio(self) -> float | None:
        """Time of the best schedule over the template's; None before both are known."""
        if self.best_s is None or not self.template_s:
            return None
        return self.best_s / self.template_s

    @property
    def roofline_share(self) -> float | None:
        """How close the best schedule is to the least possible time; None if that is unknown."""
        if not self.best_s or not self.summary.bound_s:
            return None
        return self.summary.bound_s / self.best_s


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerState:
    """Who measures, and how that goes.

    Attributes:
        name: Of the runner.
        trials: It has given back in this run.
        failed: Of these, without a time.
        last_s: When it last gave one back, in seconds since the run began; None if never.
        note: The last note that names it, if no trial came back from it since.
    """

    name: str
    trials: int = 0
    failed: int = 0
    last_s: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureGroup:
    """Trials that failed alike.

    Attributes:
        failed: Where: `build`, `run` or `check`.
        error: The message of the first of them.
        count: Trials.
        tasks: Whose trials, in the order in which they failed first.
    """

    failed: str
    error: str
    count: int
    tasks: tuple[str, ...]


class TuneHistory:
    """The events of one tuning run (one target), in order and summed up.

    Attributes:
        started: The run's begin; None before it.
        trials: Those that came back in this run.
        earlier: Those that came back before it was resumed, as far as somebody has looked them up.
        notes: What the user should know, each with the seconds since the run began.
        doing: The last note, if nothing else was heard since.
        outcome: How it ended; None before, and for a run that was interrupted or failed.
    """

    def __init__(self) -> None:
        self.started: RunStarted | None = None
        self.trials: list[TrialDone] = []
        self.earlier: tuple[TrialDone, ...] = ()
        self.notes: list[tuple[float, str]] = []
        self.doing = ""
        self.outcome: TuneOutcome | None = None
        self._tasks: dict[str, TaskState] = {}
        self._runners: dict[str, RunnerState] = {}
        self._failed = 0

    def add(self, event: Event) -> None:
        """Take the next event of the run."""
        self.doing = event.text if isinstance(event, Note) else ""
        if isinstance(event, RunStarted):
            self.started = event
            self._tasks = {task.name: TaskState(summary=task) for task in event.tasks}
            self._runners = {name: RunnerState(name=name) for name in event.runners}
        elif isinstance(event, TrialDone):
            self._trial(event)
        elif isinstance(event, TaskEnded):
            self._update(event.task, ended=event.reason)
        elif isinstance(event, Note):
            self.notes.append((self.elapsed_s, event.text))
            for name, runner in self._runners.items():
                if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", event.text):
                    self._runners[name] = dataclasses.replace(runner, note=event.text)
        else:
            self.outcome = event
            for task in event.tasks:
                # Kernels that this run has not tried may have been tried before it was resumed.
                self._update(
                    task.task, outcome=task, best_s=task.best_s, template_s=task.template_s
                )

    @property
    def tasks(self) -> tuple[TaskState, ...]:
        """Every kernel that is tuned; those with most of the network's time come first."""
        return tuple(sorted(self._tasks.values(), key=lambda task: -task.network_s))

    @property
    def runners(self) -> tuple[RunnerState, ...]:
        """Who measures."""
        return tuple(self._runners.values())

    @property
    def last(self) -> TrialDone | None:
        """The trial that came back last."""
        return self.trials[-1] if self.trials else None

    @property
    def elapsed_s(self) -> float:
        """Seconds of this (resumed) run that are known of."""
        if self.outcome is not None:
            return self.outcome.elapsed_s
        return self.trials[-1].elapsed_s if self.trials else 0.0

    @property
    def trials_done(self) -> int:
        """Trials made, those of interrupted runs included."""
        if self.outcome is not None:
            return self.outcome.trials_done
        if self.trials:
            return self.trials[-1].number
        return self.started.resumed_trials if self.started else 0

    @property
    def trials_failed(self) -> int:
        """Trials without a time; those of interrupted runs are known at the end only."""
        if self.outcome is not None:
            return self.outcome.trials_done - self.outcome.trials_valid
        return self._failed

    @property
    def trials_per_s(self) -> float:
        """Of this (resumed) run as a whole."""
        resumed = self.started.resumed_trials if self.started else 0
        made = max(self.trials_done - resumed, 0)
        return made / self.elapsed_s if self.elapsed_s > 0 else 0.0

    def shares(self) -> dict[str, float]:
        """Each kernel's part of the network's estimated time, by name; those that are known."""
        total_s = sum(task.network_s for task in self._tasks.values())
        if self.outcome is None and self.trials and self.trials[-1].network_s is not None:
            # Counts kernels that only an interrupted run has tried, which no event has told of.
            total_s = max(total_s, self.trials[-1].network_s)
        if not total_s:
            return {}
        return {
            name: task.network_s / total_s for name, task in self._tasks.items() if task.network_s
        }

    def failures(self) -> tuple[FailureGroup, ...]:
        """Failed trials by message, the most frequent first; numbers in messages may differ."""
        groups: dict[tuple[str, str], list[TrialDone]] = {}
        for trial in (*self.earlier, *self.trials):
            if trial.failed:
                alike = re.sub(r"0x[0-9a-fA-F]+|\d+(\.\d+)?", "#", trial.error)
                groups.setdefault((trial.failed, alike), []).append(trial)
        made = (
            FailureGroup(
                failed=failed,
                error=trials[0].error,
                count=len(trials),
                tasks=tuple(dict.fromkeys(trial.task for trial in trials)),
            )
            for (failed, _), trials in groups.items()
        )
        return tuple(sorted(made, key=lambda group: -group.count))

    def _trial(self, trial: TrialDone) -> None:
        self.trials.append(trial)
        self._failed += bool(trial.failed)
        task = self._tasks.get(trial.task)
        self._update(
            trial.task,
            best_s=trial.best_s,
            template_s=trial.template_s,
            trials=task.trials + 1 if task else 1,
            failed=(task.failed if task else 0) + bool(trial.failed),
        )
        if trial.runner:
            runner = self._runners.get(trial.runner, RunnerState(name=trial.runner))
            self._runners[trial.runner] = dataclasses.replace(
                runner,
                trials=runner.trials + 1,
                failed=runner.failed + bool(trial.failed),
                last_s=trial.elapsed_s,
                note="",
            )

    def _update(self, name: str, **changes: object) -> None:
        if name in self._tasks:
            self._tasks[name] = dataclasses.replace(self._tasks[name], **changes)  # type: ignore[arg-type]
