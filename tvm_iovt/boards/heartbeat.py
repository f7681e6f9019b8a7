"""A board's answer to "are you there?": one line of JSON to whoever connects."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from dataclasses import dataclass
from typing import ClassVar

from tvm_iovt.boards.address import Address
from tvm_iovt.boards.condition import Condition
from tvm_iovt.errors import DeviceError, IovtError
from tvm_iovt.json_codec import from_json, to_json

ANSWER_S = 3.0
"""Longest time for a live board to answer, in seconds."""

_MAX_BYTES = 1 << 20
_SEND_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardStatus:
    """What a board is, and how it is.

    Attributes:
        key: The kind of board, under which it is asked for.
        name: Its own name.
        arch: `x86_64`, `aarch64` or `armv7l`.
        cpu: Model of the CPU or of the board.
        system: Operating system and release.
        cores: CPUs that sessions may use.
        features: CPU flags, as /proc/cpuinfo spells them.
        devices: Accelerators that TVM's runtime there finds, by name.
        memory_bytes: Of the machine.
        tvm_version: Installed apache-tvm.
        tvm_ffi_version: Installed apache-tvm-ffi.
        tool_version: Installed tvm-iovt.
        rpc_port: Port of the RPC server.
        state: `serving`, `starting`, `restarting`, or `no tracker`.
        server_pid: Process id of the RPC server; 0 while there is none.
        sessions: Clients that are served now; None if the system does not tell.
        restarts: Times that the server had to be started again.
        last_exit: How the server ended the last time; empty if it never did.
        uptime_s: Since the supervisor started.
        condition: Temperature, clocks, free memory, load.
    """

    SCHEMA: ClassVar[str] = "tvm-iovt/board/1"

    key: str
    name: str
    arch: str
    cpu: str
    system: str
    cores: int
    features: tuple[str, ...]
    devices: tuple[str, ...]
    memory_bytes: int
    tvm_version: str
    tvm_ffi_version: str
    tool_version: str
    rpc_port: int
    state: str
    server_pid: int
    sessions: int | None
    restarts: int
    last_exit: str
    uptime_s: float
    condition: Condition


def ask(address: Address, *, timeout_s: float = ANSWER_S) -> BoardStatus:
    """Ask a board for its status.

    Raises:
        DeviceError: It does not answer in time, or with something else.
    """
    try:
        line = _read_line(address, time.monotonic() + timeout_s)
    except OSError as error:
        seen = f"no answer in {timeout_s:g} s" if isinstance(error, TimeoutError) else str(error)
        raise DeviceError(
            f"The board at {address} does not answer",
            seen=seen,
            do="look whether it has power and network, and whether `tvm-iovt board` runs on it",
        ) from error
    try:
        return from_json(BoardStatus, json.loads(line))
    except (ValueError, IovtError) as error:
        raise DeviceError(
            f"{address} is no heartbeat of a board that this version can read",
            seen=f"{line[:80]!r}: {error}",
            do="use the same version of tvm-iovt on the board and here",
        ) from error


class HeartbeatServer:
    """The socket that heartbeats are served on; answers when `answer` is called.

    Args:
        address: Where to listen; port 0 is any that is free.

    Raises:
        OSError: It cannot listen there.
    """

    def __init__(self, address: Address) -> None:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._socket = socket.create_server(address.pair, family=family, backlog=64)
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]

    def fileno(self) -> int:
        """Of the socket: readable when somebody asks."""
        return self._socket.fileno()

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def answer(self, status: BoardStatus) -> None:
        """Tell everybody who is asking."""
        line = json.dumps(to_json(status)).encode() + b"\n"
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # nobody left
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(_SEND_S)
                connection.sendall(line)


def _read_line(address: Address, deadline_s: float) -> bytes:
    data = b""
    with socket.create_connection(address.pair, max(deadline_s - time.monotonic(), 0.1)) as stream:
        while not data.endswith(b"\n") and len(data) < _MAX_BYTES:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            stream.settimeout(left_s)
            chunk = stream.recv(65536)
            if not chunk:
                break
            data += chunk
    return data
