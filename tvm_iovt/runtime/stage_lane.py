"""What the pipeline asks of a device: lanes that carry frames through one stage.

A stage with several lanes works on several frames: while one lane computes, another one receives
the next frame's tensors, or sends those of the last one. Only one lane of a stage computes at a
time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

Values = dict[str, Any]
"""Tensors by name: NumPy arrays, or TVM tensors that never left this process."""


class StageLane(Protocol):
    """Carries one frame at a time. Opened, used and closed by one thread."""

    def receive(self, values: Mapping[str, Any]) -> None:
        """Bring the stage's inputs, all of which are in `values`, to the device."""

    def compute(self) -> None:
        """Run the stage on what was received."""

    def send(self) -> Values:
        """The stage's outputs by name, for other stages or the caller."""

    def close(self) -> None:
        """Give the device back; called once, also after an error."""


class StageDevice(Protocol):
    """Where a stage runs."""

    @property
    def name(self) -> str:
        """For messages and the timeline: `stage 1 on arm`."""

    @property
    def lanes(self) -> int:
        """Frames that the stage can carry at a time."""

    def open_lane(self) -> StageLane:
        """A lane, for the calling thread.

        Raises:
            IovtError: The device cannot be used.
        """
