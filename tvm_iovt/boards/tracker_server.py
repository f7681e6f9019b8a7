"""TVM's RPC tracker in this process, until it is interrupted."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from tvm_iovt.boards.address import Address
from tvm_iovt.boards.tracker_client import Tracker
from tvm_iovt.errors import DeviceError, ToolchainError

_BACKLOG = 64
_PROBE_S = 2.0


def serve_tracker(address: Address, ready: Callable[[Address], None]) -> None:
    """Serve until an exception comes, as a signal's handler raises one; nothing is left then.

    Args:
        address: Where to listen; port 0 is any that is free.
        ready: Called once it serves, with the address.

    Raises:
        DeviceError: The port is in use, or the address is not of this machine.
        ToolchainError: A package that TVM's tracker needs is missing.
    """
    listener = _listen(address)
    with listener:
        try:
            from tvm.rpc.tracker import _tracker_server
        except ImportError as error:
            raise ToolchainError(
                "TVM's tracker cannot be loaded", seen=str(error), do="pip install tornado"
            ) from error
        # A thread that does not hold up the end of the process; the tracker has no state to save.
        served = threading.Thread(target=_tracker_server, args=(listener, ""), daemon=True)
        served.start()
        ready(Address(host=address.host, port=listener.getsockname()[1]))
        while served.is_alive():
            served.join(1.0)  # wakes up, so that signals are handled
    raise DeviceError("The tracker ended by itself", do="start it again; its log tells why")


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server(address.pair, family=family, backlog=_BACKLOG)
    except OSError as error:
        raise DeviceError(
            f"The tracker cannot listen on {address}",
            seen=f"{error.strerror or error}{_who(address)}",
            do="choose another --port, or end what listens there"
            if address.port
            else "give --host an address of this machine",
        ) from error


def _who(address: Address) -> str:
    """Whether it is a tracker that has taken the port."""
    try:
        with Tracker(address, timeout_s=_PROBE_S):
            return "; a tracker is already running there"
    except DeviceError:
        return ""
