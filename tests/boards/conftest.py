"""Real trackers and boards on loopback, each a process of its own, ended after the test."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tvm_iovt.boards import heartbeat
from tvm_iovt.boards.address import LOOPBACK, Address
from tvm_iovt.boards.heartbeat import BoardStatus
from tvm_iovt.boards.session import BoardRequest
from tvm_iovt.boards.tracker_client import Tracker
from tvm_iovt.errors import DeviceError

START_S = 60.0
"""Deadlines guard against waiting for ever; they say nothing about speed."""


@dataclass
class Service:
    """A process that writes its log to a file."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, words: str, timeout_s: float = START_S) -> None:
        until(lambda: words in self.text or self.process.poll() is not None, timeout_s)
        assert words in self.text, self.text

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal to the process alone and wait for it; its exit code."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        try:
            return self.process.wait(START_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise


def until(condition: Callable[[], object], timeout_s: float = START_S) -> float:
    """Wait for something; seconds that took."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < timeout_s, "it did not come"
        time.sleep(0.05)
    return time.monotonic() - began_s


def free_port() -> int:
    """A port that nobody listens on, and that the system gives to no connection meanwhile."""
    for port in random.sample(range(20000, 32000), 100):
        with contextlib.suppress(OSError), socket.create_server((LOOPBACK, port)):
            return port
    raise AssertionError("no port is free")


def descendants(pid: int) -> list[int]:
    """Living processes that a process has started, and those that these have."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    parents[int(entry.name)] = int(parent)
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found[1:]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass
class Lab:
    """One tracker, and the boards that a test wants."""

    folder: Path
    services: list[Service] = field(default_factory=list)
    tracker: Address = field(default_factory=lambda: Address(host=LOOPBACK, port=1))

    def start(
        self, name: str, command: list[str], environment: dict[str, str] | None = None
    ) -> Service:
        log = self.folder / f"{name}-{len(self.services)}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        self.services.append(Service(process, log))
        return self.services[-1]

    def start_tracker(self, port: int = 0) -> Service:
        command = [sys.executable, "-m", "tvm_iovt", "tracker", "--json", "--port", str(port)]
        service = self.start("tracker", command)
        service.wait_for("}")
        line = next(line for line in service.text.splitlines() if line.startswith("{"))
        self.tracker = Address(host=LOOPBACK, port=json.loads(line)["port"])
        return service

    def start_board(self, key: str, *options: str) -> Service:
        service = self.start(key, self.board_command(key, *options))
        service.wait_for("serving on ")
        boards = sum(other.log.name.startswith(f"{key}-") for other in self.services)
        until(lambda: self.registered(key) >= boards)
        # A board announces its heartbeat first, and puts itself up for use a moment later.
        until(lambda: self.is_free(key))
        return service

    def start_emulated_board(self, key: str, arm_root: dict[str, str]) -> Service:
        """A board of 64-bit ARM under qemu-user."""
        qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
        assert qemu is not None
        command = [qemu, "-L", arm_root["root"], arm_root["python"], "-m", "tvm_iovt.boards"]
        command += ["--tracker", str(self.tracker), "--key", key, "--name", "emulated"]
        path = f"{Path(__file__).resolve().parents[2]}:{arm_root['site']}"
        service = self.start(key, command, {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"})
        service.wait_for("serving on", 120)
        until(lambda: self.registered(key) == 1 and self.is_free(key))
        return service

    def board_command(self, key: str, *options: str) -> list[str]:
        tracker = ["--tracker", str(self.tracker), "--key", key]
        return [sys.executable, "-m", "tvm_iovt.boards", *tracker, *options]

    def registered(self, key: str) -> int:
        """Boards of a key, whether or not they are busy."""
        with Tracker(self.tracker) as tracker:
            queue = tracker.summary().queue(key)
        return queue.servers if queue else 0

    def is_free(self, key: str) -> bool:
        with Tracker(self.tracker) as tracker:
            queue = tracker.summary().queue(key)
        return queue is not None and queue.free > 0

    def status(self, key: str) -> BoardStatus | None:
        """What the heartbeat of the board of a key says; None if it is not registered."""
        with Tracker(self.tracker) as tracker:
            found = [h for h in tracker.summary().heartbeats if h.key == key]
        try:
            return heartbeat.ask(found[0].address, timeout_s=START_S) if found else None
        except DeviceError:
            return None

    def living(self, key: str) -> BoardStatus:
        """What the heartbeat says, once it is registered: after its server, now and then."""
        found = None

        def is_told() -> bool:
            nonlocal found
            found = self.status(key)
            return found is not None

        until(is_told)
        assert found is not None
        return found

    def server_and_sessions(self, board: Service) -> list[int]:
        """Processes that a board has started."""
        return descendants(board.process.pid)

    def request(self, key: str, **changes: float) -> BoardRequest:
        limits = {"wait_s": START_S, "timeout_s": 120.0, **changes}
        return BoardRequest(tracker=self.tracker, key=key, **limits)

    def close(self) -> None:
        for service in reversed(self.services):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(service.process.pid, signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                service.end()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A laboratory whose tracker and boards the tests of a module share."""
    made = Lab(tmp_path_factory.mktemp("lab"))
    try:
        made.start_tracker()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def board(lab: Lab) -> Service:
    """A board of the key `shared`."""
    return lab.start_board("shared", "--name", "bench-top")


@pytest.fixture
def own_lab(tmp_path: Path) -> Iterator[Lab]:
    """A laboratory of one test, which may break it; it starts what it needs."""
    made = Lab(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    """A bundle of a small network for this machine."""
    import tvm_iovt

    out = tmp_path_factory.mktemp("bundle") / "small.iovt"
    tvm_iovt.compile(small_model, targets="host", output=out)
    return out


@pytest.fixture(scope="session")
def arm_network(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    """A bundle of the same network for 64-bit ARM."""
    import tvm_iovt

    if not shutil.which("aarch64-linux-gnu-g++"):
        pytest.importorskip("ziglang", reason="needs a linker for aarch64")
    out = tmp_path_factory.mktemp("arm") / "arm.iovt"
    tvm_iovt.compile(small_model, targets="arm", output=out)
    return out


@dataclass(frozen=True)
class Processes:
    """The functions above, for tests: they cannot import a conftest."""

    until = staticmethod(until)
    free_port = staticmethod(free_port)
    descendants = staticmethod(descendants)
    is_alive = staticmethod(is_alive)


@pytest.fixture(scope="session")
def processes() -> Processes:
    return Processes()
