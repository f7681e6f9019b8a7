"""One writer at a time in a folder of records.

The lock is the system's (`flock`): it ends with the process that holds it, however that ends, and
a file that was left behind locks nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from tvm_iovt.errors import IovtError, TuningError, UsageError
from tvm_iovt.json_codec import from_json, to_json
from tvm_iovt.tuning.record_writing import write_error

FILE = ".lock"

_PATIENCE_S = 0.5
_HELD = (errno.EWOULDBLOCK, errno.EACCES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a lock.

    Attributes:
        purpose: What it does, e.g. `tuning mobilenet_v2.onnx`.
        pid: Its process; 0 if that is not known.
        host: Name of its machine.
        started: When it took the lock; UTC, ISO 8601.
    """

    purpose: str
    pid: int
    host: str
    started: str

    def __str__(self) -> str:
        if not self.pid:
            return "a process that did not say who it is"
        ended = self.host == socket.gethostname() and not _exists(self.pid)
        note = "; it has ended, but a process that it started has not" if ended else ""
        return f"{self.purpose} (process {self.pid} on {self.host} since {self.started}{note})"


class FolderLock:
    """Holds the lock of a folder until it is closed, or the process ends.

    Args:
        folder: Must exist.
        purpose: For those who find it locked.

    Raises:
        TuningError: Another process holds it, or the disk is full.
        UsageError: The folder cannot be written to, or cannot be locked.
    """

    def __init__(self, folder: Path, purpose: str) -> None:
        try:
            # Not inherited by programs that this process starts: they may outlive it.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(folder / FILE, flags, 0o666)
        except OSError as error:
            raise write_error(folder / FILE, error) from error
        try:
            self._take(folder)
            self._sign(folder, purpose)
        except BaseException:
            os.close(self._descriptor)
            raise

    def _take(self, folder: Path) -> None:
        deadline_s = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno not in _HELD:
                    raise UsageError(
                        f"Cannot lock the records in {folder}",
                        seen=str(error),
                        do="keep records in a folder of a local disk: name one in TVM_IOVT_PATH",
                    ) from error
            # `holder` locks for a moment as well, to look.
            if time.monotonic() >= deadline_s:
                raise TuningError(
                    f"The records in {folder} are in use",
                    seen=str(_read_holder(self._descriptor)),
                    do="wait until it ends, stop it (what it has measured is kept), or use "
                    "another folder",
                )
            time.sleep(_PATIENCE_S / 10)

    def _sign(self, folder: Path, purpose: str) -> None:
        holder = Holder(
            purpose=purpose,
            pid=os.getpid(),
            host=socket.gethostname(),
            started=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        )
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(to_json(holder)).encode(), 0)
        except OSError as error:
            raise write_error(folder / FILE, error) from error

    def close(self) -> None:
        """Let others in."""
        os.close(self._descriptor)


def holder(folder: Path) -> Holder | None:
    """Who holds the lock of a folder; None if nobody does. Waits for nothing."""
    try:
        descriptor = os.open(folder / FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except OSError as error:
        return _read_holder(descriptor) if error.errno in _HELD else None
    finally:
        os.close(descriptor)


def _read_holder(descriptor: int) -> Holder:
    with contextlib.suppress(OSError, ValueError, IovtError):
        return from_json(Holder, json.loads(os.pread(descriptor, 4096, 0)))
    return Holder(purpose="", pid=0, host="", started="")


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
