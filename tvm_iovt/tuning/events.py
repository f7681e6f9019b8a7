"""What a tuning run tells while it goes on; progress bars, JSON streams and reports listen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from tvm_iovt.errors import TuningError


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSummary:
    """A kernel to tune.

    Attributes:
        workload: Its key.
        name: For people, unique in the run.
        weight: Calls of it in one run of the network.
        flops: Of one call.
        moved_bytes: Inputs, weights and outputs of one call.
        bound_s: Least seconds of one call by the measured roofline; 0 if that was not measured.
    """

    workload: str
    name: str
    weight: int
    flops: int
    moved_bytes: int
    bound_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """Tasks are known and the measurer answers.

    Attributes:
        run: Identifies the run; the same when it is resumed.
        model: File name of the network.
        target: Name of the target.
        device: What is tuned for, as a line for people.
        tasks: What is tuned.
        fixed: Kernels with nothing to search for (their number).
        trials_asked: Budget; 0 if only time is limited.
        time_asked_s: Budget; 0 if only trials are.
        resumed_trials: Trials that earlier, interrupted runs have made.
        runners: Who measures.
        peak_flops: Measured ceiling, floating-point operations a second; 0 if unknown.
        peak_bytes_per_s: Measured ceiling of memory; 0 if unknown.
    """

    SCHEMA: ClassVar[str] = "tvm-iovt/tune-started/1"

    run: str
    model: str
    target: str
    device: str
    tasks: tuple[TaskSummary, ...]
    fixed: int
    trials_asked: int
    time_asked_s: float
    resumed_trials: int
    runners: tuple[str, ...]
    peak_flops: float
    peak_bytes_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialDone:
    """One trial came back.

    Attributes:
        elapsed_s: Since the (resumed) run began.
        task: Name of the task.
        number: Of this trial in the run, from 1; resumed trials count.
        valid: Trials with a time so far.
        source: `template` or `search`.
        median_s: Of one call; None if it failed.
        failed: Where it failed: `build`, `run`, `check`, or empty.
        error: Why.
        runner: Who measured it.
        best_s: Best of the task so far; None before there is one.
        template_s: Of the task's template; None before it was measured.
        network_s: Estimated seconds of one run of the network with the best schedules so far
            (tasks alone, times weight); None until every task has a time.
        template_network_s: The same with the templates.
        trials_per_s: Over the last half minute.
        eta_s: Estimated seconds until the budget is spent.
    """

    SCHEMA: ClassVar[str] = "tvm-iovt/tune-trial/1"

    elapsed_s: float
    task: str
    number: int
    valid: int
    source: str
    median_s: float | None
    failed: str
    error: str
    runner: str
    best_s: float | None
    template_s: float | None
    network_s: float | None
    template_network_s: float | None
    trials_per_s: float
    eta_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEnded:
    """Nothing more is tried for a task.

    Attributes:
        task: Its name.
        reason: Why: close to the roofline, no schedule left, too many failures.
        trials: Made for it.
    """

    SCHEMA: ClassVar[str] = "tvm-iovt/tune-task-ended/1"

    task: str
    reason: str
    trials: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something the user should know: a board was lost, a line of the records was skipped."""

    SCHEMA: ClassVar[str] = "tvm-iovt/tune-note/1"

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOutcome:
    """What tuning did for a kernel.

    Attributes:
        task: Its name.
        weight: Calls in one run of the network.
        trials: Made for it, failed ones included.
        valid: With a time.
        template_s: Of the template's schedule alone; None if that failed.
        best_s: Of the best schedule alone.
        template_network_s: Of the template's schedule in one run of the network, all calls; None
            if not measured.
        chosen_network_s: Of the chosen schedule, likewise.
        chosen: `template` or `search`.
        reason: Why.
    """

    task: str
    weight: int
    trials: int
    valid: int
    template_s: float | None
    best_s: float | None
    template_network_s: float | None
    chosen_network_s: float | None
    chosen: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneOutcome:
    """How a run ended; there is none without a valid trial unless nothing was to be tuned.

    Attributes:
        run: Identifies the run.
        records: Folder of its records.
        tasks: One for each kernel.
        fixed: Kernels with nothing to search for.
        trials_asked: Budget; 0 if only time was limited.
        trials_done: Trials made, failed and resumed ones included.
        trials_valid: Trials with a time.
        complete: Whether the budget was spent; an interrupted run can be resumed.
        template_network_s: Median seconds of a run of the network before; None if not measured.
        tuned_network_s: The same times the median ratio of neighbouring runs, with the best
            schedules and without: the chosen ones, or those that were rejected.
        noise: Half-width of the noise band of that ratio.
        elapsed_s: Wall time of this (resumed) run.
        share_search: Of that time, proposing schedules and learning.
        share_build: Of that time, building, averaged over the workers.
        share_measure: Of that time, checking and timing; the three may overlap.
        errors: The first messages of builders and runners.

    Raises:
        TuningError: There are tasks but no valid trial.
    """

    SCHEMA: ClassVar[str] = "tvm-iovt/tune-outcome/1"

    run: str
    records: str
    tasks: tuple[TaskOutcome, ...]
    fixed: int
    trials_asked: int
    trials_done: int
    trials_valid: int
    complete: bool
    template_network_s: float | None = None
    tuned_network_s: float | None = None
    noise: float | None = None
    elapsed_s: float = 0.0
    share_search: float = 0.0
    share_build: float = 0.0
    share_measure: float = 0.0
    errors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.tasks and self.trials_done and not self.trials_valid:
            raise TuningError(
                f"None of {self.trials_done} trials could be measured",
                seen="; ".join(self.errors[:3]) or "no message",
                do="the message above names the cause; `tvm-iovt doctor` checks the tools, "
                "`tvm-iovt bench` checks a board step by step",
            )

    @property
    def coverage(self) -> str:
        """`tuned 34 of 37 kernels, 3 keep their template`, as a line for people."""
        tuned = sum(task.chosen == "search" for task in self.tasks)
        kept = len(self.tasks) - tuned
        text = f"tuned {tuned} of {len(self.tasks)} kernels, {kept} keep their template"
        return f"{text}; {self.fixed} have no choices" if self.fixed else text


Event = RunStarted | TrialDone | TaskEnded | Note | TuneOutcome
Listener = Callable[[Event], None]
