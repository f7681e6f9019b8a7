"""Writing records: a torn line is the last of its file, a file is the old one or the new one."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

from tvm_iovt.atomic_write import write_atomically
from tvm_iovt.errors import TuningError, UsageError

_SYNC_EVERY_S = 1.0
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class LineAppender:
    """Appends to a file; its lines are whole, or the last one is torn and stays alone.

    Raises:
        OSError: The file cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o666)
        size = os.fstat(self._descriptor).st_size
        self._whole = size == 0 or os.pread(self._descriptor, 1, size - 1) == b"\n"
        self._synced_s = time.monotonic()
        self._dirty = False

    def append(self, line: bytes) -> None:
        """Write a line, with its end; the file is flushed to the disk about once a second.

        Raises:
            OSError: It could not be written, at least not all of it.
        """
        # Behind a torn line ours begins with a line end, so that they are not glued together.
        rest = memoryview(line if self._whole else b"\n" + line)
        self._whole = False  # until all of it is there: a signal may end this call anywhere
        self._dirty = True
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        self._whole = True
        if time.monotonic() - self._synced_s >= _SYNC_EVERY_S:
            self.sync()

    def sync(self) -> None:
        """Flush to the disk what was written.

        Raises:
            OSError: The disk has refused it.
        """
        if self._dirty:
            os.fsync(self._descriptor)
            self._dirty = False
        self._synced_s = time.monotonic()

    def close(self) -> None:
        """Close the file; does not flush."""
        os.close(self._descriptor)


def write_error(path: Path, error: OSError, *, kept: str = "") -> TuningError | UsageError:
    """What to tell of a file or folder that cannot be written to.

    Args:
        path: The file or folder.
        error: What the system said.
        kept: What is safe nevertheless, for a disk that is full.
    """
    said = error.strerror or str(error)
    if error.errno in _FULL:
        return TuningError(
            f"The disk is full: no further record fits into {path}",
            seen=f"{said}; {kept}" if kept else said,
            do="free space and run the same command again: it goes on from there",
        )
    return UsageError(
        f"Cannot write records to {path}",
        seen=said,
        do="make the folder writable, or name another one in TVM_IOVT_PATH",
    )


def replace_file(path: Path, content: bytes, *, durable: bool = False, kept: str = "") -> None:
    """Write a file of records anew, atomically.

    Args:
        path: The file; its folder is made if it is missing.
        content: All of it.
        durable: Whether it must survive a power failure.
        kept: What is safe if the disk is full, for the message.

    Raises:
        TuningError: The disk is full; the old content is still there.
        UsageError: The file cannot be written.
    """
    try:
        write_atomically(path, content, durable=durable)
    except UsageError as error:
        cause = error.__cause__
        raise (
            write_error(path, cause, kept=kept) if isinstance(cause, OSError) else error
        ) from cause
