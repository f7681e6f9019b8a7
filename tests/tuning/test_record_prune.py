"""Pruning keeps what counts, and nothing is half-pruned."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tuning.record_examples import DEVICE, TEMPLATE, TVM, choice, trial, workload
from tests.tuning.test_record_merge import MORE_THREADS, written
from tvm_iovt.errors import TuningError, UsageError
from tvm_iovt.tuning.record_files import CHOICES, TRIALS, WORKLOADS
from tvm_iovt.tuning.record_folder import read_folder
from tvm_iovt.tuning.record_lock import FolderLock
from tvm_iovt.tuning.record_prune import prune
from tvm_iovt.tuning.record_store import RecordStore
from tvm_iovt.tuning.run_state import INTERRUPTED, RunRequest, RunState


def timed(key: str, run_s: float, **changes):
    return trial(key, run_s=(run_s,), **changes)


@pytest.fixture
def folder(tmp_path):
    """Six valid trials, of which the slowest is chosen, a template, failures, an orphan."""
    return written(
        tmp_path,
        workload("w0"),
        workload("w9"),
        *(timed(f"t{i}", i * 1e-3) for i in range(1, 7)),
        timed("template", 9e-3, source=TEMPLATE),
        *(trial(f"f{i}", failed="build") for i in range(4)),
        trial("g", "w9", failed="run"),
        timed("t1", 1e-3),
        choice(trial="t3"),
        choice(trial="t6"),
    )


def keys(folder) -> list[str]:
    return [t.key for t in read_folder(folder).trials.records]


def test_the_fastest_the_chosen_and_the_template_stay(folder):
    (outcome,) = prune([folder], keep=2)
    assert keys(folder) == ["t1", "t2", "t6", "template"]
    assert (outcome.failed, outcome.slower, outcome.trials_kept) == (5, 3, 4)
    assert (outcome.repeated, outcome.workloads, outcome.damaged) == (2, 1, 0)
    assert outcome.size_after_bytes == sum(
        (folder / kind.name).stat().st_size for kind in (WORKLOADS, TRIALS, CHOICES)
    )
    assert outcome.size_before_bytes > 2 * outcome.size_after_bytes
    records = read_folder(folder)
    assert [r.key for r in records.workloads.records] == ["w0"]
    assert [c.trial for c in records.choices.records] == ["t6"]
    before = (folder / TRIALS.name).stat()
    (again,) = prune([folder], keep=2)
    assert again.size_before_bytes == again.size_after_bytes
    assert (folder / TRIALS.name).stat().st_ino == before.st_ino  # not even written


def test_only_failures(folder):
    prune([folder], failed_only=True)
    assert keys(folder) == [*(f"t{i}" for i in range(1, 7)), "template"]


def test_a_dry_run_changes_nothing_and_tells_the_same(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (promised,) = prune([folder], dry_run=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert prune([folder]) == (promised,)


def test_devices_and_versions_are_counted_apart(tmp_path):
    folder = written(
        tmp_path,
        *(timed(f"a{i}", i * 1e-3) for i in range(1, 4)),
        *(timed(f"b{i}", i * 1e-3, device=MORE_THREADS) for i in range(1, 4)),
        *(timed(f"c{i}", i * 1e-3, tvm_version="0.26.0") for i in range(1, 4)),
        choice(trial="b3", device=MORE_THREADS),
    )
    prune([folder], keep=1)
    assert keys(folder) == ["a1", "b1", "b3", "c1"]


def test_lines_of_other_versions_stay_and_damaged_ones_go(folder):
    newer = json.dumps({"schema": "tvm-iovt/trial/2", "key": "x"}).encode()
    (folder / TRIALS.name).open("ab").write(newer + b"\ngarbage\n" + TRIALS.line(trial())[:40])
    (outcome,) = prune([folder], keep=2)
    assert outcome.damaged == 2
    lines = (folder / TRIALS.name).read_bytes().splitlines()
    assert newer in lines and b"garbage" not in lines and len(lines) == 5
    assert keys(folder) == ["t1", "t2", "t6", "template"]


def test_nothing_is_pruned_while_somebody_tunes(tmp_path, folder):
    other = written(tmp_path / "other", trial("f", failed="run"))
    lock = FolderLock(other, "tuning resnet.onnx")
    before = keys(folder)
    try:
        with pytest.raises(TuningError, match="in use") as caught:
            prune([folder, other])
        assert "tuning resnet.onnx" in caught.value.seen
        assert keys(folder) == before
        prune([folder, other], dry_run=True)
    finally:
        lock.close()
    prune([folder, other])
    assert keys(other) == []


def test_runs_that_will_repeat_trials_are_named(tmp_path):
    request = RunRequest(
        model="m.onnx", model_sha256="", target="host", device=DEVICE, options={}, trials=5
    )
    with RecordStore.open(tmp_path, DEVICE, tvm_version=TVM) as store:
        store.add_trial(trial("f", failed="run", run=request.run))
        RunState.load_or_new(store, request).end(INTERRUPTED)
        folder = store.folder
    (outcome,) = prune([folder])
    assert outcome.unfinished == (request.run,)


def test_an_unreadable_file_is_an_error_before_anything_is_lost(folder):
    (folder / CHOICES.name).unlink()
    (folder / CHOICES.name).mkdir()
    before = keys(folder)
    with pytest.raises(UsageError, match="Cannot change"):
        prune([folder])
    assert keys(folder) == before


@settings(max_examples=40, deadline=None)
@given(
    times=st.lists(st.tuples(st.sampled_from(["w0", "w1"]), st.integers(1, 50)), max_size=12),
    keep=st.integers(0, 4),
    chosen=st.integers(0, 11),
)
def test_what_compiling_uses_and_the_best_time_never_change(tmp_path_factory, times, keep, chosen):
    records = [timed(f"t{i}", t * 1e-3, workload=w) for i, (w, t) in enumerate(times)]
    choices = [choice(r.workload, r.key) for r in records[chosen : chosen + 1]]
    folder = written(tmp_path_factory.mktemp("prune"), *records, *choices)
    prune([folder], keep=keep)
    left = read_folder(folder)
    assert list(left.choices.records) == choices
    assert {c.trial for c in choices} <= {t.key for t in left.trials.records}
    for name in ("w0", "w1"):
        before = sorted(t.median_s for t in records if t.workload == name)
        after = sorted(t.median_s for t in left.trials.records if t.workload == name)
        assert after[:keep] == before[:keep]
        assert len(after) <= keep + len(choices)
