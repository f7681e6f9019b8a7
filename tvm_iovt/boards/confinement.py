"""What keeps the processes of a board in bounds: they die with their parent, and stay small."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from pathlib import Path

from tvm_iovt.boards.condition import available_memory_bytes

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_SHARE = 0.9
"""Of the available memory, what a session may take when no limit was given."""


OPEN, PEER_CLOSED = "01", "08"
"""States of TCP connections (net/tcp_states.h)."""

SESSION_FAILED = 3
"""Exit code of a server that ends because a session ended with an error."""

SESSION_SIGNALLED = 128
"""Exit code of a server that ends because a signal killed a session: this plus its number."""


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however that ends.

    It is the thread that forked this process whose end counts; so fork from threads that stay.

    Args:
        parent: Process id of the parent, taken before the fork: it may be gone already.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def limit_memory(limit_bytes: int | None) -> None:
    """Bound what this process can allocate from now on, so that one that asks for more fails alone.

    Private memory is counted, not address space: libraries and thread stacks reserve a lot of that
    without using it.

    Args:
        limit_bytes: The bound; by default 90 % of what the machine has available now.

    What is there already, which is shared with the parent mostly, does not count.
    """
    if limit_bytes is None:
        limit_bytes = int(available_memory_bytes() * _SHARE)
    if limit_bytes > 0:
        limit_bytes += _private_bytes()
        with contextlib.suppress(ValueError, OSError):  # above the hard limit, which is lower then
            resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
    with contextlib.suppress(ValueError, OSError):  # a crash must not fill the board's storage
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _private_bytes() -> int:
    """What the kernel counts against the limit now; 0 if it does not tell."""
    try:
        data_pages = Path("/proc/self/statm").read_text().split()[5]
    except (OSError, IndexError):
        return 0
    return int(data_pages) * resource.getpagesize()


def accepted_connections(port: int) -> frozenset[str]:
    """States of the connections that a process has accepted on a port: `OPEN`, `PEER_CLOSED`."""
    states = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            # sl, local address:port, remote address:port, state, ..., inode
            fields = line.split()
            local_port, state, inode = int(fields[1].rpartition(":")[2], 16), fields[3], fields[9]
            if local_port == port and inode != "0":  # which it has while it waits to be accepted
                states.add(state)
    return frozenset(states)


def kill_group(pid: int) -> None:
    """Kill a process that leads a group, and everything in the group; none is left is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def describe_exit(status: int) -> str:
    """A wait status in words: `exit code 1`, `killed by SIGSEGV`."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"killed by {_signal_name(-code)}"
    if code > SESSION_SIGNALLED:
        return f"a session was killed by {_signal_name(code - SESSION_SIGNALLED)}"
    return "a session failed" if code == SESSION_FAILED else f"exit code {code}"


def is_by_session(status: int) -> bool:
    """Whether a wait status says that it was a session that ended the server."""
    code = os.waitstatus_to_exitcode(status)
    return code == SESSION_FAILED or code > SESSION_SIGNALLED


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
