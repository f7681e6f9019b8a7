from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tvm_iovt.boards.address import LOOPBACK, Address
from tvm_iovt.boards.tracker_client import Tracker


@pytest.fixture
def tracker() -> Iterator[tuple[subprocess.Popen[str], Address]]:
    command = [sys.executable, "-m", "tvm_iovt", "tracker", "--port", "0", "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    found = json.loads(process.stdout.readline())
    yield process, Address(host=found["host"], port=found["port"])
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_a_signal(
    tracker: tuple[subprocess.Popen[str], Address], number: int
) -> None:
    process, address = tracker
    assert address.host == LOOPBACK
    with Tracker(address) as client:
        assert client.summary().queues == ()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "tracker stopped" in err
    assert "Traceback" not in err
    deadline_s = time.monotonic() + 60
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline_s:  # until no process of its group is left
            os.killpg(process.pid, 0)
            time.sleep(0.02)


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tvm_iovt", "tracker", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_port_in_use(tracker: tuple[subprocess.Popen[str], Address]) -> None:
    _, address = tracker
    done = call("--port", str(address.port))
    assert done.returncode == 5
    assert "in use" in done.stderr
    assert "a tracker is already running there" in done.stderr
    assert "--port" in done.stderr


def test_a_port_that_something_else_uses() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        done = call("--port", str(taken.getsockname()[1]))
    assert done.returncode == 5
    assert "already running" not in done.stderr


def test_an_address_of_another_machine_and_the_warning() -> None:
    done = call("--host", "192.0.2.1")
    assert done.returncode == 5
    assert "cannot listen on 192.0.2.1" in done.stderr
    assert "warning: whoever reaches 192.0.2.1" in done.stderr
    assert call("--port", "70000").returncode == 2
