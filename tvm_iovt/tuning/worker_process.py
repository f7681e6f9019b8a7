"""A supervised child process that serves requests: it may crash or hang, its parent does not.

>>> worker = WorkerProcess("package.module:Class", ("argument",))
>>> worker.start()
>>> worker.call("method", 1, 2, timeout_s=10)
>>> worker.close()

The arguments and results travel as pickles. The child has no terminal and no torch, and what it or
a library prints is kept for error messages. It and all that it has started end with `close`, after
a deadline, and with this process, however that ends (see `worker_guard`).
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from tvm_iovt.errors import TuningError
from tvm_iovt.tuning.worker_guard import FAILURE, LENGTH_BYTES, SIGNALLED

START_TIMEOUT_S = 120.0
"""For importing the service and making it: seconds on a loaded machine, usually one."""

_END_TIMEOUT_S = 5.0
_LAST_BYTES = 4096
_MOST_BYTES = 1 << 36

# The search path is that of this process: with -m the current folder would come first.
_BOOT = (
    "import sys; sys.path[:] = sys.argv[1].split('\\n'); "
    "from tvm_iovt.tuning.worker_guard import main; "
    "main(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))"
)


class CallFailed(TuningError):  # noqa: N818  # says what happened, as `WorkerLost` does
    """A method raised an exception; the worker goes on."""


class WorkerLost(TuningError):  # noqa: N818
    """The worker ended, or was ended at a deadline.

    Attributes:
        signal: Number of the signal that ended it, 0 if none did or if it was ours.
        last_words: The end of what it printed.
    """

    def __init__(self, what: str, *, number: int = 0, last_words: str = "") -> None:
        super().__init__(what, seen=last_words)
        self.signal = number
        self.last_words = last_words


class WorkerProcess:
    """One child process. A worker is used by one thread at a time; any may `kill` it.

    Args:
        service: `package.module:Class`; importable here means importable there.
        arguments: Of the class; they can be pickled.
        environment: Variables beyond those of this process.
        growth_bytes: Memory that the child may reserve once it has started; None for any.

    Raises:
        WorkerLost: No process can be started.
    """

    def __init__(
        self,
        service: str,
        arguments: Sequence[object] = (),
        *,
        environment: Mapping[str, str] | None = None,
        growth_bytes: int | None = None,
    ) -> None:
        self._first = (tuple(arguments), growth_bytes)
        self._pid = 0
        self._printed = bytearray()
        self._ended_by_us = False
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        self._log_fd, theirs_log = os.pipe()
        self._requests_fd, self._replies_fd = ours_in, ours_out
        try:
            self._process = subprocess.Popen(
                _command(service, theirs_in, theirs_out),
                stdin=subprocess.DEVNULL,
                stdout=theirs_log,
                stderr=theirs_log,
                pass_fds=(theirs_in, theirs_out),
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        except OSError as error:
            _close(ours_in, ours_out, self._log_fd)
            raise WorkerLost(f"cannot be started: {error}") from error
        finally:
            _close(theirs_in, theirs_out, theirs_log)
        self._open = True
        for descriptor in (self._requests_fd, self._replies_fd, self._log_fd):
            os.set_blocking(descriptor, False)

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until the service is there. If it does not come, the worker is closed.

        Raises:
            CallFailed: The class cannot be imported or made.
            WorkerLost: The process died on the way, or took longer than `timeout_s`.
        """
        try:
            self._pid = int(self._exchange(self._first, timeout_s))
        except BaseException:
            self.close()
            raise

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # it may be half made
            self.close()

    @property
    def pid(self) -> int:
        """Of the process that serves the requests; 0 before `start`."""
        return self._pid

    @property
    def alive(self) -> bool:
        """Whether it runs still."""
        return self._open and self._process.poll() is None

    @property
    def last_words(self) -> str:
        """The end of what it has printed."""
        self._read_log()
        return self._printed.decode("utf-8", "replace").strip()

    def call(self, method: str, *arguments: object, timeout_s: float) -> Any:
        """What a method of the service returns.

        Raises:
            CallFailed: It raised.
            WorkerLost: The worker died, was killed meanwhile, or did not answer within
                `timeout_s`; it is gone then.
        """
        return self._exchange((method, arguments), timeout_s)

    def kill(self) -> None:
        """End it and everything it has started; a call under way raises `WorkerLost`."""
        self._ended_by_us = True
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()  # the guard ends the others first
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        """`kill`, and let go of what belongs to it here; it may be called twice."""
        if self._open:
            self.kill()
            self._read_log()
            self._open = False
            _close(self._requests_fd, self._replies_fd, self._log_fd)

    def _exchange(self, message: object, timeout_s: float) -> Any:
        if not self._open:
            raise WorkerLost("has been closed")
        deadline_s = time.monotonic() + timeout_s
        try:
            self._send(pickle.dumps(message, protocol=5), deadline_s)
            length = int.from_bytes(self._read(LENGTH_BYTES, deadline_s), "little")
            if length > _MOST_BYTES:
                self._refuse(f"a reply of {length} bytes")
            kind, content = pickle.loads(self._read(length, deadline_s))
        except TimeoutError:
            self.kill()
            what = f"did not answer within {timeout_s:g} s"
            raise WorkerLost(what, last_words=self.last_words) from None
        except (pickle.UnpicklingError, EOFError, ValueError, TypeError) as error:
            self._refuse(str(error))
        except (KeyboardInterrupt, SystemExit):
            self.kill()  # its answer would be taken for that to the next request
            raise
        if kind == FAILURE:
            raise CallFailed(str(content))
        return content

    def _refuse(self, seen: str) -> NoReturn:
        self.kill()
        raise WorkerLost(f"sent nonsense: {seen}", last_words=self.last_words)

    def _send(self, message: bytes, deadline_s: float) -> None:
        rest = memoryview(message)
        while rest:
            self._wait(self._requests_fd, select.POLLOUT, deadline_s)
            try:
                rest = rest[os.write(self._requests_fd, rest) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._lost() from None

    def _read(self, count: int, deadline_s: float) -> bytes:
        found = bytearray()
        while len(found) < count:
            self._wait(self._replies_fd, select.POLLIN, deadline_s)
            try:
                part = os.read(self._replies_fd, min(count - len(found), 1 << 20))
            except BlockingIOError:
                continue
            if not part:
                raise self._lost()
            found += part
        return bytes(found)

    def _wait(self, descriptor: int, event: int, deadline_s: float) -> None:
        """Until a pipe is ready; what is printed meanwhile is kept.

        Raises:
            TimeoutError: The deadline has passed.
        """
        poll = select.poll()
        poll.register(descriptor, event)
        poll.register(self._log_fd, select.POLLIN)
        while True:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            ready = dict(poll.poll(math.ceil(left_s * 1e3)))
            if self._log_fd in ready and not self._read_log():
                poll.unregister(self._log_fd)
            if descriptor in ready:
                return

    def _read_log(self) -> bool:
        """Read what was printed; whether there can be more."""
        if not self._open:
            return False
        while True:
            try:
                part = os.read(self._log_fd, 1 << 16)
            except BlockingIOError:
                return True
            if not part:
                return False
            self._printed += part
            del self._printed[:-_LAST_BYTES]

    def _lost(self) -> WorkerLost:
        """What ended it: the guard tells, or its end does."""
        ours = self._ended_by_us
        try:
            code = self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return WorkerLost("does not answer any more", last_words=self.last_words)
        words = self.last_words
        if ours:
            return WorkerLost("was ended", last_words=words)
        number = code - SIGNALLED if code > SIGNALLED else max(-code, 0)
        if number:
            return WorkerLost(f"died of {_signal_name(number)}", number=number, last_words=words)
        return WorkerLost(f"ended with exit status {code}", last_words=words)


def _command(service: str, requests_fd: int, replies_fd: int) -> list[str]:
    boot = [sys.executable, "-c", _BOOT, "\n".join(sys.path)]
    return [*boot, service, str(requests_fd), str(replies_fd)]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
