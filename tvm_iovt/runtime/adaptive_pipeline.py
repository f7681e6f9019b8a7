"""A stream that changes from one prepared pipeline to another while it runs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from tvm_iovt.errors import IovtError
from tvm_iovt.runtime.adaptation import Drift, Proposal
from tvm_iovt.runtime.pipeline import KEPT_TIMINGS, Pipeline
from tvm_iovt.runtime.pipeline_opening import PipelineOpening, close_quietly
from tvm_iovt.runtime.pipeline_stage import FrameResult
from tvm_iovt.runtime.pipeline_statistics import (
    FrameTiming,
    PipelineStatistics,
    latency_percentiles_s,
)

Frames = Iterable[Mapping[str, np.ndarray]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """A change that was made, or could not be made.

    Attributes:
        frame: Number of the first frame after it.
        before: Name of the cut before.
        after: Name of the cut that was proposed.
        reason: Why, and why not if it could not be made.
        made: Whether it was.
        pause_s: Seconds from the last result before it to the first one after it; 0 if none came.
    """

    frame: int
    before: str
    after: str
    reason: str
    made: bool
    pause_s: float = 0.0


class AdaptivePipeline:
    """Runs a stream through one of several cuts, and changes over when another one is better.

    A change loses no frame and keeps their order: the new pipeline is opened while the old one goes
    on; then the old one takes no more frames and finishes those that it has, and the new one goes
    on with the source. Where the new one cannot be opened beside the old one (they may share a
    board that serves one at a time), it is opened after the old one was closed; where it cannot be
    opened at all, the old one goes on and the other one is not proposed again.

    Args:
        drift: Decides; its `current` cut begins.
        make: Makes the pipeline of a cut, not yet opened, by the cut's index. Called in another
            thread for each change.

    Attributes:
        switches: The changes up to now.
    """

    def __init__(self, drift: Drift, make: Callable[[int], Pipeline]) -> None:
        self.switches: list[Switch] = []
        self._drift = drift
        self._make = make
        self._pipeline: Pipeline | None = None
        self._timings: deque[FrameTiming] = deque(maxlen=KEPT_TIMINGS)
        self._count = 0

    @property
    def pipeline(self) -> Pipeline | None:
        """That frames pass now, or passed last: for its timeline and statistics."""
        return self._pipeline

    def run(self, frames: Frames) -> Generator[FrameResult, None, None]:
        """As `Pipeline.run`; the times of all results count from the begin of the stream.

        Raises:
            StageError: A stage failed, as for `Pipeline.run`.
            IovtError: No pipeline can be opened.
        """
        source = _Gate(frames)
        self.switches = []
        self._timings.clear()
        self._count = 0
        began_s = time.perf_counter()
        opening: PipelineOpening | None = None
        current = self._open(self._drift.current)
        index, last_s = 0, 0.0
        paused = complete = False
        try:
            while not complete:
                self._pipeline = current
                offset_s = time.perf_counter() - began_s
                proposal: Proposal | None = None
                with contextlib.closing(current.run(source, first_frame=index)) as results:
                    for early in results:
                        result = _later(early, offset_s)
                        index = result.index + 1
                        if paused:
                            self._note_pause(result.timing.finished_s - last_s)
                        paused, last_s = False, result.timing.finished_s
                        if proposal is None:
                            proposal = self._drift.observe(result.stages)
                            if proposal is not None:
                                open_it = functools.partial(self._open, proposal.cut)
                                opening = PipelineOpening(open_it, then=source.stop)
                        yield self._note(result)
                if proposal is None or opening is None or source.at_end:
                    complete = True
                    continue
                current, opening = self._change(current, opening, proposal, index), None
                paused = True
                source.resume()
        finally:
            unused = opening.abandon() if opening is not None else None
            failure = close_quietly(current) or unused
            if complete and failure is not None:
                raise failure

    def statistics(self) -> PipelineStatistics | None:
        """Of the last stream, or up to now; None before the first result.

        Frames, rate and latencies are of the whole stream, from its first output to its last one;
        the stages are those of the last pipeline.
        """
        if self._pipeline is None or not self._timings:
            return None
        first, last = self._timings[0], self._timings[-1]
        length_s = last.finished_s - first.finished_s
        p50_s, p90_s, p99_s = latency_percentiles_s(self._timings)
        return dataclasses.replace(
            self._pipeline.statistics(),
            frames=self._count,
            length_s=last.finished_s,
            frames_per_s=(len(self._timings) - 1) / length_s if length_s > 0 else 0.0,
            latency_p50_s=p50_s,
            latency_p90_s=p90_s,
            latency_p99_s=p99_s,
        )

    def _note(self, result: FrameResult) -> FrameResult:
        self._timings.append(result.timing)
        self._count += 1
        return result

    def _open(self, cut: int) -> Pipeline:
        pipeline = self._make(cut)
        pipeline.open()
        return pipeline

    def _change(
        self, old: Pipeline, opening: PipelineOpening, proposal: Proposal, frame: int
    ) -> Pipeline:
        """The pipeline to go on with, open; the other one is closed."""
        before, made, reason = self._drift.cuts[self._drift.current].name, True, proposal.reason
        failure = close_quietly(old)
        new = opening.take()
        if failure is not None:  # its results are complete, so the stream can go on
            reason = f"{reason}; {failure.what}: {failure.seen}"
        if new is None:
            try:
                new = self._open(proposal.cut)
            except IovtError as error:
                self._drift.exclude(proposal.cut)
                made, reason = False, f"{reason}; but it cannot be used: {error.what} {error.seen}"
                old.open()
                new = old
        if made:
            self._drift.switched(proposal.cut)
        self.switches.append(
            Switch(frame=frame, before=before, after=proposal.name, reason=reason, made=made)
        )
        return new

    def _note_pause(self, pause_s: float) -> None:
        self.switches[-1] = dataclasses.replace(self.switches[-1], pause_s=pause_s)


class _Gate:
    """A source that several pipelines read one after the other.

    A frame that is being read when the gate stops still belongs to the pipeline that asked.
    """

    def __init__(self, frames: Frames) -> None:
        self._frames = iter(frames)
        self._stopped = threading.Event()
        self.at_end = False

    def stop(self) -> None:
        self._stopped.set()

    def resume(self) -> None:
        self._stopped.clear()

    def __iter__(self) -> _Gate:
        return self

    def __next__(self) -> Mapping[str, np.ndarray]:
        if self._stopped.is_set():
            raise StopIteration
        try:
            return next(self._frames)
        except StopIteration:
            self.at_end = True
            raise


def _later(result: FrameResult, offset_s: float) -> FrameResult:
    timing = FrameTiming(
        entered_s=result.timing.entered_s + offset_s, finished_s=result.timing.finished_s + offset_s
    )
    return dataclasses.replace(result, timing=timing)
