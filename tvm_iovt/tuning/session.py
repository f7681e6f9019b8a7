"""A tuning run: propose schedules, have them measured, record every one, until nothing is left."""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm_iovt import _tvm
from tvm_iovt._version import __version__
from tvm_iovt.tuning.allocation import Effort, most_promising
from tvm_iovt.tuning.cost_model import CostModel
from tvm_iovt.tuning.events import Listener, TaskEnded, TaskSummary, TrialDone
from tvm_iovt.tuning.known_trials import history_of, teach
from tvm_iovt.tuning.proposal import Proposal, Search
from tvm_iovt.tuning.record_files import TRIALS
from tvm_iovt.tuning.record_store import RecordStore
from tvm_iovt.tuning.schedule_records import (
    SEARCH,
    TEMPLATE,
    DeviceKind,
    TrialRecord,
    WorkloadRecord,
)
from tvm_iovt.tuning.session_progress import Budget, Clock, network_s
from tvm_iovt.tuning.task_search import task_search, template_proposal
from tvm_iovt.tuning.tasks import Task
from tvm_iovt.tuning.trial import BUILD, RUN, Measurer, TrialResult
from tvm_iovt.tuning.workload_modules import compress_module
from tvm_iovt.types import TargetSpec

BATCH = 8
"""Trials of one task that are proposed together."""

_POLL_S = 0.2

_MAX_ERRORS = 5


@dataclass(slots=True)
class TaskState:
    """A task in a run.

    Attributes:
        summary: For people.
        task: What is searched for.
        effort: What was spent on it.
        template: Its untuned schedule, measured like any other; None if there is none.
        template_s: Seconds of that; None before it is measured.
        under_way: Trials that are being measured.
        run_trials: Trials of this run that were recorded.
    """

    summary: TaskSummary
    task: Task
    effort: Effort
    template: Proposal | None
    template_s: float | None = None
    under_way: int = 0
    run_trials: int = 0
    search: Search | None = None

    @property
    def name(self) -> str:
        """Unique in the run."""
        return self.summary.name


