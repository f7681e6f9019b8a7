"""One writer at a time, whoever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tvm_iovt.errors import TuningError, UsageError
from tvm_iovt.tuning import record_lock
from tvm_iovt.tuning.record_lock import FolderLock, holder

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from pathlib import Path
from tvm_iovt.tuning.record_lock import FolderLock
lock = FolderLock(Path(sys.argv[1]), "tuning resnet.onnx")
print("locked", flush=True)
sys.stdin.read()
"""
FORK = HOLD.replace(
    'print("locked", flush=True)',
    'import os\nchild = os.fork()\nif child: print("locked", child, flush=True)',
)


def started(program: str, folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    return process


def ended(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_the_second_is_told_about_the_first_at_once(tmp_path):
    process = started(HOLD, tmp_path)
    try:
        assert process.stdout.readline() == "locked\n"
        began = time.monotonic()
        with pytest.raises(TuningError, match="in use") as caught:
            FolderLock(tmp_path, "merging")
        assert time.monotonic() - began < 60
        seen = caught.value.seen
        assert "tuning resnet.onnx" in seen and str(process.pid) in seen
        assert os.uname().nodename in seen and "since 20" in seen
        found = holder(tmp_path)
        assert found.pid == process.pid and found.purpose == "tuning resnet.onnx"
    finally:
        ended(process)
    # Killed: the file is still there, the lock is not.
    assert (tmp_path / record_lock.FILE).exists() and holder(tmp_path) is None
    FolderLock(tmp_path, "tuning").close()


def test_a_killed_tuner_whose_child_lives_is_named_so(tmp_path):
    process = started(FORK, tmp_path)
    child = 0
    try:
        child = int(process.stdout.readline().split()[1])
        process.kill()
        process.wait()
        with pytest.raises(TuningError) as caught:
            FolderLock(tmp_path, "tuning")
        assert "it has ended, but a process that it started has not" in caught.value.seen
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
        process.stdin.close()
        process.stdout.close()
    deadline = time.monotonic() + 60
    while holder(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert holder(tmp_path) is None


def test_programs_that_the_holder_starts_do_not_inherit_the_lock(tmp_path):
    lock = FolderLock(tmp_path, "tuning")
    sleeper = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        lock.close()
        assert holder(tmp_path) is None
    finally:
        sleeper.kill()
        sleeper.wait()


def test_looking_does_not_disturb(tmp_path):
    assert holder(tmp_path) is None
    assert not (tmp_path / record_lock.FILE).exists()
    lock = FolderLock(tmp_path, "tuning")
    assert holder(tmp_path).pid == os.getpid()
    lock.close()
    assert holder(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"nonsense", b'{"pid": 1}', b"\xff" * 9000])
def test_a_lock_that_says_nothing_is_a_lock(tmp_path, content):
    lock = FolderLock(tmp_path, "tuning")
    (tmp_path / record_lock.FILE).write_bytes(content)
    with pytest.raises(TuningError, match="did not say who it is"):
        FolderLock(tmp_path, "tuning")
    lock.close()


def test_a_folder_that_cannot_be_written_to(tmp_path):
    with pytest.raises(UsageError, match="Cannot write records"):
        FolderLock(tmp_path / "missing", "tuning")
