from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tvm_iovt.boards.address import LOOPBACK, Address
from tvm_iovt.boards.tracker_client import Tracker
from tvm_iovt.errors import DeviceError

MAGIC = struct.pack("<i", 0x2F271)


@contextlib.contextmanager
def server(answer: Callable[[socket.socket], object]) -> Iterator[Address]:
    """Something that listens and does with each connection what a test says."""
    with socket.create_server((LOOPBACK, 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        answer(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield Address(host=LOOPBACK, port=listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def message(text: str) -> bytes:
    return struct.pack("<i", len(text)) + text.encode()


def silent(connection: socket.socket) -> None:
    while connection.recv(1):  # until the client gives up
        pass


@pytest.mark.parametrize(
    ("answer", "timeout_s", "seen"),
    [
        (silent, 0.3, "said nothing in 0.3 s"),
        (lambda c: c.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), 60, "no tracker answered"),
        (lambda c: c.sendall(MAGIC[:2]), 60, "closed|reset"),
    ],
    ids=["silent", "garbage", "half"],
)
def test_what_is_no_tracker(
    answer: Callable[[socket.socket], object], timeout_s: float, seen: str
) -> None:
    with server(answer) as address, pytest.raises(DeviceError, match=seen) as caught:
        Tracker(address, timeout_s=timeout_s)
    assert str(address) in caught.value.what
    assert "tvm-iovt tracker" in caught.value.do or "again" in caught.value.do


def test_nobody_listens() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(DeviceError, match="refused"):
        Tracker(Address(host=LOOPBACK, port=port))


def test_an_unknown_host() -> None:
    with pytest.raises(DeviceError, match="cannot be used"):
        Tracker(Address(host="no-such-host.invalid", port=9190))


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        (b"", "closed|reset"),
        (message("{"), "no JSON"),
        (message("[0]"), "another kind"),
        (message('[0, {"server_info": [{"key": "server:a/heartbeat"}]}]'), "another kind"),
        (message("[-1]"), "refused"),
        (struct.pack("<i", -5), "no tracker"),
        (struct.pack("<i", 100) + b"half", "closed|reset"),
    ],
)
def test_answers_that_make_no_sense(said: bytes, seen: str) -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(MAGIC)
        connection.recv(1000)
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1000)

    with (
        server(answer) as address,
        pytest.raises(DeviceError, match=seen),
        Tracker(address, timeout_s=60) as tracker,
    ):
        tracker.summary()


def test_a_tracker_that_falls_silent() -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(MAGIC)
        silent(connection)

    with server(answer) as address, Tracker(address, timeout_s=2) as tracker:
        with pytest.raises(DeviceError, match=r"no answer in 2 s"):
            tracker.ping()
        assert tracker.request("any", wait_s=0.3) is None


def test_a_board_is_announced_handed_out_and_forgotten(own_lab: Any, processes: Any) -> None:
    own_lab.start_tracker()
    with Tracker(own_lab.tracker) as tracker:
        tracker.ping()
        assert tracker.summary().queues == ()
        assert tracker.summary().describe() == "no board"
    board = own_lab.start_board("a.b-c", "--name", "first")
    with Tracker(own_lab.tracker) as tracker:
        summary = tracker.summary()
        (queue,) = summary.queues
        assert (queue.key, queue.servers, queue.free, queue.pending) == ("a.b-c", 1, 1, 0)
        assert summary.queue("other") is None
        assignment = tracker.request("a.b-c", wait_s=60)
        assert assignment is not None
        found = tracker.summary().heartbeat(assignment.address)
        assert found is not None
        assert (found.key, found.name, found.rpc_port) == (
            "a.b-c",
            "first",
            assignment.address.port,
        )
    with Tracker(own_lab.tracker) as tracker:
        assert tracker.request("a.b-c", wait_s=0.3) is None
    # TVM's own client must understand what we have registered.
    from tvm import rpc

    text = rpc.connect_tracker(*own_lab.tracker.pair).text_summary()
    assert [line.split()[:2] for line in text.splitlines() if line.startswith("a.b-c")] == [
        ["a.b-c", "1"]
    ]
    board.end()

    def is_forgotten() -> bool:
        with Tracker(own_lab.tracker) as tracker:
            return tracker.summary().queue("a.b-c") is None

    processes.until(is_forgotten)
