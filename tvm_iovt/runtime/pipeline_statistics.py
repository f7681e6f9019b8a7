"""How fast a pipeline was: frame rate, latency percentiles, and how busy its stages were."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tvm_iovt.runtime.timeline import COMPUTE, RECEIVE, SEND, Timeline
from tvm_iovt.runtime.timeline_recorder import StageTimes


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameTiming:
    """When a frame came and went.

    Attributes:
        entered_s: When the source had delivered it, in seconds since the pipeline began.
        finished_s: When its outputs were complete.
    """

    entered_s: float
    finished_s: float

    @property
    def latency_s(self) -> float:
        """Seconds in the pipeline, waiting included."""
        return self.finished_s - self.entered_s


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStatistics:
    """One stage over a run.

    Attributes:
        name: Of the stage.
        mean: Seconds a frame.
        occupancy: Share of the run in which it computed. The stage nearest to 1 sets the rate.
        transfer_occupancy: Share in which it received or sent; over 1 where several lanes did.
    """

    name: str
    mean: StageTimes
    occupancy: float
    transfer_occupancy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineStatistics:
    """A run of a pipeline.

    Attributes:
        frames: That came out.
        length_s: From the begin to the last output.
        frames_per_s: In the steady state: counted from the first output, when every stage has
            work, to the moment when the first stage is done with the last frame and the pipeline
            begins to run empty. A run too short for that counts from the first output to the
            last; one of a single frame, from the begin. 0 without frames.
        latency_p50_s: Median seconds from the source to the outputs, waiting included; NaN
            without frames.
        latency_p90_s: 90th percentile.
        latency_p99_s: 99th percentile.
        stages: One for each.
    """

    frames: int
    length_s: float
    frames_per_s: float
    latency_p50_s: float
    latency_p90_s: float
    latency_p99_s: float
    stages: tuple[StageStatistics, ...]


def statistics(
    frames: Sequence[FrameTiming], timeline: Timeline, *, total: int | None = None
) -> PipelineStatistics:
    """Summarise a run.

    Args:
        frames: In the order in which they came out; of a long run, the last ones.
        timeline: Of the same run.
        total: Frames that came out, if `frames` are not all of them.
    """
    p50, p90, p99 = latency_percentiles_s(frames)
    return PipelineStatistics(
        frames=len(frames) if total is None else total,
        length_s=timeline.length_s,
        frames_per_s=_steady_rate(frames, timeline),
        latency_p50_s=p50,
        latency_p90_s=p90,
        latency_p99_s=p99,
        stages=tuple(_stage(timeline, i) for i in range(len(timeline.stages))),
    )


def latency_percentiles_s(frames: Iterable[FrameTiming]) -> tuple[float, float, float]:
    """Median, 90th and 99th percentile; NaN without frames."""
    latencies_s = [frame.latency_s for frame in frames] or [math.nan]
    p50, p90, p99 = np.percentile(latencies_s, (50, 90, 99))
    return float(p50), float(p90), float(p99)


def _steady_rate(frames: Sequence[FrameTiming], timeline: Timeline) -> float:
    if len(frames) < 2:
        return 1 / frames[0].finished_s if frames and frames[0].finished_s > 0 else 0.0
    first_stage = timeline.of(0, COMPUTE)
    drains_s = first_stage[-1].end_s if first_stage else math.inf
    outputs_s = [frame.finished_s for frame in frames]
    steady_s = [output_s for output_s in outputs_s if output_s <= drains_s]
    if len(steady_s) < 3:
        steady_s = outputs_s
    length_s = steady_s[-1] - steady_s[0]
    return (len(steady_s) - 1) / length_s if length_s > 0 else 0.0


def _stage(timeline: Timeline, index: int) -> StageStatistics:
    return StageStatistics(
        name=timeline.stages[index],
        mean=StageTimes(
            receive_s=_mean_s(timeline, index, RECEIVE),
            compute_s=_mean_s(timeline, index, COMPUTE),
            send_s=_mean_s(timeline, index, SEND),
        ),
        occupancy=timeline.occupancy(index),
        transfer_occupancy=timeline.occupancy(index, RECEIVE) + timeline.occupancy(index, SEND),
    )


def _mean_s(timeline: Timeline, stage: int, action: str) -> float:
    counts = [t.spans for t in timeline.totals if t.stage == stage and t.action == action]
    spans = sum(counts) if timeline.totals else len(timeline.of(stage, action))
    return timeline.busy_s(stage, action) / spans if spans else 0.0
