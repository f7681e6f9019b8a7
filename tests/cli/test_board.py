from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tvm_iovt.boards.address import LOOPBACK, Address
from tvm_iovt.boards.serve import parse_size, tunnel, warnings
from tvm_iovt.boards.supervisor import BoardOptions
from tvm_iovt.errors import UsageError


def test_it_logs_json_and_ends_on_a_signal(tmp_path: Path) -> None:
    """Without a tracker: a board waits for it."""
    log = tmp_path / "log"
    command = [sys.executable, "-m", "tvm_iovt", "board", "--tracker", f"{LOOPBACK}:1"]
    with log.open("w") as stream:
        process = subprocess.Popen([*command, "--key", "k", "--json"], stdout=stream)
    deadline_s = time.monotonic() + 60
    while "trying again" not in log.read_text():
        assert time.monotonic() < deadline_s
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    lines = [json.loads(line)["log"] for line in log.read_text().splitlines()]
    assert any("cores" in line for line in lines)
    assert any("apache-tvm 0.27" in line for line in lines)
    assert lines[-1] == "stopped"


def test_a_wrong_option() -> None:
    command = [sys.executable, "-m", "tvm_iovt", "board", "--tracker", "a:b", "--key", "k"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "address of the tracker" in done.stderr


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("800M", 800 << 20), ("1.5G", 3 << 29), ("2GiB", 2 << 30), ("4096", 4096), ("1kB", 1024)],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "much", "-1G", "0", "1X", "G"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="size cannot be read"):
        parse_size(text)


def test_warnings() -> None:
    here = Address(host=LOOPBACK, port=9190)
    there = Address(host="10.0.0.5", port=9190)
    assert warnings(BoardOptions(tracker=here, key="k"), 9091, 9092) == ()
    unreachable = "\n".join(warnings(BoardOptions(tracker=there, key="k"), 9091, 9092))
    assert "nobody can reach it" in unreachable
    assert tunnel(there, 9091, 9092) in unreachable
    wide = "\n".join(warnings(BoardOptions(tracker=there, key="k", bind="10.0.0.7"), 9091, 9092))
    assert "executes what it is sent" in wide
    assert tunnel(there, 9091, 9092) == (
        "ssh -N -L 9190:127.0.0.1:9190 -R 9091:127.0.0.1:9091 -R 9092:127.0.0.1:9092 10.0.0.5"
    )
