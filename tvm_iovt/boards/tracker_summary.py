"""What a tracker knows: kinds of boards, how many are free, and where their heartbeats are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm_iovt.boards.address import Address

HEARTBEAT_SUFFIX = "/heartbeat"
"""Marks the key under which a board announces its heartbeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """The boards of one key.

    Attributes:
        key: The kind of board.
        servers: Boards that are registered, busy ones too.
        free: Boards that nobody uses.
        pending: Requests that wait for one.
    """

    key: str
    servers: int
    free: int
    pending: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """A board's announcement of its heartbeat.

    Attributes:
        key: The board's key.
        name: The board's own name.
        address: Where the heartbeat is served.
        rpc_port: Port of the RPC server that it belongs to.
    """

    key: str
    name: str
    address: Address
    rpc_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a tracker knows.

    Attributes:
        queues: One for each key that has ever been offered or asked for.
        heartbeats: Of the boards that `tvm-iovt board` serves.
    """

    queues: tuple[Queue, ...]
    heartbeats: tuple[Heartbeat, ...]

    def queue(self, key: str) -> Queue | None:
        """The boards of a key; None if no board has it now and none has had it before."""
        return next((q for q in self.queues if q.key == key and (q.servers or q.free)), None)

    def heartbeat(self, board: Address) -> Heartbeat | None:
        """The heartbeat of the board whose RPC server is at an address."""
        same = (h for h in self.heartbeats if h.rpc_port == board.port)
        return next((h for h in same if h.address.host == board.host), None)

    def describe(self) -> str:
        """The keys with their boards, for messages."""
        known = [q for q in self.queues if q.servers or q.free]
        return "; ".join(f"{q.key}: {q.servers} boards, {q.free} free" for q in known) or "no board"


def read_summary(found: Any) -> Summary:
    """A summary from the JSON that a tracker sends.

    Raises:
        LookupError, TypeError, ValueError, AttributeError: It is something else.
    """
    servers: dict[str, int] = {}
    heartbeats = []
    for info in found["server_info"]:
        key = str(info["key"]).partition(":")[2]
        if not key.endswith(HEARTBEAT_SUFFIX):
            servers[key] = servers.get(key, 0) + 1
            continue
        host, port = info["addr"]
        heartbeats.append(
            Heartbeat(
                key=key.removesuffix(HEARTBEAT_SUFFIX),
                name=str(info["name"]),
                address=Address(host=str(host), port=int(port)),
                rpc_port=int(info["rpc_port"]),
            )
        )
    queues = found["queue_info"]
    return Summary(
        queues=tuple(
            Queue(
                key=key,
                servers=servers.get(key, 0),
                free=int(queues.get(key, {}).get("free", 0)),
                pending=int(queues.get(key, {}).get("pending", 0)),
            )
            for key in sorted({*queues, *servers})
        ),
        heartbeats=tuple(heartbeats),
    )
