"""A client of TVM's RPC tracker that never waits longer than it was told to.

TVM's own client blocks without a limit: on a tracker that accepts and says nothing, and on the
request of a key that no board has. The protocol is small: a magic number both ways, then messages
of a 32-bit length and JSON, each answered by one (tvm/rpc/tracker.py).
"""

from __future__ import annotations

import json
import socket
import struct
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tvm_iovt.boards.address import Address
from tvm_iovt.boards.tracker_summary import HEARTBEAT_SUFFIX, Summary, read_summary
from tvm_iovt.errors import DeviceError

CONNECT_S = 5.0
"""Longest time to wait for a tracker to answer, by default."""

_MAGIC = struct.pack("<i", 0x2F271)
_PING, _REQUEST, _UPDATE_INFO, _SUMMARY = 1, 4, 5, 6
_SUCCESS = 0
_MAX_ANSWER_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A board that the tracker has given to us: where it is, and the word that it expects."""

    address: Address
    match_key: str


class Tracker:
    """A connection to a tracker; every call has a deadline. Use it in a `with` block.

    Args:
        address: Where it listens.
        timeout_s: For connecting and for each answer.

    Raises:
        DeviceError: Nothing listens there, or something that is no tracker.
    """

    def __init__(self, address: Address, *, timeout_s: float = CONNECT_S) -> None:
        self._address = address
        self._timeout_s = timeout_s
        deadline_s = time.monotonic() + timeout_s
        try:
            self._socket = socket.create_connection(address.pair, timeout_s)
        except OSError as error:
            raise _failed(address, _words(error), _START) from error
        try:
            self._send(_MAGIC)
            if self._receive(len(_MAGIC), deadline_s) != _MAGIC:
                raise _failed(address, "something that is no tracker answered", _START)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """Of the socket, to wait for its end."""
        return self._socket.fileno()

    def close(self) -> None:
        """Give up the connection, and what was asked for through it."""
        self._socket.close()

    def ping(self) -> None:
        """Ask whether the tracker is there.

        Raises:
            DeviceError: It is not.
        """
        self._call([_PING])

    def summary(self) -> Summary:
        """What the tracker knows.

        Raises:
            DeviceError: It does not answer.
        """
        answer = self._call([_SUMMARY])
        try:
            return read_summary(answer[1])
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise _failed(self._address, f"an answer of another kind: {answer!r:.200}") from error

    def request(self, key: str, *, wait_s: float) -> Assignment | None:
        """Ask for a board of a key.

        A connection can wait for one board only, so that close it after None.

        Args:
            key: The kind of board; it should be known, see `summary`.
            wait_s: How long to wait for one to be free.

        Returns:
            The board, or None if none came free.

        Raises:
            DeviceError: The tracker does not answer.
        """
        self._send_json([_REQUEST, key, "", 1])
        try:
            answer = self._receive_json(time.monotonic() + max(wait_s, 0.1))
        except TimeoutError:
            return None
        try:
            _, (host, port, match_key) = answer
            address = Address(host=str(host), port=int(port))
        except (TypeError, ValueError) as error:
            raise _failed(self._address, f"an answer of another kind: {answer!r:.200}") from error
        return Assignment(address=address, match_key=str(match_key))

    def announce(self, key: str, name: str, heartbeat: Address, rpc_port: int) -> None:
        """Tell where the heartbeat of a board is, as long as this connection lasts.

        TVM's tracker lists connections whose key starts with `server`. The suffix keeps its own
        summary from counting the board twice.

        Args:
            key: The board's key.
            name: The board's name.
            heartbeat: Its address; an empty host is that from which the tracker sees us.
            rpc_port: Port of the board's RPC server.

        Raises:
            DeviceError: The tracker does not answer.
        """
        self._call(
            [
                _UPDATE_INFO,
                {
                    "key": f"server:{key}{HEARTBEAT_SUFFIX}",
                    "addr": [heartbeat.host or None, heartbeat.port],
                    "name": name,
                    "rpc_port": rpc_port,
                },
            ]
        )

    def _call(self, message: list[Any]) -> Any:
        self._send_json(message)
        try:
            answer = self._receive_json(time.monotonic() + self._timeout_s)
        except TimeoutError as error:
            raise _failed(self._address, f"no answer in {self._timeout_s:g} s") from error
        code = answer[0] if isinstance(answer, list) and answer else answer
        if code != _SUCCESS:
            raise _failed(self._address, f"it refused: {answer!r:.200}")
        return answer

    def _send_json(self, message: list[Any]) -> None:
        data = json.dumps(message).encode()
        self._send(struct.pack("<i", len(data)) + data)

    def _send(self, data: bytes) -> None:
        self._socket.settimeout(self._timeout_s)
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise _failed(self._address, _words(error)) from error

    def _receive_json(self, deadline_s: float) -> Any:
        """The next message.

        Raises:
            TimeoutError: It has not come by the deadline.
            DeviceError: The connection is lost, or what came is no message of a tracker.
        """
        (size,) = struct.unpack("<i", self._read(4, deadline_s))
        if not 0 < size <= _MAX_ANSWER_BYTES:
            raise _failed(self._address, "something that is no tracker answered", _START)
        data = self._read(size, max(deadline_s, time.monotonic() + 1.0))
        try:
            return json.loads(data)
        except ValueError as error:
            raise _failed(self._address, f"an answer that is no JSON: {data!r:.80}") from error

    def _receive(self, size: int, deadline_s: float) -> bytes:
        try:
            return self._read(size, deadline_s)
        except TimeoutError as error:
            seen = f"it accepted, but said nothing in {self._timeout_s:g} s"
            raise _failed(self._address, seen, _START) from error

    def _read(self, size: int, deadline_s: float) -> bytes:
        data = b""
        while len(data) < size:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._socket.settimeout(left_s)
            try:
                chunk = self._socket.recv(size - len(data))
            except TimeoutError:
                raise
            except OSError as error:
                raise _failed(self._address, _words(error)) from error
            if not chunk:
                raise _failed(self._address, "it closed the connection")
            data += chunk
        return data


_START = "start one with `tvm-iovt tracker`, and check the address and the firewall"


def _words(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _failed(address: Address, seen: str, do: str = "") -> DeviceError:
    return DeviceError(
        f"The tracker at {address} cannot be used",
        seen=seen,
        do=do or "look whether it still runs, and try again",
    )
