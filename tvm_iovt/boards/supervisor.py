"""Keeps TVM's RPC server alive on a board, tells that the board is, and leaves nothing behind.

TVM's server ends when the process of a client dies: a candidate kernel that segfaults takes the
board off the network. The supervisor starts it again, with a growing pause while it keeps dying,
and answers heartbeats all the while. It is one thread that waits, and only forks: Python is not
executed anew, as there is no way to do that under an emulator without kernel support.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm_iovt import host_cpu
from tvm_iovt._version import __version__
from tvm_iovt.boards import confinement, rpc_server
from tvm_iovt.boards.address import Address
from tvm_iovt.boards.condition import read_condition, total_memory_bytes
from tvm_iovt.boards.heartbeat import BoardStatus, HeartbeatServer
from tvm_iovt.boards.tracker_client import Tracker
from tvm_iovt.errors import DeviceError, ToolchainError
from tvm_iovt.runtime.machine import this_machine

EXAMINE_S = 120.0
"""Longest time for loading TVM's runtime once; an SD card under an emulator is slow."""

START_S = 120.0
"""Longest time for the server to say that it serves."""

MAX_PAUSE_S = 30.0
"""Longest pause before a server that keeps dying is started again."""

STEADY_S = 10.0
"""A server that lived so long starts with short pauses again."""

_FIRST_PAUSE_S = 0.25
_TICK_S = 0.1
_PING_S = 5.0
_LOOK_S = 0.5  # between two looks for what holds up the server
_LEFT_S = 2.0  # for a session to notice itself that its client has gone
_MUTE_S = 10.0  # for a client to say what it wants
_RETRY_S = 1.0
_TRACKER_ANSWER_S = 1.5
_GIVE_UP_SERVER_S = 20.0  # TVM's server would end itself after a minute without a tracker


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardOptions:
    """How a board serves.

    Attributes:
        tracker: Where to register.
        key: The kind of board.
        name: The board's own name, for reports.
        bind: Address to listen on.
        port: Of the RPC server; 0 is any that is free.
        heartbeat_port: 0 is the port after `port`, or any if that is free to choose, too.
        memory_limit_bytes: For each session; None is most of what is available then.
    """

    tracker: Address
    key: str
    name: str = ""
    bind: str = "127.0.0.1"
    port: int = 0
    heartbeat_port: int = 0
    memory_limit_bytes: int | None = None


