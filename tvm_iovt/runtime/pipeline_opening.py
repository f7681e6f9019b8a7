"""Opening a pipeline in a thread of its own, while another one runs."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tvm_iovt.errors import IovtError
from tvm_iovt.runtime.pipeline import Pipeline
from tvm_iovt.runtime.pipeline_stage import StageError

_ABANDON_S = 10.0


class PipelineOpening:
    """Starts with its making. The thread does not keep the process alive.

    Args:
        open_: Makes and opens the pipeline.
        then: Called in that thread when it is open, or cannot be opened.
    """

    def __init__(self, open_: Callable[[], Pipeline], *, then: Callable[[], None]) -> None:
        self._open, self._then = open_, then
        self._pipeline: Pipeline | None = None
        self._error: BaseException | None = None
        self._abandoned = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(
            target=self._main, name="opens the next pipeline", daemon=True
        )
        self._thread.start()

    def take(self) -> Pipeline | None:
        """Wait for the pipeline, which is the caller's from now on; None if it cannot be opened."""
        self._thread.join()
        if self._error is not None and not isinstance(self._error, IovtError):
            raise self._error
        pipeline, self._pipeline = self._pipeline, None
        return pipeline

    def abandon(self, timeout_s: float = _ABANDON_S) -> StageError | None:
        """Close the pipeline, which nobody has taken.

        Args:
            timeout_s: To wait for a device that is still being opened; it is closed as soon as it
                is open, too, but nobody waits for that.

        Returns:
            What went wrong.
        """
        with self._lock:
            self._abandoned = True
        self._thread.join(timeout_s)
        with self._lock:
            pipeline, self._pipeline = self._pipeline, None
        return close_quietly(pipeline) if pipeline is not None else None

    def _main(self) -> None:
        try:
            pipeline = self._open()
        except BaseException as error:  # who takes the pipeline raises it
            self._error = error
        else:
            with self._lock:
                self._pipeline = None if self._abandoned else pipeline
                abandoned = self._abandoned
            if abandoned:
                close_quietly(pipeline)
        self._then()


def close_quietly(pipeline: Pipeline) -> StageError | None:
    """Close a pipeline; returns what went wrong instead of raising it."""
    try:
        pipeline.close()
    except StageError as error:
        return error
    return None
