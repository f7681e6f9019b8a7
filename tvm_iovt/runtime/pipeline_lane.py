"""The thread of a lane: opens it, carries the frames of one run after the other, closes it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from tvm_iovt.runtime.pipeline_run import PipelineRun
from tvm_iovt.runtime.stage_lane import StageDevice


class LaneThread:
    """Starts with its making. The thread does not keep the process alive.

    Args:
        device: Whose lane it is.
        stage: Index of the stage.
        number: Of the lane within the stage.
        opened: Is told the lane, in its thread, when it is open or cannot be opened.

    Attributes:
        stage: As given.
        error: What went wrong while the lane was opened or closed.
    """

    def __init__(
        self,
        device: StageDevice,
        stage: int,
        number: int,
        opened: Callable[[LaneThread], None] = lambda lane: None,
    ) -> None:
        self.stage = stage
        self.error: BaseException | None = None
        self._device = device
        self._number = number
        self._opened = opened
        self._runs: queue.SimpleQueue[PipelineRun | None] = queue.SimpleQueue()
        self._idle = threading.Event()
        name = f"{device.name}, lane {number}"
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def start(self, run: PipelineRun) -> None:
        """Carry the frames of a run."""
        self._idle.clear()
        self._runs.put(run)

    def stop(self) -> None:
        """Close the lane when it is idle."""
        self._runs.put(None)

    def wait_idle(self, deadline_s: float) -> bool:
        """Wait until the lane is open, or done with its run; False after the deadline.

        Args:
            deadline_s: On the clock of `time.monotonic`.
        """
        return self._idle.wait(max(0.0, deadline_s - time.monotonic()))

    def join(self, deadline_s: float) -> bool:
        """Wait until the thread has ended; False after the deadline, as for `wait_idle`."""
        self._thread.join(max(0.0, deadline_s - time.monotonic()))
        return not self._thread.is_alive()

    def _main(self) -> None:
        try:
            lane = self._device.open_lane()
        except BaseException as error:  # the caller's thread raises it
            self.error = error
            return
        finally:
            self._idle.set()
            self._opened(self)
        try:
            while (run := self._runs.get()) is not None:
                run.work(self.stage, self._number, lane)
                del run
                self._idle.set()
        finally:
            try:
                lane.close()
            except BaseException as error:
                self.error = error
