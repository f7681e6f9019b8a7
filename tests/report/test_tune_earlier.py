"""Trials of an interrupted run, read back from its records."""

from __future__ import annotations

import dataclasses

import pytest

from tvm_iovt.report.tune_curve import over_time, over_trials
from tvm_iovt.report.tune_earlier import earlier_trials
from tvm_iovt.report.tune_history import TuneHistory
from tvm_iovt.tuning.kernel_records import CpuKind
from tvm_iovt.tuning.record_files import TRIALS
from tvm_iovt.tuning.schedule_records import SEARCH, TEMPLATE, DeviceKind, TrialRecord

DEVICE = DeviceKind(
    cpu=CpuKind(mcpu="znver4", triple="x86_64-linux-gnu", vector_bits=512, cores=8), threads=8
)


def record(number, workload, run_s, *, source=SEARCH, run="run-1", error=""):
    return TrialRecord(
        key=f"trial{number}",
        workload=workload,
        device=DEVICE,
        source=source,
        trace=[] if source == SEARCH and run_s else None,
        run_s=run_s,
        failed="run" if error else "",
        error=error,
        deviation=None,
        runner="local",
        run=run,
        tvm_version="0.27.0",
        tool_version="0.1.0",
        date="2026-11-21T12:00:00Z",
    )


@pytest.fixture
def records(tmp_path, tune_run):
    conv0, depthwise, dense = (task.workload for task in tune_run()[0].tasks)
    lines = [
        record(0, dense, (1e-4,), source=TEMPLATE, run="an earlier run"),
        record(1, conv0, (4e-4,), source=TEMPLATE),
        record(2, depthwise, (2e-4, 1.9e-4, 2.1e-4), source=TEMPLATE),
        record(3, "not of this network", (1e-9,)),
        record(4, dense, (1e-4,), source=TEMPLATE),
        record(5, conv0, (), error="worker 12 died"),
        record(6, conv0, (3e-4,)),
        record(7, depthwise, (5e-4,)),
        record(8, dense, (1e-5,)),  # made after the run was resumed
    ]
    (tmp_path / TRIALS.name).write_bytes(b"".join(map(TRIALS.line, lines)) + b'{"torn')
    return tmp_path


def test_they_are_told_as_if_heard(records, tune_run):
    started = tune_run(resumed=6)[0]
    told = earlier_trials(started, records)
    assert [trial.number for trial in told] == [1, 2, 3, 4, 5, 6]
    assert [trial.task for trial in told] == [
        *("conv0", "depthwise", "dense", "conv0", "conv0", "depthwise")
    ]
    template_s = 4e-4 + 2 * 2e-4 + 1e-4
    tuned_s = 3e-4 + 2 * 2e-4 + 1e-4
    networks = [trial.network_s for trial in told]
    assert networks[0] is None
    assert networks[1:] == pytest.approx([*[template_s] * 3, tuned_s, tuned_s])
    assert told[-1].template_network_s == pytest.approx(template_s)
    assert (told[3].failed, told[3].error, told[3].median_s) == ("run", "worker 12 died", None)
    assert told[-1].valid == 5


def test_a_new_run_has_none(records, tune_run):
    assert earlier_trials(tune_run(resumed=0)[0], records) == ()


def test_records_that_cannot_be_read_are_none(tmp_path, tune_run):
    assert earlier_trials(tune_run(resumed=6)[0], tmp_path / "gone") == ()


def test_the_curve_over_trials_begins_with_them_and_the_one_over_time_does_not(records, tune_run):
    history = TuneHistory()
    for event in tune_run(resumed=6, trials=30):
        history.add(event)
    history.earlier = earlier_trials(history.started, records)
    trials, timed = over_trials(history), over_time(history)
    assert trials.points[0].at == 2
    assert trials.points[3].gain == "conv0: 400 µs → 300 µs, trial 5"
    assert trials.resumed_at == 6
    assert trials.end == 36
    assert 4.0 in trials.failed
    assert timed.points[0].at > 0
    assert timed.resumed_at == 0
    assert any(group.error == "worker 12 died" for group in history.failures())


def test_another_network_in_the_same_folder_is_left_out(records, tune_run):
    started = dataclasses.replace(tune_run(resumed=6)[0], tasks=tune_run()[0].tasks[:1])
    assert {trial.task for trial in earlier_trials(started, records)} == {"conv0"}
