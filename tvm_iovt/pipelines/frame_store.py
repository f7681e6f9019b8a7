"""Finished frames on the disk, while the pipeline still runs."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from pathlib import Path
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

    The arrays are named as the outputs and have a leading axis for the frames, so that the folder
    can be the source of another pipeline. A file is there whole or not at all; what a killed
    process loses is at most two seconds of frames.

    Args:
        folder: Made if it is missing.

    Attributes:
        folder: Likewise.
        written: Frames that are in it.

    Raises:
        UsageError: It holds frames already, or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._waiting: list[dict[str, npt.NDArray[Any]]] = []
        self.written = 0
        self._bytes = 0
        self._flushed_s = time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            old = next(iter(folder.glob(_PATTERN)), None)
        except OSError as error:
            raise UsageError(
                f"Frames cannot be written to {folder}",
                seen=error.strerror or str(error),
                do="give --output a folder that can be made and written",
            ) from error
        if old is not None:
            raise UsageError(
                f"{folder} holds frames of an earlier run",
                seen=str(old),
                do="give another folder, or remove these files",
            )

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
