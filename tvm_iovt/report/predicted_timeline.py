"""The timeline that a plan expects of a pipeline, from the predicted times of its stages."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm_iovt.runtime.timeline import COMPUTE, RECEIVE, SEND, Span, Timeline
from tvm_iovt.types import Prediction, StagePrediction


def predicted_timeline(prediction: Prediction, names: Sequence[str], frames: int) -> Timeline:
    """Simulate a full pipeline: a step starts when the one before it and its own place are free.

    A stage computes one frame at a time. Its lanes hold a frame from the first byte that arrives to
    the last one that leaves; a stage has as many as its share of the period asks for. A frame
    leaves its lane when the next stage has a free one, so no frames pile up between stages.

    Args:
        prediction: Of the plan.
        names: Of the stages.
        frames: How many frames to send; all wait at the first stage from the begin.

    Returns:
        A timeline in which the frames follow each other at the pace of the slowest step.
    """
    pace_s = _pace_s(prediction)
    stages = [_StageState(stage, pace_s) for stage in prediction.stages]
    spans: list[Span] = []
    ended_s = 0.0
    for frame in range(frames):
        ready_s = frame * prediction.memory_s  # shared memory lets no more frames in
        for index, (state, stage) in enumerate(zip(stages, prediction.stages, strict=True)):
            lane, way_in, way_out = map(_first_free, (state.lanes, state.ways_in, state.ways_out))
            began_s = max(ready_s, state.lanes[lane], state.ways_in[way_in])
            if index:
                # The lane before was not free until this one had room.
                stages[index - 1].lanes[stages[index - 1].last_lane] = began_s
            received_s = began_s + stage.receive_s
            state.ways_in[way_in] = received_s
            computing_s = max(received_s, state.computed_s)
            state.computed_s = computing_s + stage.compute_s
            sending_s = max(state.computed_s, state.ways_out[way_out])
            ready_s = sending_s + stage.send_s
            state.ways_out[way_out] = state.lanes[lane] = ready_s
            state.last_lane = lane
            for action, start_s, end_s in (
                (RECEIVE, began_s, received_s),
                (COMPUTE, computing_s, state.computed_s),
                (SEND, sending_s, ready_s),
            ):
                if end_s > start_s:
                    spans.append(
                        Span(
                            stage=index,
                            lane=lane,
                            frame=frame,
                            action=action,
                            start_s=start_s,
                            end_s=end_s,
                        )
                    )
        ended_s = max(ended_s, ready_s)
    spans.sort(key=lambda span: (span.start_s, span.stage))
    return Timeline(stages=tuple(names), spans=tuple(spans), length_s=ended_s)


class _StageState:
    """When the parts of a stage are free again."""

    def __init__(self, stage: StagePrediction, pace_s: float) -> None:
        held_s = stage.receive_s + stage.compute_s + stage.send_s
        self.lanes = [0.0] * _places(held_s, pace_s)
        # A transfer over several links carries a frame on each of them.
        self.ways_in = [0.0] * _places(stage.receive_s, pace_s)
        self.ways_out = [0.0] * _places(stage.send_s, pace_s)
        self.computed_s = 0.0
        self.last_lane = 0


def _pace_s(prediction: Prediction) -> float:
    """Seconds of the slowest step; transfers over several links are not slower than the period."""
    transfers = [s for stage in prediction.stages for s in (stage.receive_s, stage.send_s)]
    computing_s = max((stage.compute_s for stage in prediction.stages), default=0.0)
    return max(computing_s, min(prediction.period_s, max(transfers, default=0.0)))


def _places(seconds: float, pace_s: float) -> int:
    """How many frames must be worked on at a time for one to leave every `pace_s`."""
    return max(1, math.ceil(seconds / pace_s - 1e-9)) if pace_s > 0 else 1


def _first_free(free_s: list[float]) -> int:
    return min(range(len(free_s)), key=free_s.__getitem__)
