"""One run of a pipeline: how frames travel from the source through the lanes to the caller.

Every stage has a bounded channel that its lanes take frames from. The lanes of a stage compute
and hand on in the order of the frames, so frames leave a stage as they entered it, and the end
of the source, its error or that of a stage travels behind the last good frame: whatever was
finished before reaches the caller first.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tvm_iovt.errors import UsageError
from tvm_iovt.runtime.channel import Channel, Turns
from tvm_iovt.runtime.network_inputs import check_inputs
from tvm_iovt.runtime.pipeline_stage import (
    PipelineStage,
    check_names,
    kept_names,
    needed_inputs,
    stage_failed,
)
from tvm_iovt.runtime.stage_lane import StageLane, Values
from tvm_iovt.runtime.timeline import COMPUTE, RECEIVE, SEND
from tvm_iovt.runtime.timeline_recorder import StageTimes, TimelineRecorder
from tvm_iovt.types import TensorSpec


@dataclass(slots=True, kw_only=True)
class Frame:
    """A frame on its way; belongs to one thread at a time."""

    index: int
    values: Values
    entered_s: float
    finished_s: float = 0.0
    times: list[StageTimes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class End:
    """No frame `index` will come: the source is at its end, or there was an error."""

    index: int
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class _Gate:
    """What belongs to a stage in one run."""

    incoming: Channel[Frame | End]
    compute: Turns
    hand_on: Turns

    def break_(self) -> None:
        self.incoming.break_()
        self.compute.break_()
        self.hand_on.break_()


class PipelineRun:
    """The state of one run, shared by its threads.

    Args:
        stages: Of the pipeline.
        outputs: Names of the tensors for the caller.
        inputs: Specifications that each frame is checked against; none: only its names are.
        queue_frames: Capacity of each channel.
        one_at_a_time: Whether a frame enters only when the one before it has left.
        first_frame: Number of the first frame.
        recorder: Is told what happens.
    """

    def __init__(
        self,
        stages: Sequence[PipelineStage],
        outputs: Sequence[str],
        *,
        inputs: Sequence[TensorSpec],
        queue_frames: int,
        one_at_a_time: bool,
        first_frame: int,
        recorder: TimelineRecorder,
    ) -> None:
        self._stages = stages
        self._outputs = tuple(outputs)
        self._inputs = tuple(inputs)
        self._needed = needed_inputs(stages, outputs)
        self._kept = kept_names(stages, outputs)
        self._gates = tuple(
            _Gate(Channel(queue_frames), Turns(first_frame), Turns(first_frame)) for _ in stages
        )
        self._finished: Channel[Frame | End] = Channel(queue_frames)
        self._admission = Turns(first_frame) if one_at_a_time else None
        self._first_frame = first_frame
        self._recorder = recorder
        self._busy: dict[tuple[int, int], tuple[str, int, float]] = {}
        self._aborted = False
        self._began_s = time.perf_counter()

    # --- The source's thread --------------------------------------------------------------------

    def feed(self, frames: Iterable[Mapping[str, np.ndarray]]) -> None:
        """Read the source, whenever there is room for a frame, until it ends or fails."""
        index, error = self._first_frame, None
        try:
            source = iter(frames)
            while self._may_enter(index) and self._read(source, index):
                index += 1
        except BaseException as caught:  # the caller gets it, behind the frames before it
            error = caught
        self._gates[0].incoming.put(End(index, error))

    def _may_enter(self, index: int) -> bool:
        if self._admission is not None and not self._admission.wait(index):
            return False
        return self._gates[0].incoming.wait_for_room()

    def _read(self, source: Iterator[Mapping[str, np.ndarray]], index: int) -> bool:
        try:
            frame = next(source)
        except StopIteration:
            return False
        entered_s = self._now_s()
        check_names(self._needed, frame, index)
        if self._inputs:
            try:
                check_inputs(self._inputs, frame)
            except UsageError as error:
                raise UsageError(
                    f"Frame {index} does not fit: {error.what}", seen=error.seen, do=error.do
                ) from error
        values = {name: frame[name] for name in self._needed}
        return self._gates[0].incoming.put(Frame(index=index, values=values, entered_s=entered_s))

    # --- The lanes' threads ---------------------------------------------------------------------

    def work(self, stage: int, number: int, lane: StageLane) -> None:
        """Carry frames through a stage until no more come."""
        while self._carry_next(stage, number, lane):
            pass

    def _carry_next(self, stage: int, number: int, lane: StageLane) -> bool:
        """Carry one frame; whether there may be another one."""
        gate = self._gates[stage]
        item = gate.incoming.get()
        if item is None:
            return False
        if isinstance(item, End):
            self._end(stage, item)
            return False
        index, doing = item.index, RECEIVE
        try:
            start_s = self._start(stage, number, RECEIVE, index)
            lane.receive({name: item.values[name] for name in self._stages[stage].inputs})
            received_s = self._stop(stage, number, RECEIVE, index, start_s)
            item.values = {n: v for n, v in item.values.items() if n in self._kept[stage]}
            doing = COMPUTE
            if not gate.compute.wait(index):
                return False
            start_s = self._start(stage, number, COMPUTE, index)
            lane.compute()
            computed_s = self._stop(stage, number, COMPUTE, index, start_s)
            gate.compute.advance()
            doing = SEND
            start_s = self._start(stage, number, SEND, index)
            self._collect(stage, item, lane.send())
            sent_s = self._stop(stage, number, SEND, index, start_s)
        except BaseException as error:  # the caller gets it, behind the frames before it
            self._busy.pop((stage, number), None)
            failure = stage_failed(self._stages, stage, doing, index, error)
            self._end(stage, End(index, failure))
            return False
        item.times.append(StageTimes(receive_s=received_s, compute_s=computed_s, send_s=sent_s))
        item.finished_s = self._now_s()
        if not gate.hand_on.wait(index) or not self._next(stage).put(item):
            return False
        gate.hand_on.advance()
        return True

    def _collect(self, stage: int, frame: Frame, made: Mapping[str, Any]) -> None:
        """Add a stage's outputs to a frame; those of the last one become the caller's arrays."""
        kept = self._kept[stage]
        frame.values |= {n: made[n] for n in self._stages[stage].outputs if n in kept}
        if stage == len(self._stages) - 1:
            frame.values = {name: _owned(frame.values[name]) for name in self._outputs}

    def _end(self, stage: int, end: End) -> None:
        """Pass the end on in its turn, and stop what comes behind it.

        Frames leave a stage in their order, so all that is before this stage is behind the end.
        """
        if end.error is not None:
            self._stop_entering()
        for gate in self._gates[:stage]:
            gate.break_()
        own = self._gates[stage]
        own.incoming.break_()
        if own.hand_on.wait(end.index):
            self._next(stage).put(end)

    def _next(self, stage: int) -> Channel[Frame | End]:
        last = stage == len(self._stages) - 1
        return self._finished if last else self._gates[stage + 1].incoming

    def _start(self, stage: int, number: int, action: str, frame: int) -> float:
        start_s = self._now_s()
        self._busy[stage, number] = (action, frame, start_s)
        return start_s

    def _stop(self, stage: int, number: int, action: str, frame: int, start_s: float) -> float:
        end_s = self._now_s()
        del self._busy[stage, number]
        self._recorder.add(stage, number, frame, action, start_s, end_s)
        return end_s - start_s

    # --- The caller's thread --------------------------------------------------------------------

    def take(self, expected: int, timeout_s: float) -> Frame | End:
        """Wait for the next frame.

        Args:
            expected: Its number.
            timeout_s: How long a lane may be busy with one action of one frame.
        """
        while True:
            item = self._finished.get(min(1.0, timeout_s / 4))
            if item is None and self._aborted:
                closed = UsageError(
                    "The pipeline was closed while a stream ran",
                    seen=f"before frame {expected} came out",
                    do="take all results, or close the stream, before the pipeline",
                )
                return End(expected, closed)
            if item is None:
                item = self._stalled(expected, timeout_s)
            if item is None:
                continue
            if isinstance(item, Frame):
                self._recorder.finish_frame(item.finished_s)
                if self._admission is not None:
                    self._admission.advance()
            return item

    def _stalled(self, expected: int, timeout_s: float) -> End | None:
        """The end of a run in which a lane does not come back with the expected frame."""
        now_s = self._now_s()
        for (stage, _), (action, frame, start_s) in tuple(self._busy.items()):
            if frame == expected and now_s - start_s > timeout_s:
                cause = TimeoutError(f"no answer for {now_s - start_s:.0f} s")
                return End(frame, stage_failed(self._stages, stage, action, frame, cause))
        return None

    def abort(self) -> None:
        """Drop all frames and let all threads go, as soon as they are done with their action."""
        self._aborted = True
        self._stop_entering()
        for gate in self._gates:
            gate.break_()
        self._finished.break_()

    def _stop_entering(self) -> None:
        if self._admission is not None:
            self._admission.break_()

    def _now_s(self) -> float:
        return time.perf_counter() - self._began_s


def _owned(value: Any) -> np.ndarray:
    array = value if isinstance(value, np.ndarray) else np.from_dlpack(value)
    return np.array(array)
