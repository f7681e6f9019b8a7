"""Merging: no record is lost, none is there twice, none holds where it was not measured."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tuning.record_examples import DEVICE, TEMPLATE, TVM, choice, trial, workload
from tvm_iovt.errors import TuningError, UsageError
from tvm_iovt.tuning.kernel_records import KernelChoice, MeasuredKernel, Records, Setting
from tvm_iovt.tuning.record_files import CHOICES, KERNELS, TRIALS, WORKLOADS, device_folder
from tvm_iovt.tuning.record_folder import read_folder, record_folders
from tvm_iovt.tuning.record_lines import RecordFile
from tvm_iovt.tuning.record_lock import FolderLock
from tvm_iovt.tuning.record_merge import better_choice, merge
from tvm_iovt.tuning.record_store import RecordStore, find_choices

MORE_THREADS = dataclasses.replace(DEVICE, threads=8)


def written(root: Path, *records: object, device=DEVICE) -> Path:
    """A folder of a device with these records."""
    folder = device_folder(root, device)
    folder.mkdir(parents=True, exist_ok=True)
    for kind in (WORKLOADS, TRIALS, CHOICES, KERNELS):
        lines = [kind.line(record) for record in records if isinstance(record, kind.cls)]
        if lines:
            (folder / kind.name).open("ab").writelines(lines)
    return folder


def content(root: Path, kind: RecordFile) -> list:
    lines = dict(zip(("w", "t", "c", "k"), read_folder(root / "znver4").lines, strict=True))
    return list(lines[kind.name[0]].records)


def merged(sources: list[Path], root: Path, **options):
    return merge([read_folder(source) for source in sources], root, **options)


def test_records_of_two_machines_come_together(tmp_path):
    one = written(tmp_path / "1", workload("w0"), trial("a"), trial("b"), choice(trial="a"))
    two = written(tmp_path / "2", workload("w0"), workload("w1"), trial("b"), trial("c", "w1"))
    (outcome,) = merged([one, two], tmp_path / "dst")
    assert (outcome.workloads, outcome.trials, outcome.choices, outcome.known) == (2, 3, 1, 1)
    assert not outcome.refused and not outcome.problems
    with RecordStore.open(tmp_path / "dst", DEVICE, tvm_version=TVM) as store:
        assert sorted(t.key for t in store.all_trials()) == ["a", "b", "c"]
        assert len(store.workloads()) == 2
        assert store.choice("w0") == choice(trial="a")


def test_workloads_that_nothing_refers_to_stay_behind(tmp_path):
    source = written(tmp_path / "1", workload("w0"), workload("w7"), trial("a"))
    (outcome,) = merged([source], tmp_path / "dst")
    assert outcome.workloads == 1


any_trial = st.builds(
    lambda key, failed, date, runner: trial(key, failed=failed, date=date, runner=runner),
    st.sampled_from("abcdef"),
    st.sampled_from(["", "build", "run"]),
    st.sampled_from(["2026-01-01", "2026-02-02"]),
    st.sampled_from(["local", "rpi4"]),
)
any_trials = st.lists(any_trial, max_size=6)


@settings(max_examples=50, deadline=None)
@given(one=any_trials, two=any_trials, old=any_trials)
def test_merging_is_idempotent_and_its_order_does_not_matter(tmp_path_factory, one, two, old):
    base = tmp_path_factory.mktemp("merge")
    sources = [written(base / "1", *one), written(base / "2", *two)]
    results = []
    for name, order in (("a", sources), ("b", sources[::-1])):
        written(base / name, *old)
        merged(order, base / name)
        results.append(base / name)
    written(base / "c", *old)
    for source in (*sources, *sources[::-1]):  # one after the other, and again
        merged([source], base / "c")
    results.append(base / "c")
    found = []
    for root in results:
        kept = content(root, TRIALS)
        assert len(kept) <= len({t.key for t in kept}) + len(old) - len({t.key for t in old})
        with RecordStore.open(root, DEVICE, tvm_version=TVM) as store:
            found.append({t.key: t for t in store.all_trials()})
        before = (root / "znver4" / TRIALS.name).read_bytes()
        for outcome in merged(sources, root):
            assert outcome.trials == 0
        assert (root / "znver4" / TRIALS.name).read_bytes() == before
    assert found[0] == found[1] == found[2]
    assert set(found[0]) == {t.key for t in (*one, *two, *old)}
    for key, kept in found[0].items():
        assert kept.valid == any(t.valid for t in (*one, *two, *old) if t.key == key)


@pytest.mark.parametrize(
    ("mine", "theirs", "wins"),
    [
        ({"network_s": 5.0, "alone_s": 1.0}, {"network_s": 4.0, "alone_s": 2.0}, "theirs"),
        ({"network_s": 4.0, "alone_s": 2.0}, {"network_s": 5.0, "alone_s": 1.0}, "mine"),
        # Other networks, or none, or one that did not call it: alone.
        ({"network": "a", "alone_s": 1.0}, {"network_s": 4e-3, "alone_s": 2.0}, "mine"),
        ({"network_s": None, "alone_s": 2.0}, {"alone_s": 1.0}, "theirs"),
        ({"network_s": 4.0, "alone_s": 1.0}, {"network_s": 0.0, "alone_s": 2.0}, "mine"),
        ({"date": "2026-01-02"}, {"date": "2026-01-03", "reason": "newer"}, "theirs"),
        ({"date": "2026-01-03"}, {"date": "2026-01-02", "reason": "older"}, "mine"),
        ({}, {"reason": "the same"}, "mine"),
    ],
)
def test_of_two_choices_the_better_one_wins(tmp_path, mine, theirs, wins):
    one, two = choice(**mine), choice(**theirs)
    best = one if wins == "mine" else two
    assert better_choice(one, two) == best
    written(tmp_path / "dst", one)
    source = written(tmp_path / "src", choice(alone_s=9e-9), two)  # the last line counts
    (outcome,) = merged([source], tmp_path / "dst")
    assert outcome.choices == (wins == "theirs")
    found = find_choices(DEVICE, roots=[tmp_path / "dst"], tvm_version=TVM)
    assert found.choices["w0"] == best
    assert content(tmp_path / "dst", CHOICES) == [best]
    (outcome,) = merged([source], tmp_path / "dst")
    assert outcome.choices == 0 and outcome.known == 1


@pytest.mark.parametrize(
    "change", [{"device": MORE_THREADS}, {"tvm_version": "0.26.0"}], ids=["device", "version"]
)
def test_other_devices_and_versions_are_refused_and_told(tmp_path, change):
    written(tmp_path / "dst", workload(), trial("mine"), choice(trial="mine"))
    source = written(
        tmp_path / "src",
        workload("w5", tvm_version=change.get("tvm_version", TVM)),
        trial("x", "w5", **change),
        trial("y", "w5", **change),
        choice(trial="x", alone_s=1e-9, **change),
        trial("fits"),
    )
    (outcome,) = merged([source], tmp_path / "dst")
    assert (outcome.workloads, outcome.trials, outcome.choices) == (0, 1, 0)
    (refused,) = outcome.refused
    assert refused.startswith(f"{source}: 3 records of znver4") and "apache-tvm" in refused
    assert ("8 threads" in refused) or ("0.26.0" in refused)
    # On request they come along, and are still not compared with ours.
    (outcome,) = merged([source], tmp_path / "dst", new_devices=True)
    assert (outcome.workloads, outcome.trials, outcome.choices, outcome.known) == (1, 2, 1, 1)
    assert not outcome.refused
    found = find_choices(DEVICE, roots=[tmp_path / "dst"], tvm_version=TVM)
    assert found.choices["w0"].trial == "mine" and found.refused


def test_an_empty_destination_takes_the_kinds_of_the_first_source(tmp_path):
    one = written(tmp_path / "1", trial("a"))
    two = written(tmp_path / "2", trial("b", device=MORE_THREADS))
    for order, kept in (((one, two), "a"), ((two, one), "b")):
        (outcome,) = merged(list(order), tmp_path / kept)
        assert outcome.trials == 1 and len(outcome.refused) == 1
        assert [t.key for t in content(tmp_path / kept, TRIALS)] == [kept]


def test_each_device_has_its_folder(tmp_path):
    gpu = dataclasses.replace(DEVICE, gpu="cuda sm_90")
    # Also where somebody has put the records of two devices into one folder.
    source = written(tmp_path / "src", workload(), trial("cpu"), trial("gpu", device=gpu))
    one, two = merged([source], tmp_path / "dst")
    assert [Path(o.folder).name for o in (one, two)] == ["cuda-sm_90", "znver4"]
    assert (one.trials, two.trials, one.workloads, two.workloads) == (1, 1, 1, 1)
    assert not one.refused and not two.refused


def test_damaged_lines_stay_in_the_destination_and_are_told(tmp_path):
    folder = written(tmp_path / "dst", trial("a"))
    torn = TRIALS.line(trial("torn"))[:50]
    (folder / TRIALS.name).open("ab").write(b"garbage\n" + torn)
    source = written(tmp_path / "src", trial("b"))
    (source / TRIALS.name).open("ab").write(b"\0\0\0\n")
    (outcome,) = merged([source], tmp_path / "dst")
    assert len(outcome.problems) == 3 and f"{source / TRIALS.name}, line 2" in outcome.problems[2]
    lines = (folder / TRIALS.name).read_bytes().split(b"\n")
    assert lines[1] == b"garbage" and lines[2] == torn and b"\0\0\0" not in lines
    assert [t.key for t in content(tmp_path / "dst", TRIALS)] == ["a", "b"]


def kernel(conv, **changes):
    setting = Setting(target=DEVICE.cpu, threads=2, winograd=True)
    fields = {
        "setting": setting,
        "convolution": conv,
        "candidates": (MeasuredKernel(name="k", median_s=1.0, spread_s=0.0),),
        "dropped": (),
        "predicted": "k",
        "chosen": "k",
        "tvm_version": TVM,
        "tool_version": "0",
        "date": "2026-01-01",
    }
    return KernelChoice(**{**fields, **changes})


def test_measured_kernels_are_merged_too(tmp_path, conv):
    newer = kernel(conv, date="2026-03-03")
    other = kernel(dataclasses.replace(conv, in_channels=64))
    written(tmp_path / "dst", kernel(conv))
    source = written(tmp_path / "src", newer, other)
    (outcome,) = merged([source], tmp_path / "dst")
    assert outcome.kernels == 2
    records = Records(newer.setting, [tmp_path / "dst"])
    assert records.find(conv, "k") == newer and records.find(other.convolution, "k") == other
    (outcome,) = merged([source], tmp_path / "dst")
    assert outcome.kernels == 0 and outcome.known == 2


def test_a_destination_in_use_is_left_alone(tmp_path):
    written(tmp_path / "dst", trial("a"))
    source = written(tmp_path / "src", trial("b"))
    lock = FolderLock(tmp_path / "dst" / "znver4", "tuning resnet.onnx")
    try:
        with pytest.raises(TuningError, match="in use"):
            merged([source], tmp_path / "dst")
    finally:
        lock.close()
    assert len(content(tmp_path / "dst", TRIALS)) == 1
    merged([source], tmp_path / "dst")
    assert len(content(tmp_path / "dst", TRIALS)) == 2


def test_a_folder_into_itself_changes_nothing(tmp_path):
    folder = written(tmp_path, workload(), trial("a"), trial("t", source=TEMPLATE), choice())
    before = {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}
    (outcome,) = merged([folder], tmp_path)
    assert outcome.known == 3 and outcome.trials == outcome.choices == 0
    assert {path.name: path.read_bytes() for path in folder.glob("*.jsonl")} == before


def test_an_unreadable_destination_is_an_error(tmp_path):
    folder = written(tmp_path / "dst", trial("a"))
    (folder / CHOICES.name).mkdir()
    with pytest.raises(UsageError, match="Cannot change"):
        merged([written(tmp_path / "src", trial("b"))], tmp_path / "dst")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="Cannot write"):
        merged([folder], tmp_path / "file")


def test_folders_are_found_by_what_they_hold(tmp_path):
    folder = written(tmp_path / "logs", trial("a"))
    (tmp_path / "logs" / "empty").mkdir()
    (tmp_path / "logs" / "README.md").write_text("")
    assert record_folders(tmp_path / "logs") == record_folders(folder) == (folder,)
    assert record_folders(tmp_path / "logs" / "empty") == ()
    for missing in ("nowhere", "logs/README.md"):
        with pytest.raises(UsageError, match="no tuning records"):
            record_folders(tmp_path / missing)


def test_a_crash_between_two_files_is_repaired_by_merging_again(tmp_path, monkeypatch):
    source = written(tmp_path / "src", workload(), trial("a"), choice(trial="a"))
    from tvm_iovt.tuning import record_merge

    real, calls = record_merge.replace_file, itertools.count(1)

    def dies(path, content, **options):
        if next(calls) == 2:
            raise KeyboardInterrupt
        real(path, content, **options)

    monkeypatch.setattr(record_merge, "replace_file", dies)
    with pytest.raises(KeyboardInterrupt):
        merged([source], tmp_path / "dst")
    monkeypatch.undo()
    assert content(tmp_path / "dst", WORKLOADS) and not content(tmp_path / "dst", TRIALS)
    (outcome,) = merged([source], tmp_path / "dst")
    assert (outcome.workloads, outcome.trials, outcome.choices) == (0, 1, 1)
