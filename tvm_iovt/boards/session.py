"""A session with a board of a tracker: made step by step, each failure named, nothing for ever.

The session lives in a process of its own, which is killed at deadlines and when the board's
heartbeat stops; so a board that loses power in the middle of a call costs seconds.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tvm_iovt.boards import heartbeat, rpc_session
from tvm_iovt.boards.address import Address
from tvm_iovt.boards.heartbeat import BoardStatus
from tvm_iovt.boards.tracker_client import Assignment
from tvm_iovt.boards.tracker_summary import Heartbeat
from tvm_iovt.errors import DeviceError
from tvm_iovt.tuning.worker_process import CallFailed, WorkerLost, WorkerProcess

NETWORKS = f"{rpc_session.__name__}:{rpc_session.NetworkSession.__name__}"
"""The service of a session that runs networks, see `rpc_session`."""

Progress = Callable[[str], None]

_POLL_S = 0.5
_WATCH_S = 2.0
_PROBE_BYTES = 1 << 20
_START_S = 60.0  # of the session's process, for importing TVM on a loaded machine


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardRequest:
    """Which board to get, and how long things may take.

    Attributes:
        tracker: Its tracker.
        key: The kind of board.
        wait_s: For a board of that key to be there and free.
        timeout_s: For each step with it.
        limit_s: For all of the session: the board ends it then, even if we are gone.
        service: The class that serves the session, see `rpc_session`.
    """

    tracker: Address
    key: str
    wait_s: float = 10.0
    timeout_s: float = 60.0
    limit_s: float = 3600.0
    service: str = NETWORKS


class StepError(DeviceError):
    """A step with a board failed.

    Attributes:
        timed_out: Whether it took too long.
        answered: Whether the board answered with an error, so that the session may be usable yet.
        server_end: How the board's server has ended meanwhile; empty if it has not, or if the
            board does not tell.
    """

    def __init__(
        self, what: str, *, seen: str, do: str, timed_out: bool, answered: bool, server_end: str
    ) -> None:
        super().__init__(what, seen=seen, do=do)
        self.timed_out = timed_out
        self.answered = answered
        self.server_end = server_end


class BoardSession:
    """A board that is ours until `close`. Made by `connect`; use it from one thread at a time.

    Attributes:
        address: Of its RPC server.
        status: What its heartbeat said; None if it has none, as a plain TVM server has.
    """

    def __init__(
        self,
        request: BoardRequest,
        assignment: Assignment,
        found: Heartbeat | None,
        worker: WorkerProcess | None = None,
    ) -> None:
        self.address = assignment.address
        self._request = request
        self._heartbeat = found
        self._watch: _Watch | None = None
        self._worker = worker or _started(request.service)
        try:
            self.status = self.ask()
            where = (*assignment.address.pair, assignment.match_key, request.limit_s)
            self.call("connecting", "open", *where)
            if self.status and found:
                self._watch = _Watch(found.address, self._worker)
        except BaseException:
            self._worker.close()
            raise

    def __enter__(self) -> BoardSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """For messages: the board's name if it has told one, else its address."""
        return f"{self.status.name} ({self.address})" if self.status else str(self.address)

    @property
    def label(self) -> str:
        """For records: the board's name if it has told one, else its address."""
        return self.status.name if self.status else str(self.address)

    def kill(self) -> None:
        """End the session from another thread; a call under way fails. `close` is still due."""
        self._worker.kill()

    def close(self) -> None:
        """End the session; the board is free then."""
        if self._watch is not None:
            self._watch.stop()
        self._worker.close()

    def call(self, step: str, method: str, *arguments: object, timeout_s: float = 0.0) -> Any:
        """What a method of the session's service returns.

        Args:
            step: What this is, for messages: `uploading model.iovt`.
            method: Its name.
            *arguments: They can be pickled.
            timeout_s: Of this call; by default that of the request.

        Raises:
            StepError: It failed, the board died, or time ran out; unless the board answered, the
                session is of no more use.
        """
        timeout_s = timeout_s or self._request.timeout_s
        try:
            return self._worker.call(method, *arguments, timeout_s=timeout_s)
        except (CallFailed, WorkerLost) as error:
            raise self._failed(step, error, timeout_s) from error

    def open_channel(self) -> BoardSession | None:
        """A further session in the same process of the board, for another thread here.

        It ends with this one. The two compute at the same time, if they are told to.

        Returns:
            The session, to be closed before this one; None if the board serves only one.

        Raises:
            DeviceError: The board failed, or the further connection did.
        """
        word = secrets.token_hex(16)
        assignment = Assignment(address=self.address, match_key=word)
        # First, as a board waits for a connection no longer than it has to.
        worker = _started(self._request.service)
        try:
            opened = self.call("opening a channel", "open_channel", word)
        except BaseException:
            worker.close()
            raise
        if not opened:
            worker.close()
            return None
        return BoardSession(self._request, assignment, self._heartbeat, worker)

    def ask(self) -> BoardStatus | None:
        """What the board's heartbeat says now; None if it has none, or does not answer."""
        if self._heartbeat is None:
            return None
        try:
            return heartbeat.ask(self._heartbeat.address)
        except DeviceError:
            return None

    def _failed(self, step: str, error: CallFailed | WorkerLost, timeout_s: float) -> StepError:
        seen = f"{error.what}: {error.seen}" if error.seen else error.what
        timed_out, server_end = False, ""
        if self._watch is not None and self._watch.lost:
            seen = "its heartbeat has stopped"
            do = "look whether the board has power and network"
        elif "session has expired" in seen:
            seen = f"the session's limit of {self._request.limit_s:g} s has passed"
            do = "ask for less in one session, or for more time"
        elif isinstance(error, WorkerLost):
            timed_out = "did not answer" in error.what
            seen = f"no answer within {timeout_s:g} s" if timed_out else f"its process here {seen}"
            do = "give it more time with --timeout, or look whether the board hangs"
        else:
            server_end = self._server_end()
            seen += f"; {server_end}" if server_end else ""
            do = "look at the log of `tvm-iovt board`, which starts its server again; try again"
        return StepError(
            f"Board {self.name}: {step} failed",
            seen=seen,
            do=do,
            timed_out=timed_out,
            answered=isinstance(error, CallFailed) and not server_end,
            server_end=server_end,
        )

    def _server_end(self) -> str:
        """What became of the board's server meanwhile, where the board tells."""
        before = self.status
        if before is None:
            return ""
        for _ in range(4):  # its supervisor needs a moment to see it
            now = self.ask()
            if now is None:
                return "its heartbeat has stopped"
            if now.server_pid != before.server_pid and now.last_exit:
                return f"its RPC server ended: {now.last_exit}"
            time.sleep(_POLL_S / 2)
        return ""


def _started(service: str) -> WorkerProcess:
    try:
        worker = WorkerProcess(service, environment=rpc_session.ENVIRONMENT)
        worker.start(timeout_s=_START_S)
    except (CallFailed, WorkerLost) as error:
        raise DeviceError(
            "The process of a session with a board cannot be started here",
            seen=f"{error.what}: {error.seen}" if error.seen else error.what,
            do="look at this machine's load and memory",
        ) from error
    return worker


class _Watch:
    """Asks for a board's heartbeat now and then, and ends its session when there is none.

    Attributes:
        lost: Whether that happened.
    """

    def __init__(self, address: Address, worker: WorkerProcess) -> None:
        self.lost = False
        self._address = address
        self._worker = worker
        self._stop = threading.Event()
        threading.Thread(target=self._run, daemon=True, name=f"heartbeat of {address}").start()

    def stop(self) -> None:
        """Leave the session alone."""
        self._stop.set()

    def _run(self) -> None:
        missed = 0
        while not self._stop.wait(_WATCH_S / (1 + missed)):
            try:
                heartbeat.ask(self._address)
                missed = 0
            except DeviceError:
                missed += 1
            if missed == 2 and not self._stop.is_set():
                self.lost = True
                self._worker.kill()
                return
