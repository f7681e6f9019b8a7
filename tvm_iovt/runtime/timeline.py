"""When each stage of a pipeline did what: the record of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

RECEIVE, COMPUTE, SEND = "receive", "compute", "send"
ACTIONS = (RECEIVE, COMPUTE, SEND)


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
class Busy:
    """What one stage did over a whole run.

    Attributes:
        stage: Index of the stage.
        action: `receive`, `compute` or `send`.
        spans: How many times.
        busy_s: For how many seconds in all.
    """

    stage: int
    action: str
    spans: int
    busy_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """The spans of a run: all of them, or of a long run the first and the last ones.

    Attributes:
        stages: Their names.
        spans: By their starts.
        length_s: From the begin to the last output.
        totals: Sums over the whole run; empty: `spans` holds all of it.
    """

    stages: tuple[str, ...]
    spans: tuple[Span, ...]
    length_s: float
    totals: tuple[Busy, ...] = ()

    @property
    def left_out(self) -> int:
        """Spans in the middle of a long run that were not kept."""
        return sum(total.spans for total in self.totals) - len(self.spans) if self.totals else 0

    def busy_s(self, stage: int, action: str = COMPUTE) -> float:
        """Seconds that a stage spent on an action, of all of its lanes together."""
        if self.totals:
            found = (t.busy_s for t in self.totals if t.stage == stage and t.action == action)
            return sum(found)
        return sum(span.end_s - span.start_s for span in self.of(stage, action))

    def occupancy(self, stage: int, action: str = COMPUTE) -> float:
        """Share of the run in which a stage did something; over 1 where several lanes did."""
        return self.busy_s(stage, action) / self.length_s if self.length_s else 0.0

    def of(self, stage: int, action: str) -> Sequence[Span]:
        """The spans of one stage and action."""
        return [span for span in self.spans if span.stage == stage and span.action == action]
