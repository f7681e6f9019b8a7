"""What `tvm-iovt board` does: serve a board until it is interrupted, and say what it is.

On a board without click and rich the same is `python -m tvm_iovt.boards`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tvm_iovt.boards.address import Address, is_loopback
from tvm_iovt.boards.heartbeat import BoardStatus
from tvm_iovt.boards.supervisor import BoardOptions, Supervisor
from tvm_iovt.errors import UsageError

_KEY = re.compile(r"[A-Za-z0-9._+-]{1,64}")
_SIZE = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?)\s*(?P<unit>[kMGT]?)(i?B)?", re.IGNORECASE)
# Flags of /proc/cpuinfo that kernels are compiled for; there are a hundred others.
_ARITHMETIC = re.compile(r"sse4|avx|fma|f16c|amx|neon|vfpv4|asimd|fphp|sve|i8mm|bf16")
_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


def serve_board(options: BoardOptions, say: Callable[[str], None]) -> None:
    """Serve until an exception comes, as a signal's handler raises one; nothing is left then.

    Args:
        options: How to serve.
        say: Takes lines for the log.

    Raises:
        UsageError: The key cannot be one.
        DeviceError: A port is in use, or an address is not of this machine.
        ToolchainError: TVM's runtime is missing or cannot be loaded.
    """
    if not _KEY.fullmatch(options.key):
        raise UsageError(
            "The key of the board cannot be used",
            seen=repr(options.key),
            do="write a short name of letters, digits and . _ + -, such as rpi4",
        )
    supervisor = Supervisor(options, say)
    try:
        status = supervisor.status
        for line in describe(status):
            say(line)
        for line in warnings(options, status.rpc_port, supervisor.heartbeat_port):
            say(line)
        supervisor.run()
    finally:
        supervisor.close()


def describe(status: BoardStatus) -> tuple[str, ...]:
    """What a board is, in lines."""
    return (
        f"{status.name}: {status.cpu}, {status.cores} cores, {status.system} {status.arch}",
        f"  memory   {status.memory_bytes / 2**30:.1f} GiB",
        f"  features {' '.join(filter(_ARITHMETIC.match, status.features)) or 'unknown'}",
        f"  devices  {', '.join(status.devices) or 'the CPU alone'}",
        f"  runtime  apache-tvm {status.tvm_version}, apache-tvm-ffi {status.tvm_ffi_version}, "
        f"tvm-iovt {status.tool_version}",
    )


def warnings(options: BoardOptions, port: int, heartbeat_port: int) -> tuple[str, ...]:
    """What one should know about the addresses of a board, in lines; empty if nothing."""
    if not is_loopback(options.bind):
        return (
            f"warning: TVM's RPC executes what it is sent, from whoever reaches {options.bind} "
            f"port {port}; there is no password and no encryption.",
            "  Serve in a network that you trust, or on loopback (without --bind) through a "
            "tunnel: " + tunnel(options.tracker, port, heartbeat_port),
        )
    if not is_loopback(options.tracker.host):
        return (
            f"warning: this board listens on loopback, but its tracker is {options.tracker}: "
            "nobody can reach it there.",
            "  Tunnel to the tracker's machine and use --tracker 127.0.0.1 here: "
            + tunnel(options.tracker, port, heartbeat_port),
            "  or give --bind an address of this machine, in a network that you trust.",
        )
    return ()


def tunnel(tracker: Address, port: int, heartbeat_port: int) -> str:
    """The command for a board that connects it to its tracker and back, over ssh."""
    host = "TRACKER-HOST" if is_loopback(tracker.host) else tracker.host
    return (
        f"ssh -N -L {tracker.port}:127.0.0.1:{tracker.port} -R {port}:127.0.0.1:{port} "
        f"-R {heartbeat_port}:127.0.0.1:{heartbeat_port} {host}"
    )


def parse_size(text: str) -> int:
    """Bytes from `800M` or `1.5G` (powers of 1024).

    Raises:
        UsageError: It is something else.
    """
    found = _SIZE.fullmatch(text.strip())
    size_bytes = int(float(found["number"]) * _UNITS[found["unit"].lower()]) if found else 0
    if size_bytes < 1:
        raise UsageError("The size cannot be read", seen=repr(text), do="write it as 800M or 1.5G")
    return size_bytes
