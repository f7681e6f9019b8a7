"""`tvm-iovt logs`: every verb, its JSON, and its exit codes."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tuning.record_examples import DEVICE, TEMPLATE, TVM, choice, trial, workload
from tests.tuning.test_record_merge import written
from tvm_iovt.cli.main import run
from tvm_iovt.tuning.record_files import CHOICES, TRIALS
from tvm_iovt.tuning.record_folder import read_folder
from tvm_iovt.tuning.record_lock import FolderLock
from tvm_iovt.tuning.record_store import RecordStore
from tvm_iovt.tuning.run_state import COMPLETE, RunRequest, RunState

REQUEST = RunRequest(
    model="net.onnx",
    model_sha256="ab",
    target="host",
    device=DEVICE,
    options={},
    trials=4,
    time_s=90.0,
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's records and nothing else."""
    monkeypatch.setenv("TVM_IOVT_PATH", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr("tvm_iovt.resources.shipped", lambda folder: tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home" / "tuning_logs"


@pytest.fixture
def folder(home: Path) -> Path:
    """Records of one complete run, and a damaged line."""
    with RecordStore.open(home, DEVICE, tvm_version=TVM) as store:
        state = RunState.load_or_new(store, REQUEST)
        for record in (
            trial("t", source=TEMPLATE, run=REQUEST.run),
            trial("a", run=REQUEST.run, date="2026-03-04T00:00:00+00:00"),
            trial("f", failed="run", run=REQUEST.run),
            trial("b", "w1", run=REQUEST.run),
        ):
            store.add_trial(record)
            state.count(valid=record.valid)
        store.add_workload(workload("w0"))
        store.add_workload(workload("w1"))
        store.add_choice(choice("w0", "a"))
        store.add_choice(choice("w1", ""))
        state.end(COMPLETE)
    (store.folder / TRIALS.name).open("ab").write(b"garbage\n")
    return store.folder


def printed(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    assert run(["logs", *map(str, arguments)]) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def test_stat_tells_what_there_is(folder, capsys):
    out = printed(capsys, "stat")
    for text in (
        "znver4, 2 threads",
        "2 cores of 512 bits",
        "3 valid",
        "1 failed",
        "1 template",
        TVM,
        "2026-01-01",
        "2026-03-04",
        "complete",
        "4 of 4",
        "1 min 30 s",
        "line 5, was skipped: it is not JSON",
    ):
        assert text in " ".join(out.split()), text


def test_stat_prints_json_alone(folder, capsys):
    (found,) = json.loads(printed(capsys, "stat", "--json"))["folders"]
    assert found["schema"] == "tvm-iovt/logs-stat/1" and found["folder"] == str(folder)
    (counts,) = found["origins"]
    counts.pop("device")
    assert counts == {
        "tvm_version": TVM,
        "workloads": 2,
        "trials_valid": 3,
        "trials_failed": 1,
        "chosen_search": 1,
        "chosen_template": 1,
        "kernels": 0,
        "first": "2026-01-01T00:00:00+00:00",
        "last": "2026-03-04T00:00:00+00:00",
    }
    (state,) = found["runs"]
    assert (state["status"], state["trials_done"], state["trials_valid"]) == ("complete", 4, 3)
    assert len(found["problems"]) == 1 and not found["used_by"]
    size_bytes = sum(path.stat().st_size for path in folder.rglob("*.json*"))
    assert found["size_bytes"] == size_bytes


def test_stat_tells_devices_versions_and_runs_apart(home, capsys):
    with RecordStore.open(home, DEVICE, tvm_version=TVM, model="net.onnx") as store:
        store.add_trial(trial(run=REQUEST.run))
        store.add_trial(trial("x", run="", device=dataclasses.replace(DEVICE, threads=1)))
        store.add_trial(trial("y", tvm_version="0.26.0"))
        RunState.load_or_new(store, REQUEST)
        store.add_trial(trial("z", failed="run", run=REQUEST.run))
        (found,) = json.loads(printed(capsys, "stat", home, "--json"))["folders"]
        assert found["runs"][0]["status"] == "running" and "net.onnx" in found["used_by"]
        assert "in use by tuning net.onnx" in printed(capsys, "stat", home)
    (found,) = json.loads(printed(capsys, "stat", store.folder, "--json"))["folders"]
    assert [o["trials_valid"] for o in found["origins"]] == [1, 1, 1]
    assert sum(o["trials_failed"] for o in found["origins"]) == 1
    (state,) = found["runs"]
    assert state["status"] == "died" and not found["used_by"]
    assert state["trials_done"] == 2  # its file says 0: it was killed before it could tell


def test_stat_of_nothing(home, tmp_path, capsys):
    assert f"no tuning records in {home}" in printed(capsys, "stat")
    assert json.loads(printed(capsys, "stat", "--json")) == {"folders": []}
    assert "nowhere" in printed(capsys, "stat", tmp_path / "nowhere", code=2)


def test_many_problems_are_shortened(folder, capsys):
    (folder / TRIALS.name).open("ab").write(b"garbage\n" * 30)
    out = printed(capsys, "stat")
    assert out.count("was skipped") == 10 and "21 more (--json has all)" in out
    (found,) = json.loads(printed(capsys, "stat", "--json"))["folders"]
    assert len(found["problems"]) == 31


def test_merge(folder, tmp_path, capsys):
    other = written(tmp_path / "other", trial("a"), trial("c"), trial("d", tvm_version="0.26.0"))
    out = printed(capsys, "merge", tmp_path / "other", "--into", folder.parent)
    assert f"refused: {other}: 1 record of znver4" in " ".join(out.split())
    assert "line 5, was skipped" in " ".join(out.split())
    assert sorted(t.key for t in read_folder(folder).trials.records) == ["a", "b", "c", "f", "t"]
    arguments = ("merge", other, "--into", folder.parent, "--new-devices", "--json")
    (found,) = json.loads(printed(capsys, *arguments))["folders"]
    assert (found["trials"], found["known"]) == (1, 2)


def test_merging_nothing_is_an_error(folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "no tuning records" in printed(
        capsys, "merge", tmp_path / "empty", "--into", folder.parent, code=2
    )
    written(tmp_path / "other", trial("d", tvm_version="0.26.0"))
    refused = printed(capsys, "merge", tmp_path / "other", "--into", folder.parent, code=7)
    assert "Nothing was merged" in refused and "0.26.0" in refused and "--new-devices" in refused
    assert "SRC" in printed(capsys, "merge", "--into", folder.parent, code=2)


def test_prune(folder, capsys):
    promised = printed(capsys, "prune", "--dry-run")
    assert "Would be dropped" in promised and len(read_folder(folder).trials.records) == 4
    arguments = ("prune", folder, "--keep", 0, "--json")
    (found,) = json.loads(printed(capsys, *arguments))["folders"]
    assert (found["failed"], found["slower"], found["damaged"], found["trials_kept"]) == (
        1,
        1,
        1,
        2,
    )
    assert [t.key for t in read_folder(folder).trials.records] == ["t", "a"]
    assert "Dropped" in printed(capsys, "prune")


def test_prune_refuses_while_somebody_tunes(folder, capsys):
    lock = FolderLock(folder, "tuning net.onnx")
    try:
        assert "tuning net.onnx" in printed(capsys, "prune", code=7)
        assert "in use" in printed(capsys, "merge", folder, "--into", folder.parent, code=7)
    finally:
        lock.close()
    assert "keep" in printed(capsys, "prune", "--keep", -1, code=2)


def test_export_and_import(folder, tmp_path, capsys):
    assert "2 kernels, 4 trials, 2 choices" in printed(capsys, "export", "znver4")
    file = tmp_path / "znver4.iovt-logs"
    assert "exists" in printed(capsys, "export", "znver4", code=2)
    arguments = ("export", "znver4", "-o", file, "--overwrite", "--json")
    assert json.loads(printed(capsys, *arguments))["devices"][0]["threads"] == 2
    out = printed(capsys, "import", file, "--into", tmp_path / "there")
    assert "there" in out
    there = read_folder(tmp_path / "there" / "znver4")
    assert there.trials.records == read_folder(folder).trials.records
    (found,) = json.loads(printed(capsys, "import", file, "--json"))["folders"]
    assert found["known"] == 6 and found["trials"] == 0  # into the user's own


def test_export_says_what_it_could_export(folder, tmp_path, capsys):
    message = printed(capsys, "export", "znver3", code=2)
    assert "records of znver4" in message
    message = printed(capsys, "export", "znver4", "--from", tmp_path / "nowhere", code=2)
    assert "nowhere" in message
    printed(capsys, "export", "znver4", "--from", folder)
    assert (tmp_path / "znver4.iovt-logs").is_file()


def test_import_refuses_what_is_damaged(folder, tmp_path, capsys):
    printed(capsys, "export", "znver4")
    file = tmp_path / "znver4.iovt-logs"
    file.write_bytes(file.read_bytes()[:-30])
    assert "not a whole archive" in printed(capsys, "import", file, code=7)
    assert "Cannot read" in printed(capsys, "import", tmp_path / "nowhere", code=2)


def test_import_of_another_tvm_says_that_it_is_not_used(tmp_path, capsys):
    written(tmp_path / "old", trial(tvm_version="0.26.0"))
    printed(capsys, "export", "znver4", "--from", tmp_path / "old")
    assert run(["logs", "import", "znver4.iovt-logs"]) == 0
    assert "apache-tvm 0.26.0 are not used" in capsys.readouterr().err


def test_odd_names_in_records_are_shown_as_text(home, capsys):
    evil = dataclasses.replace(DEVICE, cpu=dataclasses.replace(DEVICE.cpu, mcpu="\x1b[2J[red]x"))
    written(home, choice(device=evil), device=evil)
    out = printed(capsys, "stat")
    assert "\x1b" not in out and "[red]" in out


def test_help_is_quick_and_imports_nothing_heavy():
    program = (
        "import sys\nfrom tvm_iovt.cli.main import run\n"
        "code = run(['logs', 'merge', '--help'])\n"
        "assert not {'tvm', 'numpy', 'rich'} & set(sys.modules)\nsys.exit(code)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0 and "--new-devices" in ran.stdout, ran.stderr


def test_readers_are_not_disturbed_by_a_line_being_written(folder, capsys):
    (folder / CHOICES.name).open("ab").write(CHOICES.line(choice("w5"))[:99])
    assert "its end is missing" in printed(capsys, "stat")