class Supervisor:
    """One board. `run` serves until it is interrupted; `close` ends everything.

    Args:
        options: How to serve.
        say: Takes lines for the log.

    Raises:
        DeviceError: A port is in use, or cannot be listened on.
        ToolchainError: TVM's runtime is missing or cannot be loaded.
    """

    def __init__(self, options: BoardOptions, say: Callable[[str], None]) -> None:
        self._options = options
        self._say = say
        self._name = options.name or socket.gethostname()
        self._began_s = time.monotonic()
        self._server = _Server()
        self._link: Tracker | None = None
        self._link_retry_s = 0.0
        self._link_lost_s = self._began_s
        self._pinged_s = 0.0
        self._told_no_tracker = False
        self._port = options.port or _free_port(options.bind)
        self._heartbeat = _listen(options, self._port)
        self._found = _examined()

    @property
    def status(self) -> BoardStatus:
        """What the heartbeat says now."""
        machine, server = this_machine(), self._server
        return BoardStatus(
            key=self._options.key,
            name=self._name,
            arch=machine.arch,
            cpu=machine.cpu,
            system=machine.system,
            cores=host_cpu.usable_cores(),
            features=tuple(sorted(machine.features)),
            devices=tuple(self._found["devices"]),
            memory_bytes=total_memory_bytes(),
            tvm_version=self._found["tvm"],
            tvm_ffi_version=self._found["tvm_ffi"],
            tool_version=__version__,
            rpc_port=self._port,
            state=self._state(),
            server_pid=server.pid,
            sessions=server.sessions(),
            restarts=server.restarts,
            last_exit=server.last_exit,
            uptime_s=time.monotonic() - self._began_s,
            condition=read_condition(),
        )

    @property
    def heartbeat_port(self) -> int:
        """Where the heartbeat is served."""
        return self._heartbeat.port

    def run(self) -> None:
        """Serve for ever.

        Raises:
            DeviceError: The server could not be started the first time.
        """
        while True:
            self.step()

    def step(self) -> None:
        """Do what is due, and wait a moment for something to happen."""
        self._keep_link()
        self._keep_server()
        waiting = [self._heartbeat.fileno()]
        if self._link is not None:
            waiting.append(self._link.fileno())
        if self._server.ready_fd >= 0:
            waiting.append(self._server.ready_fd)
        readable, _, _ = select.select(waiting, [], [], _TICK_S)
        if self._heartbeat.fileno() in readable:
            self._heartbeat.answer(self.status)
        if self._link is not None and self._link.fileno() in readable:
            self._lose_link()  # a tracker speaks only when spoken to: this is its end

    def close(self) -> None:
        """End the server, its sessions and the heartbeat."""
        self._server.stop()
        self._heartbeat.close()
        if self._link is not None:
            self._link.close()

    def _state(self) -> str:
        if self._server.serving:
            return "serving"
        if self._link is None and not self._server.pid:
            return "no tracker"
        return "restarting" if self._server.restarts else "starting"

    def _keep_link(self) -> None:
        """Connect to the tracker, and see from time to time whether it is there still."""
        now_s = time.monotonic()
        try:
            if self._link is None and now_s >= self._link_retry_s:
                self._connect()
            elif self._link is not None and now_s >= self._pinged_s + _PING_S:
                self._pinged_s = now_s
                self._link.ping()
        except DeviceError as error:
            if not self._told_no_tracker:
                self._say(f"{error.what}: {error.seen}; trying again until it can")
                self._told_no_tracker = True
            self._lose_link()

    def _connect(self) -> None:
        options = self._options
        link = Tracker(options.tracker, timeout_s=_TRACKER_ANSWER_S)
        try:
            # The tracker sees where we come from: through a tunnel, that is where to go back to.
            heartbeat = Address(host="", port=self._heartbeat.port)
            link.announce(options.key, self._name, heartbeat, self._port)
        except BaseException:
            link.close()
            raise
        self._link, self._pinged_s, self._told_no_tracker = link, time.monotonic(), False
        self._say(f"registered at the tracker {options.tracker} with the key {options.key}")

    def _lose_link(self) -> None:
        if self._link is not None:
            self._say(f"lost the tracker {self._options.tracker}")
            self._link.close()
            self._link, self._link_lost_s = None, time.monotonic()
            self._told_no_tracker = True
        self._link_retry_s = time.monotonic() + _RETRY_S

    def _keep_server(self) -> None:
        server, now_s = self._server, time.monotonic()
        if server.has_spoken:  # before it is reaped: it may have said why it ends
            self._hear_server()
        ended = server.reap()
        if ended:
            pause = server.pause_s
            self._say(f"the server ended ({ended}); starting it again in {pause:.2g} s")
        if server.pid and self._link is None and not server.sessions():
            # It would try in a busy loop, or every 5 s and then give up.
            if now_s - self._link_lost_s > _GIVE_UP_SERVER_S:
                server.stop()
        elif not server.pid and self._link is not None and now_s >= server.start_at_s:
            server.start(self._serve, self._inherited())
        elif reason := server.stuck(self._port):
            self._say(f"the server is held up by {reason}; ending it")
            server.kill()
        elif server.late:
            self._say(f"the server has not started in {START_S:g} s; ending it")
            server.kill()

    def _serve(self, ready: int) -> int:
        options = self._options
        bind = Address(host=options.bind, port=self._port)
        limit = options.memory_limit_bytes
        return rpc_server.serve(bind, options.tracker, options.key, limit, ready)

    def _inherited(self) -> list[int]:
        """Descriptors that are not for the server."""
        link = [] if self._link is None else [self._link.fileno()]
        return [self._heartbeat.fileno(), *link]

    def _hear_server(self) -> None:
        failure = self._server.hear()
        if not failure:
            if self._server.serving:
                self._say(f"serving on {self._options.bind} port {self._port}")
            return
        if not self._server.restarts:
            raise DeviceError(
                "The RPC server cannot be started",
                seen=f"{self._options.bind} port {self._port}: {failure}",
                do="choose a free port with --port, and an address of this machine with --bind",
            )
        self._say(f"the server cannot start: {failure}")


class _Server:
    """The server's process: started, heard, waited for, killed with all that belongs to it."""

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
        self.pause_s = _FIRST_PAUSE_S if steady else min(2 * self.pause_s, MAX_PAUSE_S)
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


def _examined() -> dict[str, Any]:
    """`rpc_server.examine` in a process of its own."""
    ours, theirs = os.pipe()

    def body() -> int:
        try:
            found = rpc_server.examine()
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"[:1000]}
        os.write(theirs, json.dumps(found).encode())
        return 0

    pid = fork(body, [ours])
    os.close(theirs)
    try:
        readable, _, _ = select.select([ours], [], [], EXAMINE_S)
        answer = os.read(ours, 65536) if readable else b""
    finally:
        os.close(ours)
        confinement.kill_group(pid)
        _, status = os.waitpid(pid, 0)
    found: dict[str, Any] = json.loads(answer) if answer else {}
    if "error" in found or not answer:
        seen = found.get("error") or confinement.describe_exit(status)
        raise ToolchainError(
            "TVM's runtime cannot be used on this board",
            seen=seen if readable else f"it was not loaded within {EXAMINE_S:g} s",
            do="pip install apache-tvm apache-tvm-ffi in the versions that `tvm-iovt doctor` "
            "names where you compile",
        )
    return found


def _listen(options: BoardOptions, rpc_port: int) -> HeartbeatServer:
    # Next to a port that the user chose; a tunnel needs to know both.
    port = options.heartbeat_port or (rpc_port + 1 if options.port else 0)
    try:
        return HeartbeatServer(Address(host=options.bind, port=port))
    except OSError as error:
        raise DeviceError(
            "The heartbeat cannot be served",
            seen=f"{options.bind} port {port}: {error.strerror or error}",
            do="choose free ports with --port and --heartbeat-port, and an address of this "
            "machine with --bind",
        ) from error


def _free_port(bind: str) -> int:
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as found:
            found.bind((bind, 0))
            port: int = found.getsockname()[1]
            return port
    except OSError as error:
        raise DeviceError(
            f"Nothing can listen on {bind}",
            seen=error.strerror or str(error),
            do="give an address of this machine to --bind",
        ) from error
