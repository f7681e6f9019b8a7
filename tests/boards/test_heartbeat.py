from __future__ import annotations

import json
import socket
import threading
from typing import Any

import pytest

from tvm_iovt.boards import heartbeat
from tvm_iovt.boards.address import LOOPBACK, Address
from tvm_iovt.errors import DeviceError


def test_a_board_tells_what_it_is(lab: Any, board: Any) -> None:
    from importlib.metadata import version

    from tvm_iovt.runtime.machine import this_machine

    found = lab.living("shared")
    assert (found.key, found.name, found.state) == ("shared", "bench-top", "serving")
    assert found.arch == this_machine().arch
    assert set(found.features) == this_machine().features
    assert found.tvm_version == version("apache-tvm")
    assert found.tvm_ffi_version == version("apache-tvm-ffi")
    assert found.memory_bytes > 2**20
    assert found.cores >= 1
    assert (found.restarts, found.last_exit) == (0, "")
    assert found.server_pid > 0
    assert found.uptime_s > 0


@pytest.mark.parametrize("said", [b"", b"{}\n", b"hello\n", b'{"schema": "tvm-iovt/board/2"}\n'])
def test_what_is_no_heartbeat(said: bytes) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(said)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(DeviceError, match="no heartbeat"):
            heartbeat.ask(Address(host=LOOPBACK, port=listener.getsockname()[1]), timeout_s=60)


def test_a_board_that_does_not_answer() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:  # accepts, and nobody speaks
        address = Address(host=LOOPBACK, port=listener.getsockname()[1])
        with pytest.raises(DeviceError, match=r"no answer in 0\.2 s"):
            heartbeat.ask(address, timeout_s=0.2)
    with pytest.raises(DeviceError, match="does not answer"):
        heartbeat.ask(address)


def test_many_ask_at_once(lab: Any, board: Any) -> None:
    from tvm_iovt.boards.tracker_client import Tracker

    with Tracker(lab.tracker) as tracker:
        (found,) = [h for h in tracker.summary().heartbeats if h.key == "shared"]
    streams = [socket.create_connection(found.address.pair, 60) for _ in range(20)]
    for stream in streams:
        with stream, stream.makefile() as lines:
            assert json.loads(lines.readline())["key"] == "shared"
