"""Writing lines: whatever ends a writer, whole lines stay, and the next one goes on."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tuning.record_examples import DEVICE, trial
from tvm_iovt.errors import TuningError, UsageError
from tvm_iovt.tuning.record_files import TRIALS, device_folder
from tvm_iovt.tuning.record_lines import read_file
from tvm_iovt.tuning.record_writing import LineAppender, write_error

PATH = Path("trials.jsonl")


trials = st.builds(
    trial,
    key=st.text("abc", min_size=1, max_size=3),
    workload=st.sampled_from(["w0", "w1"]),
    runner=st.text(max_size=5),
    date=st.datetimes().map(lambda date: date.isoformat()),
)


@settings(max_examples=60, deadline=None)
@given(batches=st.lists(st.lists(trials, max_size=4), min_size=1, max_size=4), data=st.data())
def test_a_cut_anywhere_leaves_the_whole_lines(tmp_path_factory, batches, data):
    """Writers that are killed while they write, one after the other."""
    path = tmp_path_factory.mktemp("cut") / TRIALS.name
    expected, torn = [], 0
    for batch in batches:
        before = path.stat().st_size if path.exists() else 0
        appender = LineAppender(path)
        ends = []
        for record in batch:
            appender.append(TRIALS.line(record))
            ends.append(path.stat().st_size)
        appender.close()
        cut = data.draw(st.integers(before, ends[-1] if ends else before))
        os.truncate(path, cut)
        # All of a line but its end is the record, too.
        expected += [r for r, end in zip(batch, ends, strict=True) if end - 1 <= cut]
        found = read_file(TRIALS, path.parent)
        assert list(found.records) == expected
        whole = path.read_bytes()[-1:] in (b"", b"\n")
        assert len(found.skipped) - torn in ((0,) if whole else (0, 1))
        torn = len(found.skipped)
    assert torn <= len(batches)


def test_a_line_behind_a_torn_one_is_not_glued_to_it(tmp_path):
    path = tmp_path / TRIALS.name
    path.write_bytes(TRIALS.line(trial("a")) + TRIALS.line(trial("b"))[:-20])
    assert "its end is missing" in read_file(TRIALS, tmp_path).problems[0]
    appender = LineAppender(path)
    appender.append(TRIALS.line(trial("c")))
    appender.append(TRIALS.line(trial("d")))
    appender.close()
    found = read_file(TRIALS, tmp_path)
    assert [record.key for record in found.records] == ["a", "c", "d"]
    assert [line.number for line in found.skipped] == [2]


def test_a_partial_write_is_a_torn_line_alone(tmp_path, monkeypatch):
    """The disk takes a part of a line, then nothing, then has space again."""
    appender = LineAppender(tmp_path / TRIALS.name)
    appender.append(TRIALS.line(trial("a")))
    real, calls = os.write, []

    def full(descriptor, content):
        calls.append(bytes(content))
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, content[:30])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        appender.append(TRIALS.line(trial("b")))
    assert len(calls) == 2 and calls[1] == calls[0][30:]
    monkeypatch.undo()
    appender.append(TRIALS.line(trial("c")))
    appender.close()
    assert [r.key for r in read_file(TRIALS, tmp_path).records] == ["a", "c"]


def test_a_short_write_is_continued(tmp_path, monkeypatch):
    appender = LineAppender(tmp_path / TRIALS.name)
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: real(descriptor, content[:7]))
    appender.append(TRIALS.line(trial()))
    appender.close()
    assert (tmp_path / TRIALS.name).read_bytes() == TRIALS.line(trial())


def test_lines_are_flushed_about_once_a_second(tmp_path, monkeypatch):
    now, synced = [0.0], []
    monkeypatch.setattr("tvm_iovt.tuning.record_writing.time.monotonic", lambda: now[0])
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(now[0]))
    appender = LineAppender(tmp_path / TRIALS.name)
    for tenth in range(25):
        now[0] = tenth / 10
        appender.append(TRIALS.line(trial()))
    assert synced == [1.0, 2.0]
    appender.sync()
    appender.sync()
    assert synced == [1.0, 2.0, 2.4]
    appender.close()


LIMITED = """
import resource, signal, sys
from pathlib import Path
from tests.tuning.record_examples import DEVICE, trial
from tvm_iovt.errors import TuningError
from tvm_iovt.tuning.record_store import RecordStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = RecordStore.open(Path(sys.argv[1]), DEVICE)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
try:
    for number in range(100):
        store.add_trial(trial(f"t{number}"))
except TuningError as error:
    print(number, error.exit_code, error, sep="|")
"""


def test_a_file_that_may_not_grow(tmp_path):
    assert resource.RLIMIT_FSIZE and signal.SIGXFSZ
    ran = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    written, code, message = ran.stdout.split("|", 2)
    assert 1 < int(written) < 10 and code == "7"
    assert "The disk is full" in message and f"{written} trials are safe in" in message
    found = read_file(TRIALS, device_folder(tmp_path, DEVICE))
    assert len(found.records) == int(written) and len(found.skipped) == 1


def test_errors_of_writing_say_what_to_do():
    full = write_error(PATH, OSError(errno.ENOSPC, "No space left on device"), kept="7 are safe")
    assert isinstance(full, TuningError) and "7 are safe" in full.seen
    denied = write_error(PATH, OSError(errno.EROFS, "Read-only file system"))
    assert isinstance(denied, UsageError) and "TVM_IOVT_PATH" in denied.do
