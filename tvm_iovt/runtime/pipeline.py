"""Run a network's stages on several frames at a time, each stage on a device of its own."""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

import numpy as np

from tvm_iovt.errors import IovtError, UsageError
from tvm_iovt.runtime.pipeline_lane import LaneThread
from tvm_iovt.runtime.pipeline_run import End, PipelineRun
from tvm_iovt.runtime.pipeline_stage import (
    FrameResult,
    PipelineStage,
    StageError,
    needed_inputs,
    stage_failed,
)
from tvm_iovt.runtime.pipeline_statistics import FrameTiming, PipelineStatistics, statistics
from tvm_iovt.runtime.timeline import Timeline
from tvm_iovt.runtime.timeline_recorder import TimelineRecorder
from tvm_iovt.types import TensorSpec

KEPT_TIMINGS = 100_000
"""Frames of which the times are kept."""


class Pipeline:
    """Stages that work on different frames at the same time.

    Use it as a context manager to run several streams through the same open devices; `run` opens
    and closes them itself otherwise. One stream runs at a time. A stream that fails closes the
    pipeline, which can be opened again.

    Args:
        stages: In the order of the frames' way.
        outputs: Names of the tensors that the caller gets.
        inputs: The network's inputs, to check each frame; without them only names are checked.
        queue_frames: Frames that wait before each stage, and for the caller, at most.
        sequential: Let a frame in only when the caller has got the one before it: the least
            latency, at a lower rate.
        action_timeout_s: Seconds after which a device that has not finished opening, or receiving,
            computing or sending one frame, counts as failed.
        close_timeout_s: Seconds to wait for the devices at the end.
        interrupt: Called when the caller is interrupted while it waits for a result, before the
            devices are waited for: it may end calls that nobody needs any more.

    Raises:
        UsageError: The stages do not fit together.
    """

    def __init__(
        self,
        stages: Sequence[PipelineStage],
        outputs: Sequence[str],
        *,
        inputs: Sequence[TensorSpec] = (),
        queue_frames: int = 2,
        sequential: bool = False,
        action_timeout_s: float = 600.0,
        close_timeout_s: float = 10.0,
        interrupt: Callable[[], None] = lambda: None,
    ) -> None:
        if queue_frames < 1:
            raise UsageError("A queue holds at least one frame", seen=str(queue_frames))
        self.inputs = needed_inputs(stages, outputs)
        self._stages = tuple(stages)
        self._outputs = tuple(outputs)
        self._specs = tuple(inputs)
        self._queue_frames = queue_frames
        self._sequential = sequential
        self._action_timeout_s = action_timeout_s
        self._close_timeout_s = close_timeout_s
        self._lanes: list[LaneThread] = []
        self._interrupt = interrupt
        self._run: PipelineRun | None = None
        self._restart_record()

    def open(self) -> None:
        """Open all lanes, each in its own thread; does nothing if they are open.

        Raises:
            IovtError: A device cannot be used. Those that can are closed again, and one that is
                still being opened is waited for `close_timeout_s` at most.
        """
        if self._lanes:
            return
        opened: queue.SimpleQueue[LaneThread] = queue.SimpleQueue()
        try:
            for index, stage in enumerate(self._stages):
                for number in range(stage.device.lanes):
                    self._lanes.append(LaneThread(stage.device, index, number, opened.put))
            self._await_open(opened)
        except Exception:
            self._shut()
            raise
        except BaseException:
            self._interrupt()
            self._shut()
            raise

    def _await_open(self, opened: queue.SimpleQueue[LaneThread]) -> None:
        """Wait until all lanes are open, or one cannot be opened: that one is told at once."""
        deadline_s = time.monotonic() + self._action_timeout_s
        waiting = list(self._lanes)
        while waiting:
            try:
                lane = opened.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                late = TimeoutError(f"no answer for {self._action_timeout_s:g} s")
                raise stage_failed(self._stages, waiting[0].stage, "open", None, late) from None
            waiting.remove(lane)
            if isinstance(lane.error, IovtError):
                raise lane.error
            if lane.error is not None:
                raise stage_failed(self._stages, lane.stage, "open", None, lane.error)

    def close(self) -> None:
        """Close all lanes; does nothing if they are closed. A stream that runs ends with an error.

        Raises:
            StageError: A lane failed to close, or was still busy after `close_timeout_s`; its
                thread is left behind, and does not keep the process alive.
        """
        failure = self._shut()
        if failure is not None:
            raise failure

    def __enter__(self) -> Pipeline:
        self.open()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        failure = self._shut()
        if failure is not None and error is None:
            raise failure

    def run(
        self, frames: Iterable[Mapping[str, np.ndarray]], *, first_frame: int = 0
    ) -> Generator[FrameResult, None, None]:
        """Send frames through the stages, and give the results in the order of the frames.

        The source is read in a thread of its own, and only when there is room, so it may be slow,
        or endless. Close the iterator (or drop it) to stop early.

        Args:
            frames: One mapping from `self.inputs` to arrays for each frame. The arrays must not
                change until the frame's result is there.
            first_frame: Number of the first one.

        Raises:
            StageError: A stage failed; names it, its device and the frame. The results of all
                frames before that one were given.
            UsageError: A frame does not fit; likewise.
            Exception: What the source itself raised; likewise.
        """
        if self._run is not None:
            raise UsageError("A pipeline runs one stream at a time", do="wait for the one before")
        opened_here = not self._lanes
        self.open()
        self._restart_record()
        run = self._run = PipelineRun(
            self._stages,
            self._outputs,
            inputs=self._specs,
            queue_frames=self._queue_frames,
            one_at_a_time=self._sequential,
            first_frame=first_frame,
            recorder=self._recorder,
        )
        feed = functools.partial(run.feed, frames)
        source = threading.Thread(target=feed, name="source of the pipeline", daemon=True)
        ready: list[FrameResult] = []
        complete = False
        stays_open = not opened_here
        try:
            for lane in self._lanes:
                lane.start(run)
            source.start()
            while self._take(run, first_frame + self._count, ready):
                yield ready.pop()
            complete = True
        except GeneratorExit:
            raise
        except Exception:
            stays_open = False
            raise
        except BaseException:
            stays_open = False
            self._interrupt()
            raise
        finally:
            self._run = None
            failure = self._finish(run, source, stays_open=stays_open)
            if complete and failure is not None:
                raise failure

    def timeline(self) -> Timeline:
        """What the stages did in the last stream, or have done up to now.

        Of a long one the first and the last `timeline_recorder.KEPT_SPANS` spans are kept; the
        sums are of all.
        """
        return self._recorder.timeline()

    def statistics(self) -> PipelineStatistics:
        """Frame rate, latencies and occupancy of the last stream, or up to now.

        Latencies and rate are of the last 100 000 frames.
        """
        return statistics(tuple(self._timings), self.timeline(), total=self._count)

    def _restart_record(self) -> None:
        self._recorder = TimelineRecorder([stage.device.name for stage in self._stages])
        self._timings: deque[FrameTiming] = deque(maxlen=KEPT_TIMINGS)
        self._count = 0

    def _take(self, run: PipelineRun, expected: int, ready: list[FrameResult]) -> bool:
        """Wait for the next result, which nothing but `ready` refers to; False at the end."""
        item = run.take(expected, self._action_timeout_s)
        if isinstance(item, End):
            if item.error is not None:
                raise item.error
            return False
        timing = FrameTiming(entered_s=item.entered_s, finished_s=item.finished_s)
        self._timings.append(timing)
        self._count += 1
        ready.append(
            FrameResult(
                index=item.index, outputs=item.values, timing=timing, stages=tuple(item.times)
            )
        )
        return True

    def _finish(
        self, run: PipelineRun, source: threading.Thread, *, stays_open: bool
    ) -> StageError | None:
        run.abort()
        deadline_s = time.monotonic() + self._close_timeout_s
        if stays_open and all([lane.wait_idle(deadline_s) for lane in self._lanes]):
            failure = None
        else:
            failure = self._shut()
        # A source that blocks for good cannot be interrupted; it finds nobody when it returns.
        if source.ident is not None:  # else it could not be started
            source.join(max(0.0, deadline_s - time.monotonic()))
        return failure

    def _shut(self) -> StageError | None:
        if self._run is not None:
            self._run.abort()
        lanes, self._lanes = self._lanes, []
        deadline_s = time.monotonic() + self._close_timeout_s
        for lane in lanes:
            lane.stop()
        failures = []
        for lane in lanes:
            error: BaseException | None = None
            if not lane.join(deadline_s):
                error = TimeoutError(f"still busy after {self._close_timeout_s:g} s")
            elif lane.error is not None:
                error = lane.error
            if error is not None:
                failures.append(stage_failed(self._stages, lane.stage, "close", None, error))
        return failures[0] if failures else None
