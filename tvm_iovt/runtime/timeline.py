"""When each stage of a pipeline did what: the record of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

RECEIVE, COMPUTE, SEND = "receive", "compute", "send"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stage was busy with a frame.

    Attributes:
        stage: Index of the stage.
        lane: Which of its lanes.
        frame: Number of the frame, from 0.
        action: `receive`, `compute` or `send`.
        start_s: Seconds since the pipeline began.
        end_s: Likewise.
    """

    stage: int
    lane: int
    frame: int
    action: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """All spans of a run.

    Attributes:
        stages: Their names.
        spans: By their starts.
        length_s: From the begin to the last output.
    """

    stages: tuple[str, ...]
    spans: tuple[Span, ...]
    length_s: float

    def occupancy(self, stage: int, action: str = COMPUTE) -> float:
        """Share of the run in which a stage did something; over 1 where several lanes did."""
        busy_s = sum(span.end_s - span.start_s for span in self.of(stage, action))
        return busy_s / self.length_s if self.length_s else 0.0

    def of(self, stage: int, action: str) -> Sequence[Span]:
        """The spans of one stage and action."""
        return [span for span in self.spans if span.stage == stage and span.action == action]
