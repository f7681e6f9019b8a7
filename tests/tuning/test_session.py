"""The loop of a tuning run, with a measurer that invents times."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from tests.tuning.search_cases import (
    DEVICE,
    FakeMeasurer,
    conv_function,
    dense_function,
    host,
    invented_s,
    softmax_like_function,
    task_of,
)
from tvm_iovt.schedules.design_space import template_spaces
from tvm_iovt.schedules.tvm_api import Schedule
from tvm_iovt.tuning import session as session_module
from tvm_iovt.tuning import session_progress
from tvm_iovt.tuning.allocation import MAX_FAILURES
from tvm_iovt.tuning.cost_model import CostModel
from tvm_iovt.tuning.events import TaskEnded, TaskSummary, TrialDone
from tvm_iovt.tuning.intrinsics import import_intrinsics
from tvm_iovt.tuning.record_store import RecordStore
from tvm_iovt.tuning.session import BATCH, Session
from tvm_iovt.tuning.session_progress import Budget
from tvm_iovt.tuning.small_space import SmallSpaceSearch
from tvm_iovt.tuning.traces import trial_key


@pytest.fixture(scope="module", autouse=True)
def intrinsics():
    import_intrinsics(gpu=False)


def summary(task, bound_s=0.0):
    return TaskSummary(
        workload=task.workload.key,
        name=task.workload.name,
        weight=task.weight,
        flops=task.flops,
        moved_bytes=task.moved_bytes,
        bound_s=bound_s,
    )


@pytest.fixture
def session(tmp_path):
    """Makes sessions on one folder of records, each with the records closed behind it."""
    opened = []

    def make(measurer, *, trials=None, time_s=None, tasks=None, run="run", bounds=None, **more):
        while opened:
            opened.pop().close()
        store = RecordStore.open(tmp_path, DEVICE)
        opened.append(store)
        spec, target = host()
        if tasks is None:
            tasks = [task_of(conv_function(), "conv", 2), task_of(dense_function(), "dense")]
        bounds = bounds or [0.0] * len(tasks)
        events = []
        made = Session(
            run=run,
            tasks=[(summary(t, b), t) for t, b in zip(tasks, bounds, strict=True)],
            spec=spec,
            device=DEVICE,
            store=store,
            measurer=measurer,
            model=CostModel("random", target),
            budget=Budget(trials=trials, time_s=time_s),
            spent_s=0.0,
            listen=events.append,
            **more,
        )
        made.events, made.store = events, store
        return made

    yield make
    while opened:
        opened.pop().close()


def test_every_trial_is_recorded_and_the_budget_is_kept(session):
    measurer = FakeMeasurer()
    made = session(measurer, trials=30)
    made.measure()
    assert made.done == len(measurer.asked) == len(set(measurer.asked)) == 30
    records = made.store.all_trials()
    assert {record.key for record in records} == set(measurer.asked)
    assert all(record.run_s[0] == invented_s(record.key) for record in records)
    assert {record.source for record in records} == {"template", "search"}
    done = [event for event in made.events if isinstance(event, TrialDone)]
    assert [event.number for event in done] == list(range(1, 31))
    assert done[-1].valid == 30
    best = {s.name: s.effort.best_s for s in made.states}
    assert done[-1].network_s == pytest.approx(2 * best["conv"] + best["dense"])
    assert done[-1].network_s <= done[-1].template_network_s


def test_templates_are_measured_first(session):
    made = session(FakeMeasurer(), trials=2)
    made.measure()
    assert [r.source for r in made.store.all_trials()] == ["template", "template"]
    assert all(state.template_s is not None for state in made.states)


def test_an_interrupted_run_goes_on_without_repeating_or_losing_a_trial(session):
    asked = []
    for stop_after in (7, 5, 11):
        measurer = FakeMeasurer(stop_after=stop_after)
        made = session(measurer, trials=40)
        with pytest.raises(KeyboardInterrupt):
            made.measure()
        recorded = {record.key for record in made.store.all_trials()}
        assert not recorded & set(asked)  # what was under way was lost, and is asked for again
        asked = [key for key in measurer.asked if key not in recorded]
        asked = []
    last = FakeMeasurer()
    made = session(last, trials=40)
    known = {record.key for record in made.store.all_trials()}
    assert len(known) >= 7 + 5 + 11
    made.measure()
    assert made.done == 40
    assert len(made.store.all_trials()) == 40
    assert not known & set(last.asked)


def test_trials_of_another_run_are_known_but_not_counted(session):
    session(FakeMeasurer(), trials=10, run="first").measure()
    second = FakeMeasurer()
    made = session(second, trials=10, run="second")
    assert made.done == 0
    assert all(state.template_s is not None for state in made.states)
    made.measure()
    assert made.done == 10
    assert len(made.store.all_trials()) == 20


def test_a_session_ends_when_nothing_is_left_to_try(session, monkeypatch):
    class Short:
        """A search with two proposals."""

        def __init__(self, task, spec, target, model, history, seed):
            spaces = template_spaces(Schedule(task.module, debug_mask="none"), spec.cpu)
            self._search = SmallSpaceSearch(task, spaces, model, history, seed)
            self._left = 2

        def propose(self, count):
            count, self._left = min(count, self._left), 0
            return self._search.propose(count) if count else []

        def tell(self, proposal, seconds):
            self._search.tell(proposal, seconds)

    monkeypatch.setattr(session_module, "task_search", Short)
    made = session(FakeMeasurer(), trials=100_000)
    made.measure()
    assert made.proposed_all
    assert made.done == 2 * (1 + 2)
    ended = [event for event in made.events if isinstance(event, TaskEnded)]
    assert {event.task for event in ended} == {"conv", "dense"}
    assert all(event.reason == "every schedule was tried" for event in ended)


class Steady(FakeMeasurer):
    """Whatever is tried takes at least so long: which schedules are tried is up to chance."""

    def __init__(self, least_s):
        super().__init__()
        self._least_s = least_s

    def _result(self, trial):
        result = super()._result(trial)
        run_s = tuple(max(seconds, self._least_s) for seconds in result.run_s)
        return dataclasses.replace(result, run_s=run_s)


def test_a_kernel_at_its_roof_is_left_alone(session):
    tasks = [task_of(conv_function(), "conv", 2), task_of(dense_function(), "dense")]
    template_s = invented_s(trial_key(tasks[0].workload.key, None))
    made = session(Steady(template_s), trials=60, tasks=tasks, bounds=[0.99 * template_s, 0.0])
    made.measure()
    conv, dense = made.states
    reasons = [event.reason for event in made.events if isinstance(event, TaskEnded)]
    assert any("of the measured roofline" in reason for reason in reasons)
    assert conv.effort.trials < dense.effort.trials


def test_a_roof_that_is_too_low_is_raised(session):
    """Both kernels are faster than the roof: it was measured while the machine was busy."""
    made = session(FakeMeasurer(), trials=40, bounds=[1.0, 1.0])
    made.measure()
    for state in made.states:
        assert state.effort.bound_s <= state.effort.best_s * (1 + 1e-9)  # rounded
        assert state.effort.trials > 1


def test_failures_are_recorded_with_their_reason_and_end_a_kernel(session):
    def fails(trial):
        return "killed by SIGSEGV" if trial.workload.name == "conv" else ""

    made = session(FakeMeasurer(fails), trials=100)
    made.measure()
    failed = [record for record in made.store.all_trials() if record.failed]
    assert {record.error for record in failed} == {"killed by SIGSEGV"}
    assert all(not record.run_s and record.trace is None for record in failed)
    assert MAX_FAILURES <= len(failed) <= MAX_FAILURES + 3 * BATCH  # under way, or queued
    assert made.errors == ["conv, run: killed by SIGSEGV"]
    assert made.valid == made.done - len(failed)
    dense = next(state for state in made.states if state.name == "dense")
    assert dense.effort.valid > 1


def test_time_is_a_budget(session, monkeypatch):
    measurer = FakeMeasurer()
    collect = measurer.collect
    now_s = [0.0]  # only measuring takes time
    clock = SimpleNamespace(monotonic=lambda: now_s[0])
    monkeypatch.setattr(session_progress, "time", clock)

    def slow(timeout_s):
        now_s[0] += 0.05
        return collect(timeout_s)

    measurer.collect = slow
    made = session(measurer, time_s=0.5, tasks=[task_of(softmax_like_function(), "generic")])
    made.measure()
    assert 0.5 <= now_s[0] < 2
    assert made.done >= 2
    assert not made.proposed_all


def test_a_resumed_run_keeps_its_best(session):
    first = session(FakeMeasurer(), trials=25)
    first.measure()
    best = [state.effort.best_s for state in first.states]
    second = session(FakeMeasurer(), trials=25)
    second.measure()
    assert [state.effort.best_s for state in second.states] == best
    assert second.done == 25
