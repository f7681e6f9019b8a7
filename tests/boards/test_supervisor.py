"""What a board does when its server dies, when it dies itself, and when its tracker does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from typing import Any

import pytest

from tvm_iovt.boards.address import LOOPBACK
from tvm_iovt.boards.confinement import describe_exit, is_by_session
from tvm_iovt.boards.connection import connect
from tvm_iovt.errors import DeviceError


def test_nothing_outlives_a_killed_supervisor(own_lab: Any, processes: Any) -> None:
    own_lab.start_tracker()
    board = own_lab.start_board("fragile")
    with connect(own_lab.request("fragile")) as session:
        session.call("running", "echo", 10)
        children = processes.descendants(board.process.pid)
        assert len(children) >= 2  # the server, and the process of our session
        board.end(signal.SIGKILL)
        processes.until(lambda: not any(map(processes.is_alive, children)))
        with pytest.raises(DeviceError, match="running failed"):
            session.call("running", "echo", 10)
    processes.until(lambda: own_lab.status("fragile") is None)


def test_pauses_grow_only_while_the_server_itself_dies(own_lab: Any, processes: Any) -> None:
    own_lab.start_tracker()
    board = own_lab.start_board("any")

    def kill(which: Any) -> None:
        before = own_lab.living("any")
        os.kill(which(before.server_pid), signal.SIGKILL)
        processes.until(
            lambda: (
                (now := own_lab.living("any")).restarts > before.restarts and now.state == "serving"
            )
        )

    for _ in range(2):
        with connect(own_lab.request("any")):
            kill(lambda server: processes.descendants(server)[0])
    assert board.text.count("starting it again in 0.25 s") == 2
    for pause in ("0.5", "1"):
        words = f"(killed by SIGKILL); starting it again in {pause} s"
        for _ in range(10):  # one that has lived for a while, on a busy machine, begins anew
            kill(lambda server: server)
            if words in board.text:
                break
        assert words in board.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_board_cleanly(own_lab: Any, processes: Any, number: int) -> None:
    own_lab.start_tracker()
    board = own_lab.start_board("fragile")
    children = processes.descendants(board.process.pid)
    assert board.end(number) == 0
    assert board.text.endswith("stopped\n")
    assert "Traceback" not in board.text
    processes.until(lambda: not any(map(processes.is_alive, children)))


def test_a_tracker_that_is_started_again_gets_its_boards_back(own_lab: Any, processes: Any) -> None:
    port = processes.free_port()
    first = own_lab.start_tracker(port)
    board = own_lab.start_board("faithful")
    server = own_lab.living("faithful").server_pid
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    board.wait_for("lost the tracker")
    time.sleep(0.5)
    own_lab.start_tracker(port)
    # TVM's server tries every 5 s.
    processes.until(lambda: own_lab.is_free("faithful"))
    assert own_lab.living("faithful").server_pid == server
    with connect(own_lab.request("faithful")) as session:
        session.call("running", "echo", 10)


def test_a_board_waits_for_its_tracker(own_lab: Any, processes: Any) -> None:
    port = processes.free_port()
    own_lab.tracker = type(own_lab.tracker)(host=LOOPBACK, port=port)
    board = own_lab.start("early", own_lab.board_command("early"))
    board.wait_for("trying again until it can")
    own_lab.start_tracker(port)
    processes.until(lambda: own_lab.is_free("early"))


@pytest.mark.parametrize("option", ["--port", "--heartbeat-port"])
def test_a_port_in_use(own_lab: Any, option: str) -> None:
    own_lab.start_tracker()
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        command = own_lab.board_command("any", option, str(port))
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 5
    assert "in use" in done.stderr
    assert str(port) in done.stderr
    assert "do:" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--memory-limit", "much"), "size cannot be read"),
        (("--port", "70000"), "out of range"),
        (("--tracker", "a:b:c"), "brackets"),
        (("--key", "two words"), "key of the board"),
    ],
)
def test_options_that_make_no_sense(own_lab: Any, options: tuple[str, str], words: str) -> None:
    done = subprocess.run(
        own_lab.board_command("any", *options), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_of_another_machine(own_lab: Any) -> None:
    command = own_lab.board_command("any", "--bind", "192.0.2.1")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 5
    assert "192.0.2.1" in done.stderr


def test_a_wide_open_board_warns(own_lab: Any) -> None:
    own_lab.start_tracker()
    board = own_lab.start_board("open", "--bind", "0.0.0.0")
    assert "executes what it is sent" in board.text
    assert "ssh -N -L" in board.text
    closed = own_lab.start_board("closed")
    assert "warning" not in closed.text


def test_exits_in_words() -> None:
    assert describe_exit(4 << 8) == "exit code 4"
    assert describe_exit(3 << 8) == "a session failed"
    assert is_by_session(3 << 8)
    assert is_by_session((128 + signal.SIGSEGV) << 8)
    assert not is_by_session(signal.SIGKILL)
    assert not is_by_session(1 << 8)
    assert describe_exit(signal.SIGKILL) == "killed by SIGKILL"
    assert describe_exit((128 + signal.SIGSEGV) << 8) == "a session was killed by SIGSEGV"
