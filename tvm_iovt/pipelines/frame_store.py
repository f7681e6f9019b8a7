"""Finished frames on the disk, while the pipeline still runs."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_iovt.atomic_write import write_atomically
from tvm_iovt.errors import UsageError

_FLUSH_S = 2.0
_FLUSH_FRAMES = 256
_FLUSH_BYTES = 64 << 20

_PATTERN = "frames-*.npz"


class FrameStore:
    """A folder of `frames-<first>-<last>.npz`, each with the outputs of some frames.

    Use it in a `with` block: the folder belongs to one run until its end, and one that was made for
    it is removed again if no frame came.

    The arrays are named as the outputs and have a leading axis for the frames, so that the folder
    can be the source of another pipeline. A file is there whole or not at all; what a killed
    process loses is at most two seconds of frames.

    Args:
        folder: Made if it is missing.

    Attributes:
        folder: Likewise.
        written: Frames that are in it.

    Raises:
        UsageError: It holds frames already, another run writes to it, or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._waiting: list[dict[str, npt.NDArray[Any]]] = []
        self.written = 0
        self._bytes = 0
        self._flushed_s = time.monotonic()
        self._lock = -1
        try:
            self._made = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder)
            old = next(iter(folder.glob(_PATTERN)), None)
        except OSError as error:
            raise UsageError(
                f"Frames cannot be written to {folder}",
                seen=error.strerror or str(error),
                do="give --output a folder that can be made and written",
            ) from error
        if old is not None:
            self.close()
            raise UsageError(
                f"{folder} holds frames of an earlier run",
                seen=str(old),
                do="give another folder, or remove these files",
            )

    def __enter__(self) -> FrameStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let other runs have the folder. What waits is not written: see `flush`."""
        if self._lock < 0:
            return
        with contextlib.suppress(OSError):  # of the first one that is not empty
            for path in self._made:
                path.rmdir()
        os.close(self._lock)
        self._lock = -1

    def add(self, outputs: Mapping[str, npt.NDArray[Any]]) -> None:
        """Keep the next frame's outputs.

        Raises:
            UsageError: They cannot be written.
        """
        self._waiting.append(dict(outputs))
        self._bytes += sum(array.nbytes for array in outputs.values())
        if (
            len(self._waiting) >= _FLUSH_FRAMES
            or self._bytes >= _FLUSH_BYTES
            or time.monotonic() - self._flushed_s > _FLUSH_S
        ):
            self.flush()

    def flush(self) -> None:
        """Write what waits.

        Raises:
            UsageError: It cannot be written.
        """
        self._flushed_s = time.monotonic()
        if not self._waiting:
            return
        last = self.written + len(self._waiting) - 1
        stacks = {
            name: np.stack([outputs[name] for outputs in self._waiting])
            for name in self._waiting[0]
        }
        content = io.BytesIO()
        np.savez(content, **stacks)  # type: ignore[arg-type]
        name = f"frames-{self.written:08d}-{last:08d}.npz"
        write_atomically(self.folder / name, content.getvalue())
        self.written = last + 1
        self._waiting.clear()
        self._bytes = 0


def _locked(folder: Path) -> int:
    """The open folder, which no other run may have: its frames would be mixed with ours."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(opened)
        raise UsageError(
            f"Another run writes its frames to {folder}",
            seen="its process holds the folder",
            do="give another folder, or wait until that run has ended",
        ) from error
    except OSError:  # some network file systems lock no folders; old frames are still seen
        pass
    return opened
