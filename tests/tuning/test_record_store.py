"""The records of a device: kept across kills, refused where they do not hold."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tuning.record_examples import DEVICE, TEMPLATE, TVM, choice, trial, workload
from tvm_iovt.errors import TuningError, UsageError
from tvm_iovt.json_codec import to_json
from tvm_iovt.tuning import record_store
from tvm_iovt.tuning.record_files import CHOICES, TRIALS, WORKLOADS, device_folder
from tvm_iovt.tuning.record_store import RecordStore, find_choices

ROOT = Path(__file__).resolve().parents[2]


def opened(root: Path) -> RecordStore:
    return RecordStore.open(root, DEVICE, tvm_version=TVM)


def found(root: Path, *more: Path):
    return find_choices(DEVICE, roots=[root, *more], tvm_version=TVM)


def test_what_is_added_is_there_again(tmp_path):
    with opened(tmp_path) as store:
        assert store.workload("w0") is None and store.choice("w0") is None
        store.add_workload(workload())
        store.add_workload(workload(name="the same by another name"))
        for record in (trial("a"), trial("b", failed="run"), trial("c", "w1", source=TEMPLATE)):
            store.add_trial(record)
        store.add_choice(choice(trial=""))
        store.add_choice(choice())
        kept = (store.workloads(), store.all_trials(), store.choices())
    assert kept[2] == {"w0": choice()}
    with opened(tmp_path) as again:
        assert (again.workloads(), again.all_trials(), again.choices()) == kept
        assert again.workload("w0") == workload()
        assert [t.key for t in again.trials("w0")] == ["a", "b"]
        assert again.trials("unknown") == ()
        assert again.trial_count == 3
        assert not again.problems and not again.refused
    folder = tmp_path / "znver4"
    assert len((folder / WORKLOADS.name).read_text().splitlines()) == 1
    assert len((folder / CHOICES.name).read_text().splitlines()) == 2


def other_devices():
    cpu = DEVICE.cpu
    yield dataclasses.replace(DEVICE, threads=1)
    yield dataclasses.replace(DEVICE, gpu="cuda sm_90")
    for change in (
        {"mcpu": "znver3"},
        {"cores": 8},
        {"vector_bits": 256},
        {"triple": "x86_64-linux-musl"},
    ):
        yield dataclasses.replace(DEVICE, cpu=dataclasses.replace(cpu, **change))


@pytest.mark.parametrize("other", list(other_devices()), ids=str)
def test_records_of_other_devices_are_refused_and_counted(tmp_path, other):
    folder = device_folder(tmp_path, DEVICE)
    with opened(tmp_path) as store:
        store.add_trial(trial("mine"))
    lines = [TRIALS.line(trial(f"t{i}", device=other)) for i in range(12)]
    (folder / TRIALS.name).open("ab").writelines(lines)
    (folder / CHOICES.name).write_bytes(CHOICES.line(choice(device=other)))
    with opened(tmp_path) as store:
        assert [t.key for t in store.all_trials()] == ["mine"]
        assert store.choice("w0") is None
        assert len(store.refused) == 2 and "12 records of another device" in store.refused[0]
        assert not store.problems
        store.add_trial(trial("next"))
    # They stay where they are.
    assert len((folder / TRIALS.name).read_text().splitlines()) == 14
    compiled = found(tmp_path)
    assert not compiled.choices and "1 record of another device" in compiled.refused[0]


def test_records_of_another_tvm_are_refused_and_counted(tmp_path):
    with opened(tmp_path) as store:
        store.add_workload(workload())
        store.add_trial(trial())
        store.add_choice(choice())
    with RecordStore.open(tmp_path, DEVICE, tvm_version="0.28.0") as store:
        assert not store.workloads() and not store.all_trials() and not store.choices()
        assert len(store.refused) == 3
        assert f"1 record of apache-tvm {TVM}, this is 0.28.0" in store.refused[1]
        store.add_workload(workload(tvm_version="0.28.0"))  # the old one does not count as known
        assert store.workload("w0")
    assert not find_choices(DEVICE, roots=[tmp_path], tvm_version="0.28.0").choices
    assert found(tmp_path).choices


def test_the_installed_tvm_is_the_default(tmp_path):
    import tvm

    with RecordStore.open(tmp_path, DEVICE) as store:
        store.add_choice(choice(tvm_version=tvm.__version__))
    assert find_choices(DEVICE, roots=[tmp_path]).choices


def test_a_trial_that_is_there_twice_counts_once(tmp_path):
    good, failed = trial("a", date="2026-02-02"), trial("a", failed="run", date="2026-01-01")
    older = trial("a", date="2025-01-01")
    for order in ((good, failed, older), (older, failed, good), (failed, good, older)):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        with opened(root) as store:
            for record in order:
                store.add_trial(record)
            assert store.all_trials() == (older,)
        with opened(root) as store:
            assert store.all_trials() == (older,)


def test_dates_that_run_backwards_change_nothing(tmp_path):
    with opened(tmp_path) as store:
        for year in (2026, 2031, 1970):
            store.add_trial(trial(f"t{year}", date=f"{year}-01-01"))
            store.add_choice(choice(trial=f"t{year}", date=f"{year}-01-01"))
    with opened(tmp_path) as store:
        assert [t.key for t in store.all_trials()] == ["t2026", "t2031", "t1970"]
        assert store.choice("w0").trial == "t1970"
    assert found(tmp_path).choices["w0"].trial == "t1970"


def test_corrupt_lines_are_problems_and_the_rest_is_used(tmp_path):
    with opened(tmp_path) as store:
        for number in range(5):
            store.add_trial(trial(f"t{number}"))
    path = tmp_path / "znver4" / TRIALS.name
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = b"\0" * 50 + b"\n"
    lines[3] = lines[3].replace(b"tvm-iovt/trial/1", b"tvm-iovt/trial/9")
    path.write_bytes(b"".join(lines))
    with opened(tmp_path) as store:
        assert [t.key for t in store.all_trials()] == ["t0", "t2", "t4"]
        assert [problem.split(", was")[0] for problem in store.problems] == [
            f"{path}, line 2",
            f"{path}, line 4",
        ]
        assert "tvm-iovt/trial/9" in store.problems[1]


def test_a_second_writer_is_refused_and_readers_are_not(tmp_path):
    with opened(tmp_path) as store:
        store.add_choice(choice())
        with pytest.raises(TuningError, match="in use"):
            opened(tmp_path)
        assert found(tmp_path).choices == {"w0": choice()}
        # Another device has another folder.
        other = dataclasses.replace(DEVICE, gpu="cuda sm_90")
        RecordStore.open(tmp_path, other).close()
    opened(tmp_path).close()


def test_the_users_choices_come_before_the_shipped_ones(tmp_path):
    user, shipped = tmp_path / "user", tmp_path / "shipped"
    with opened(shipped) as store:
        store.add_choice(choice("w0", trial="s"))
        store.add_choice(choice("w1", trial="s"))
    with opened(user) as store:
        store.add_choice(choice("w0", trial=""))
    both = found(user, shipped)
    assert {key: value.trial for key, value in both.choices.items()} == {"w0": "", "w1": "s"}
    assert both.files["w0"].parent.parent == user and both.files["w1"].parent.parent == shipped
    assert not found(tmp_path / "nowhere").choices


def test_the_search_path_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("TVM_IOVT_PATH", str(tmp_path))
    root = record_store.user_root()
    assert root == tmp_path / "tuning_logs"
    with RecordStore.open(root, DEVICE, tvm_version=TVM) as store:
        store.add_choice(choice())
    assert find_choices(DEVICE, tvm_version=TVM).choices["w0"] == choice()


def test_compiling_reads_no_trials(tmp_path, monkeypatch):
    with opened(tmp_path) as store:
        store.add_choice(choice())
        store.add_trial(trial())
    shutil.rmtree(tmp_path / "znver4" / TRIALS.name, ignore_errors=True)
    real = Path.read_bytes
    read = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path.name), real(path))[1])
    assert found(tmp_path).choices
    assert read == [CHOICES.name]


def test_implausible_records_are_not_written(tmp_path):
    with opened(tmp_path) as store, pytest.raises(ValueError, match=r"runs for 0\.0"):
        store.add_trial(trial(run_s=(0.0,)))


def test_nothing_can_be_added_after_the_end(tmp_path):
    store = opened(tmp_path)
    store.close()
    store.close()
    with pytest.raises(ValueError, match="closed"):
        store.add_trial(trial())


def mounted(folder: Path, *options: str) -> None:
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting a file system needs root and mount(8)")
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        pytest.skip(f"cannot mount a tmpfs: {ran.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    mounted(folder, "size=64k")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)  # also if a failed test is in it


def test_a_really_full_disk(disk):
    store = opened(disk)
    number = 0
    with pytest.raises(TuningError, match="The disk is full") as caught:
        for number in range(1000):
            store.add_trial(trial(f"t{number}"))
    assert caught.value.exit_code == 7
    assert f"{number} trials are safe in {disk}/znver4/trials.jsonl" in caught.value.seen
    assert "run the same command again" in caught.value.do
    with pytest.raises(TuningError):
        store.add_choice(choice())
    store.close()
    assert number > 50
    # Readers and the next writer find all of them, also before there is space again.
    with opened(disk) as store:
        assert store.trial_count == number
    (disk / "znver4" / CHOICES.name).unlink()
    subprocess.run(["mount", "-o", "remount,size=128k", str(disk)], check=True)
    with opened(disk) as store:
        store.add_trial(trial("after"))
    with opened(disk) as store:
        assert store.trial_count == number + 1


def test_a_read_only_folder_is_an_error_before_tuning_and_fine_for_compiling(disk):
    with opened(disk) as store:
        store.add_choice(choice())
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(UsageError, match="Cannot write records") as caught:
        opened(disk)
    assert "Read-only file system" in caught.value.seen and "TVM_IOVT_PATH" in caught.value.do
    with pytest.raises(UsageError, match="Cannot write records"):
        RecordStore.open(disk / "new", DEVICE)
    assert found(disk).choices and not found(disk).problems


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="Cannot write records"):
        opened(tmp_path / "file")
    (tmp_path / "znver4" / CHOICES.name).mkdir(parents=True)
    with pytest.raises(UsageError, match="Cannot write records"):
        opened(tmp_path)
    shutil.rmtree(tmp_path / "znver4" / CHOICES.name)
    opened(tmp_path).close()  # the failed attempt has left no lock


WRITER = """
import sys
from pathlib import Path
from tests.tuning.record_examples import DEVICE, TVM, trial
from tvm_iovt.tuning.record_store import RecordStore
store = RecordStore.open(Path(sys.argv[1]), DEVICE, tvm_version=TVM)
number = store.trial_count
print("ready", number, flush=True)
while True:
    store.add_trial(trial(f"t{number}", error="", runner="r" * (number * 37 % 9000)))
    print(number, flush=True)
    number += 1
