"""The process of a board's RPC server: forked, heard, waited for, killed with all its sessions."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tvm_iovt.boards import confinement

START_S = 120.0
"""Longest time for the server to say that it serves."""

MAX_PAUSE_S = 30.0
"""Longest pause before a server that keeps dying is started again."""

STEADY_S = 10.0
"""A server that lived so long starts with short pauses again."""

_FIRST_PAUSE_S = 0.25
_LOOK_S = 0.5  # between two looks for what holds up the server
_LEFT_S = 2.0  # for a session to notice itself that its client has gone
_MUTE_S = 10.0  # for a client to say what it wants


class ServerProcess:
    """One process after another, each with the sessions that it has forked.

    Attributes:
        pid: Of the process; 0 while there is none.
        serving: Whether it has said that it serves.
        restarts: How often it was started again.
        last_exit: How it ended the last time; empty if it never did.
        start_at_s: When to start it, by `time.monotonic`.
        pause_s: What is left out before the next start.
        ready_fd: Where it reports; negative when it has.
    """

    def __init__(self) -> None:
        self.pid = 0
        self.serving = False
        self.restarts = 0
        self.last_exit = ""
        self.start_at_s = 0.0
        self.ready_fd = -1
        self.pause_s = _FIRST_PAUSE_S
        self._started_s = 0.0
        self._starts = 0
        self._looked_s = 0.0
        self._killed = False
        self._waits_for = ""
        self._waits_since_s = 0.0

    @property
    def has_spoken(self) -> bool:
        """Whether there is something to hear."""
        return self.ready_fd >= 0 and bool(select.select([self.ready_fd], [], [], 0)[0])

    @property
    def late(self) -> bool:
        """Whether it should have started by now."""
        waiting = bool(self.pid) and not self.serving
        return waiting and time.monotonic() - self._started_s > START_S

    def start(self, serve: Callable[[int], int], close: list[int]) -> None:
        """Fork it. `serve` runs in it, with the descriptor to report to."""
        self.ready_fd, theirs = os.pipe()
        self.restarts = self._starts
        self._starts += 1
        self._started_s = time.monotonic()
        self._killed = False
        self.pid = fork(lambda: serve(theirs), [*close, self.ready_fd])
        os.close(theirs)

    def hear(self) -> str:
        """Read what it reports; why it cannot serve, empty if it can or says nothing."""
        line = os.read(self.ready_fd, 65536)
        os.close(self.ready_fd)
        self.ready_fd = -1
        if not line:
            return ""
        said = json.loads(line)
        self.serving = "port" in said
        return str(said.get("error", ""))

    def reap(self) -> str:
        """How it has ended since the last call; empty if it has not."""
        if not self.pid:
            return ""
        ended, status = os.waitpid(self.pid, os.WNOHANG)
        if not ended:
            return ""
        confinement.kill_group(self.pid)  # its sessions
        steady = time.monotonic() - self._started_s > STEADY_S
        healthy = steady or self._killed or confinement.is_by_session(status)
        self.pause_s = _FIRST_PAUSE_S if healthy else min(2 * self.pause_s, MAX_PAUSE_S)
        self.start_at_s = time.monotonic() + self.pause_s
        self.last_exit = confinement.describe_exit(status)
        self._forget()
        return self.last_exit

    def sessions(self) -> int | None:
        """Clients that it serves now; None if the system does not tell."""
        if not self.pid:
            return 0
        count = 0
        try:
            for thread in Path(f"/proc/{self.pid}/task").iterdir():
                count += len((thread / "children").read_text().split())
        except OSError:
            return None
        return count

    def stuck(self, port: int) -> str:
        """What it waits for in vain, for a while already; empty if nothing."""
        now_s = time.monotonic()
        if not self.pid or now_s < self._looked_s + _LOOK_S:
            return ""
        self._looked_s = now_s
        states, sessions = confinement.accepted_connections(port), self.sessions()
        reason, patience_s = "", 0.0
        if sessions and confinement.PEER_CLOSED in states:
            # It would wait for the session's end: for ever, if a kernel hangs.
            reason, patience_s = "a session whose client has gone", _LEFT_S
        elif sessions == 0 and confinement.OPEN in states:
            reason, patience_s = "a client that does not say what it wants", _MUTE_S
        if reason != self._waits_for:
            self._waits_for, self._waits_since_s = reason, now_s
        return reason if reason and now_s - self._waits_since_s > patience_s else ""

    def kill(self) -> None:
        """Kill it and its sessions; `reap` tells when that is done."""
        if self.pid:
            self._killed = True
            confinement.kill_group(self.pid)

    def stop(self) -> None:
        """Kill it and wait for its end."""
        if self.pid:
            self.kill()
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            self._forget()

    def _forget(self) -> None:
        self.pid, self.serving, self._waits_for = 0, False, ""
        if self.ready_fd >= 0:
            os.close(self.ready_fd)
            self.ready_fd = -1


def fork(body: Callable[[], int], close: list[int]) -> int:
    """Run a function in a process of a group of its own, which dies with this one.

    Args:
        body: What to run; its result is the exit code.
        close: File descriptors that are not for it.

    Returns:
        Its process id, which is that of its group.
    """
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        confinement.die_with_parent(parent)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for descriptor in close:
            os.close(descriptor)
        code = body()
    except BaseException as error:  # nothing of the parent's may run in the child
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
