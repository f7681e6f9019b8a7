"""The inside of a worker process: a guard, and under it the one that serves requests.

The guard is a small process that waits. When the worker ends, however it ends, or the process that
asked for it is gone, the guard ends whatever the worker has started, compilers and linkers in
sessions of their own included, and then itself. So nothing outlives a crash or a `kill -9`.

`worker_process` starts this module. It and what it imports must stay small: it is in memory twice.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pickle
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from tvm_iovt.errors import IovtError

ANSWER, FAILURE = "answer", "failure"
"""What a reply can be; its second part is the result, or a line about what went wrong."""

LENGTH_BYTES = 8
"""Length of what precedes a reply: the number of its bytes, little end first."""

SIGNALLED = 128
"""The exit status of the guard is that of the worker, or this plus the number of its signal."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_MESSAGE_LENGTH = 500


def main(service: str, requests_fd: int, replies_fd: int) -> None:
    """Serve requests until there is nobody left to make them; does not return.

    Args:
        service: `package.module:Class`; its public methods are what can be requested.
        requests_fd: Pipe of pickles: first a tuple, the arguments of the class and the bytes
            by which the process may grow afterwards (None for any), then tuples of the name of a
            method and its arguments.
        replies_fd: Pipe of length-prefixed pickles, one reply to each request.
    """
    for descriptor in (requests_fd, replies_fd):
        os.set_inheritable(descriptor, False)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    woken_fd, wake_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_fd)
    signal.signal(signal.SIGCHLD, _nothing)
    signal.signal(signal.SIGTERM, _nothing)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    guard = os.getpid()
    worker = os.fork()
    if worker:
        os.close(replies_fd)
        os._exit(_guard(worker, requests_fd, woken_fd))
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    for descriptor in (woken_fd, wake_fd):
        os.close(descriptor)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == guard:
        with open(requests_fd, "rb") as requests, open(replies_fd, "wb") as replies:
            _serve(service, requests, replies)
    os._exit(0)


def _guard(worker: int, requests_fd: int, woken_fd: int) -> int:
    """Wait for the end of the worker or of its parent; the exit status."""
    poll = select.poll()
    poll.register(requests_fd, 0)  # says only when the other end is closed
    poll.register(woken_fd, select.POLLIN)
    status: int | None = None
    gone = False
    while status is None and not gone:
        for descriptor, _ in poll.poll():
            if descriptor == requests_fd:
                gone = True
            else:
                gone = signal.SIGTERM in os.read(woken_fd, 4096) or gone
        status = _reaped(worker)
    _end_descendants()
    if status is None:
        return 0
    code = os.waitstatus_to_exitcode(status)
    return SIGNALLED - code if code < 0 else code


def _reaped(worker: int) -> int | None:
    """Collect ended processes; the status of the worker if it is among them."""
    status = None
    while True:
        try:
            ended, code = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if not ended:
            return status
        if ended == worker:
            status = code


def _end_descendants() -> None:
    """Kill the children until there are none: orphans of a killed one become children."""
    while True:
        for child in _children():
            os.kill(child, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            # After the command, which is in brackets and may hold any character: state, parent.
            parent = (folder / "stat").read_bytes().rpartition(b")")[2].split()[1]
        except (OSError, IndexError):  # it has just ended
            continue
        if int(parent) == os.getpid():
            found.append(int(folder.name))
    return found


def _serve(service: str, requests: BinaryIO, replies: BinaryIO) -> None:
    # Importing TVM imports torch where it is installed, which takes seconds.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    arguments, growth_bytes = pickle.load(requests)
    failure, served = _attempt(_started, service, arguments, growth_bytes)
    _reply(replies, failure, os.getpid() if served is not None else failure)
    while served is not None:
        try:
            name, given = pickle.load(requests)
        except EOFError:
            return
        _reply(replies, *_attempt(_invoke, served, name, given))


def _started(service: str, arguments: tuple[Any, ...], growth_bytes: int | None) -> Any:
    module, _, name = service.partition(":")
    served = getattr(importlib.import_module(module), name)(*arguments)
    if growth_bytes is not None:
        from tvm_iovt.tuning.resource_limits import limit_growth

        limit_growth(growth_bytes)
    return served


def _invoke(served: Any, name: str, given: tuple[Any, ...]) -> Any:
    return getattr(served, name)(*given)


def _attempt(call: Callable[..., Any], *arguments: Any) -> tuple[str, Any]:
    """What went wrong (empty if nothing), and the result."""
    try:
        return "", call(*arguments)
    except Exception as error:  # TVM raises plain and unrelated classes
        return one_line(error), None


def one_line(error: BaseException) -> str:
    """An exception as one line: what it is and the line that says most."""
    if isinstance(error, IovtError):
        return ": ".join(filter(None, (error.what, error.seen)))[:_MESSAGE_LENGTH]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # TVM's messages end with the reason; what precedes it is the way there.
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:_MESSAGE_LENGTH]


def _reply(replies: BinaryIO, failure: str, result: Any) -> None:
    message = pickle.dumps((FAILURE, failure) if failure else (ANSWER, result), protocol=5)
    replies.write(len(message).to_bytes(LENGTH_BYTES, "little"))
    replies.write(message)
    replies.flush()


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _nothing(*_: object) -> None:
    """A handler: a signal that is ignored does not wake."""
