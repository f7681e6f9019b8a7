"""Keeps TVM's RPC server alive on a board, tells that the board is, and leaves nothing behind.

TVM's server ends when the process of a client dies: a candidate kernel that segfaults takes the
board off the network. The supervisor starts it again, with a growing pause while it keeps dying,
and answers heartbeats all the while. It is one thread that waits, and only forks: Python is not
executed anew, as there is no way to do that under an emulator without kernel support.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm_iovt import host_cpu
from tvm_iovt._version import __version__
from tvm_iovt.boards import confinement, rpc_server
from tvm_iovt.boards.address import Address
from tvm_iovt.boards.condition import read_condition, total_memory_bytes
from tvm_iovt.boards.heartbeat import BoardStatus, HeartbeatServer
from tvm_iovt.boards.server_process import START_S, ServerProcess, fork
from tvm_iovt.boards.tracker_client import Tracker
from tvm_iovt.errors import DeviceError, ToolchainError
from tvm_iovt.runtime.machine import this_machine

EXAMINE_S = 120.0
"""Longest time for loading TVM's runtime once; an SD card under an emulator is slow."""

_TICK_S = 0.1
_PING_S = 5.0
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
        self._server = ServerProcess()
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
        if server.pid and self._link is None and server.sessions() == 0:
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