class Session:
    """Measures schedules of tasks until the budget is spent or nothing is left to try.

    Args:
        run: Identifies the run in the records.
        tasks: With their summaries.
        spec: The target.
        device: The same, for the records.
        store: Records, open for writing.
        measurer: Measures.
        model: Predicts.
        budget: See `Budget`.
        spent_s: Seconds that earlier parts of the run took.
        listen: Hears events.
        seed: Of the random numbers.
        checkpoint: Called now and then with the seconds that this part has taken.
    """

    def __init__(
        self,
        *,
        run: str,
        tasks: Sequence[tuple[TaskSummary, Task]],
        spec: TargetSpec,
        device: DeviceKind,
        store: RecordStore,
        measurer: Measurer,
        model: CostModel,
        budget: Budget,
        spent_s: float,
        listen: Listener,
        seed: int = 0,
        checkpoint: Callable[[float], None] = lambda elapsed_s: None,
    ) -> None:
        self._run = run
        self._spec = spec
        self._target = _tvm.tvm_target(spec)
        self._device = device
        self._store = store
        self._measurer = measurer
        self._model = model
        self._budget = budget
        self._listen = listen
        self._seed = seed
        self._checkpoint = checkpoint
        self._clock = Clock(budget, spent_s)
        self._asked: dict[str, tuple[TaskState, Proposal]] = {}
        self._learnt: dict[str, tuple[TaskState, list[Any], list[float | None]]] = {}
        self.errors: list[str] = []
        self.search_s = 0.0
        self.build_s = 0.0
        self.measure_s = 0.0
        self.states = tuple(self._state(summary, task) for summary, task in tasks)
        self.done = sum(trial.run == run for trial in store.all_trials())
        self.valid = sum(trial.run == run and trial.valid for trial in store.all_trials())

    @property
    def elapsed_s(self) -> float:
        """Seconds of this part of the run."""
        return self._clock.elapsed_s

    @property
    def proposed_all(self) -> bool:
        """Whether nothing is left to try."""
        return all(state.effort.ended for state in self.states)

    def measure(self) -> None:
        """Run until the budget is spent, or nothing is left; a trial is recorded when it is done.

        Raises:
            TuningError: The records cannot be written.
            DeviceError: There is nobody left to measure.
        """
        began_s = time.monotonic()
        teach(self._model, self._store, [state.task for state in self.states])
        self.search_s += time.monotonic() - began_s
        for state in self.states:
            if state.template is not None and state.template_s is None and not self._is_spent():
                self._submit(state, [state.template])
        while self._asked or not (self._is_spent() or self.proposed_all):
            if len(self._asked) <= self._wanted - BATCH:
                with self._measurer.busy():
                    self._feed()
            if not self._asked:
                break
            for result in self._measurer.collect(_POLL_S):
                self._take(result)
            self._checkpoint(self.elapsed_s)
        with self._measurer.busy():
            self._learn()

    def _state(self, summary: TaskSummary, task: Task) -> TaskState:
        effort = Effort(weight=task.weight, bound_s=summary.bound_s)
        state = TaskState(
            summary=summary,
            task=task,
            effort=effort,
            template=template_proposal(task, self._spec, self._target),
        )
        for trial in self._store.trials(task.workload.key):
            if trial.source == TEMPLATE and trial.valid:
                state.template_s = trial.median_s
            state.run_trials += trial.run == self._run
            effort.tell(trial.median_s if trial.valid else None)
        return state

    @property
    def _wanted(self) -> int:
        """Trials to have under way."""
        return max(self._measurer.slots, 2 * BATCH)

    def _is_spent(self) -> bool:
        return self._clock.is_spent(self.done + len(self._asked))

    def _room(self) -> int:
        """How many more trials the budget allows."""
        if self._is_spent():
            return 0
        if self._budget.trials is None:
            return BATCH
        return self._budget.trials - self.done - len(self._asked)

    def _feed(self) -> None:
        began_s = time.monotonic()
        self._learn()
        while len(self._asked) < self._wanted and self._room() > 0:
            which = most_promising(
                [state.effort for state in self.states], [state.under_way for state in self.states]
            )
            if which is None:
                break
            state = self.states[which]
            proposals = self._propose(state, min(BATCH, self._room()))
            if proposals:
                self._submit(state, proposals)
            else:
                self._end(state, "every schedule was tried")
        self.search_s += time.monotonic() - began_s

    def _propose(self, state: TaskState, count: int) -> list[Proposal]:
        if state.search is None:
            state.search = task_search(
                state.task,
                self._spec,
                self._target,
                self._model,
                history_of(self._store, state.task),
                self._seed,
            )
        return state.search.propose(count)

    def _submit(self, state: TaskState, proposals: Sequence[Proposal]) -> None:
        workload = state.task.workload
        self._store.add_workload(
            WorkloadRecord(
                key=workload.key,
                name=workload.name,
                module=compress_module(workload.module),
                tvm_version=_tvm.installed_version("apache-tvm"),
            )
        )
        for proposal in proposals:
            self._asked[proposal.trial.key] = (state, proposal)
        state.under_way += len(proposals)
        self._measurer.submit([proposal.trial for proposal in proposals])

    def _take(self, result: TrialResult) -> None:
        state, proposal = self._asked.pop(result.key)
        state.under_way -= 1
        record = self._record_of(result, state, proposal)
        objection = TRIALS.objection(record)
        if objection:  # times that cannot be: a board's clock was set, say
            impossible = dataclasses.replace(
                result, run_s=(), deviation=None, failed=RUN, error=f"not plausible: {objection}"
            )
            record = self._record_of(impossible, state, proposal)
        self._store.add_trial(record)
        self.done += 1
        state.run_trials += 1
        self.build_s += result.build_s
        self.measure_s += result.measure_s
        seconds = record.median_s if record.valid else None
        if record.valid:
            self.valid += 1
            if record.source == TEMPLATE:
                state.template_s = seconds
        else:
            self._remember_error(f"{state.name}, {record.failed}: {record.error}")
        if state.search is not None:
            state.search.tell(proposal, seconds)
        if proposal.schedule is not None:
            learnt = self._learnt.setdefault(state.name, (state, [], []))
            learnt[1].append(proposal.schedule)
            learnt[2].append(seconds)
        before = state.effort.ended
        state.effort.tell(seconds)
        if seconds is not None and seconds < state.effort.bound_s:
            self._raise_roof(seconds / state.effort.bound_s)
        self._tell(state, record, seconds)
        if state.effort.ended and not before:
            self._listen(
                TaskEnded(task=state.name, reason=state.effort.ended, trials=state.run_trials)
            )

    def _record_of(self, result: TrialResult, state: TaskState, proposal: Proposal) -> TrialRecord:
        return TrialRecord(
            key=result.key,
            workload=state.task.workload.key,
            device=self._device,
            source=TEMPLATE if proposal.trace is None else SEARCH,
            trace=proposal.trace if result.valid else None,
            run_s=result.run_s if result.valid else (),
            failed=result.failed or ("" if result.valid else BUILD),
            error=result.error,
            deviation=result.deviation,
            runner=result.runner,
            run=self._run,
            tvm_version=_tvm.installed_version("apache-tvm"),
            tool_version=__version__,
            date=now(),
        )

    def _raise_roof(self, factor: float) -> None:
        """Something was faster than the roof allows: the roof was measured on a busy machine."""
        for state in self.states:
            state.effort.bound_s *= factor

    def _remember_error(self, text: str) -> None:
        if len(self.errors) < _MAX_ERRORS and text not in self.errors:
            self.errors.append(text)

    def _end(self, state: TaskState, reason: str) -> None:
        state.effort.given_up = reason
        self._listen(TaskEnded(task=state.name, reason=reason, trials=state.run_trials))

    def _learn(self) -> None:
        """Teach the cost model what has come in."""
        for state, schedules, seconds in self._learnt.values():
            self._model.learn(state.task.workload.key, state.task.module, schedules, seconds)
        self._learnt.clear()

    def _tell(self, state: TaskState, record: TrialRecord, seconds: float | None) -> None:
        self._clock.count()
        self._listen(
            TrialDone(
                elapsed_s=self.elapsed_s,
                task=state.name,
                number=self.done,
                valid=self.valid,
                source=record.source,
                median_s=seconds,
                failed=record.failed,
                error=record.error,
                runner=record.runner,
                best_s=state.effort.best_s,
                template_s=state.template_s,
                network_s=network_s([(s.effort.weight, s.effort.best_s) for s in self.states]),
                template_network_s=network_s(
                    [(s.effort.weight, s.template_s) for s in self.states]
                ),
                trials_per_s=self._clock.trials_per_s,
                eta_s=self._clock.left_s(self.done),
            )
        )


def now() -> str:
    """The date of a record."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
