"""The state of a run: resumable, countable, and honest about how it ended."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tuning.record_examples import DEVICE, TVM, trial
from tvm_iovt.errors import IovtError, TuningError, UsageError
from tvm_iovt.tuning.record_store import RecordStore
from tvm_iovt.tuning.run_state import (
    COMPLETE,
    DIED,
    FAILED,
    INTERRUPTED,
    RUNNING,
    RunRequest,
    RunState,
    load_run,
    read_runs,
)

REQUEST = RunRequest(
    model="mobile net.v2.onnx",
    model_sha256="ab" * 32,
    target="host",
    device=DEVICE,
    options={"precision": "fp32", "shapes": {"x": [1, 3, 224, 224]}},
    trials=100,
    time_s=60.0,
)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path):
    with RecordStore.open(tmp_path, DEVICE, tvm_version=TVM) as store:
        yield store


def run_trial(store: RecordStore, state: RunState, key: str, **changes) -> None:
    record = trial(key, run=state.record.run, **changes)
    store.add_trial(record)
    state.count(valid=record.valid)


def test_a_new_run(store, clock):
    state = RunState.load_or_new(store, REQUEST, clock=clock)
    assert state.path == store.folder / "runs" / f"{REQUEST.run}.json"
    assert REQUEST.run.startswith("mobile-net-v2-")
    assert (state.resumed_trials, state.resumed_s, state.resumed_status) == (0, 0.0, "")
    assert not state.warning
    assert (state.trials_left, state.left_s) == (100, 60.0)
    kept = load_run(state.path)
    assert kept.status == RUNNING and kept.pid == os.getpid() and kept.request == REQUEST


def test_the_budget_does_not_make_another_run_and_everything_else_does():
    assert dataclasses.replace(REQUEST, trials=0, time_s=9.0).run == REQUEST.run
    for change in (
        {"model_sha256": "cd" * 32},
        {"target": "arm"},
        {"device": dataclasses.replace(DEVICE, threads=1)},
        {"options": {}},
    ):
        assert dataclasses.replace(REQUEST, **change).run != REQUEST.run
    reordered = dict(reversed(REQUEST.options.items()))
    assert dataclasses.replace(REQUEST, options=reordered).run == REQUEST.run
    odd = dataclasses.replace(REQUEST, model="../../.onnx").run
    assert "/" not in odd and not odd.startswith(".")


@pytest.mark.parametrize("status", [INTERRUPTED, COMPLETE, FAILED])
def test_a_run_goes_on(store, clock, status):
    first = RunState.load_or_new(store, REQUEST, clock=clock)
    run_trial(store, first, "a")
    run_trial(store, first, "b", failed="build")
    clock.now_s += 12.5
    first.end(status)
    assert load_run(first.path).status == status
    clock.now_s += 10_000.0  # nobody works on it
    second = RunState.load_or_new(store, REQUEST, clock=clock)
    assert second.resumed_status == status and not second.warning
    assert (second.resumed_trials, second.resumed_s) == (2, 12.5)
    clock.now_s += 7.5
    assert second.spent_s == 20.0 and second.left_s == 40.0 and second.trials_left == 98
    record = second.record
    assert (record.trials_done, record.trials_valid) == (2, 1)
    assert record.started == load_run(first.path).started


def test_the_records_count_not_the_file(store, clock):
    """Killed after trials were written but before the state was."""
    first = RunState.load_or_new(store, REQUEST, clock=clock)
    for key in "abc":
        store.add_trial(trial(key, run=first.record.run))
    store.add_trial(trial("d", run="another"))
    second = RunState.load_or_new(store, REQUEST, clock=clock)
    assert second.resumed_trials == 3 and second.record.trials_valid == 3
    assert second.resumed_status == DIED


def test_saved_every_two_seconds_and_whole(store, clock, monkeypatch):
    state = RunState.load_or_new(store, REQUEST, clock=clock)
    saved = []
    monkeypatch.setattr(
        "tvm_iovt.tuning.run_state.replace_file",
        lambda path, content, **_: saved.append((clock.now_s, json.loads(content)["trials_done"])),
    )
    for number in range(50):
        clock.now_s = 1000.0 + number / 10
        state.count(valid=True)
    assert saved == [(1002.0, 21), (1004.0, 41)]
    clock.now_s = 1010.0
    state.tick()
    assert saved[-1] == (1010.0, 50)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"schema": "tvm-iovt/tune-run/1", "run":',
        b"\0\0\0\0",
        b"[" * 100_000,
        b"\xff",
        b"{}",
    ],
)
def test_a_damaged_file_is_rebuilt_with_a_warning(store, clock, content):
    first = RunState.load_or_new(store, REQUEST, clock=clock)
    run_trial(store, first, "a")
    first.path.write_bytes(content)
    again = RunState.load_or_new(store, REQUEST, clock=clock)
    assert str(first.path) in again.warning and "counts from zero" in again.warning
    assert again.resumed_trials == 1 and again.resumed_s == 0.0
    assert load_run(first.path).trials_done == 1


def changed(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "tvm-iovt/tune-run/2"},
        {"status": "asleep"},
        {"spent_s": -1.0},
        {"spent_s": "nan"},
        {"trials_done": -3},
    ],
)
def test_a_file_that_cannot_be_true_is_not_used(store, clock, change):
    first = RunState.load_or_new(store, REQUEST, clock=clock)
    changed(first.path, **change)
    with pytest.raises(IovtError, match="is damaged"):
        load_run(first.path)
    again = RunState.load_or_new(store, REQUEST, clock=clock)
    assert str(first.path) in again.warning
    assert load_run(first.path).status == RUNNING


def test_a_missing_file_is_rebuilt(store, clock):
    first = RunState.load_or_new(store, REQUEST, clock=clock)
    run_trial(store, first, "a")
    first.path.unlink()
    again = RunState.load_or_new(store, REQUEST, clock=clock)
    assert again.resumed_trials == 1 and "is missing" in again.warning


def test_another_tvm_begins_anew(store, clock):
    first = RunState.load_or_new(store, REQUEST, clock=clock)
    clock.now_s += 5
    first.end(INTERRUPTED)
    changed(first.path, tvm_version="0.26.0")
    again = RunState.load_or_new(store, REQUEST, clock=clock)
    assert again.resumed_s == 0.0 and "apache-tvm 0.26.0" in again.warning


@settings(max_examples=40, deadline=None)
@given(
    pieces=st.lists(st.floats(0, 1e4), min_size=1, max_size=5),
    dates=st.lists(st.datetimes(), min_size=12, max_size=12),
)
def test_time_adds_up_whatever_the_wall_clock_does(tmp_path_factory, pieces, dates):
    clock, wall = Clock(), iter(dates * 9)
    with (
        pytest.MonkeyPatch.context() as patch,
        RecordStore.open(tmp_path_factory.mktemp("run"), DEVICE, tvm_version=TVM) as store,
    ):
        patch.setattr("tvm_iovt.tuning.run_state._now", lambda: next(wall).isoformat())
        for piece_s in pieces:
            state = RunState.load_or_new(store, REQUEST, clock=clock)
            clock.now_s += piece_s
            state.end(INTERRUPTED)
            assert not state.warning
        assert RunState.load_or_new(store, REQUEST, clock=clock).resumed_s == pytest.approx(
            sum(pieces), abs=1e-6
        )


def test_running_and_died_are_told_apart(tmp_path, clock):
    with RecordStore.open(tmp_path, DEVICE, tvm_version=TVM) as store:
        state = RunState.load_or_new(store, REQUEST, clock=clock)
        runs, problems = read_runs(store.folder)
        assert runs[state.record.run].status == RUNNING and not problems
        (store.folder / "runs" / "torn.json").write_text("{")
    # The process lives on, but it has let the records go.
    runs, problems = read_runs(store.folder)
    assert runs[state.record.run].status == DIED
    assert len(problems) == 1 and "torn.json" in problems[0]


def test_a_full_disk_says_what_is_kept(store, clock, monkeypatch):
    state = RunState.load_or_new(store, REQUEST, clock=clock)
    run_trial(store, state, "a")

    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(TuningError, match="The disk is full") as caught:
        state.end(INTERRUPTED)
    assert "1 trials of the run are safe" in caught.value.seen
    monkeypatch.undo()
    assert load_run(state.path).status == RUNNING  # the old content, not half of the new


def test_a_folder_that_cannot_be_made(store, clock):
    (store.folder / "runs").write_text("")
    with pytest.raises(UsageError, match="Cannot write"):
        RunState.load_or_new(store, REQUEST, clock=clock)