"""


def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path):
    rng = random.Random(5)
    for count in (3, 8, 17):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert process.stdout.readline().startswith("ready")
        heard = [process.stdout.readline() for _ in range(count)]
        time.sleep(rng.uniform(0.0, 0.02))  # in the middle of anything
        process.kill()
        acknowledged = "".join([*heard, process.communicate()[0]]).split("\n")[:-1]
        with opened(tmp_path) as store:
            keys = [t.key for t in store.all_trials()]
            assert len(store.problems) <= 3
        # In order, none twice, none missing; the last may have been written but not announced.
        assert keys == [f"t{i}" for i in range(len(keys))]
        assert len(acknowledged) >= count
        assert int(acknowledged[-1]) + 1 <= len(keys) <= int(acknowledged[-1]) + 2
    assert len(keys) >= 3 + 8 + 17


def test_a_reader_beside_a_writer_sees_whole_records_only(tmp_path):
    """Also while a line is being written."""
    folder = tmp_path / "znver4"
    folder.mkdir()
    lines = [CHOICES.line(choice(f"w{i}")) for i in range(3)]
    content = b"".join(lines)
    for end in range(len(content)):
        (folder / CHOICES.name).write_bytes(content[:end])
        seen = found(tmp_path)
        assert all(to_json(c) == to_json(choice(w)) for w, c in seen.choices.items())
        assert len(seen.problems) <= 1
