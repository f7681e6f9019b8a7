"""Collects what the lanes of a running pipeline do, in bounded memory."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_iovt.runtime.timeline import ACTIONS, Busy, Span, Timeline

KEPT_SPANS = 3000
"""Spans that are kept of the begin of a run, and as many of its end."""

_Noted = tuple[int, int, int, str, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Seconds of one stage, for one frame or on average. Waiting for others is in none of them.

    Attributes:
        receive_s: To bring its inputs to its device.
        compute_s: Of its kernels.
        send_s: To bring its outputs from there.
    """

    receive_s: float
    compute_s: float
    send_s: float


class TimelineRecorder:
    """Keeps the first and the last spans of a run, and exact sums over all.

    Args:
        stages: Names of the stages.
        kept: Spans to keep of either end.
    """

    def __init__(self, stages: Sequence[str], *, kept: int = KEPT_SPANS) -> None:
        self._stages = tuple(stages)
        self._kept = kept
        self._first: list[_Noted] = []
        self._last: deque[_Noted] = deque(maxlen=kept)
        keys = [(stage, action) for stage in range(len(stages)) for action in ACTIONS]
        self._counts = dict.fromkeys(keys, 0)
        self._sums_s = dict.fromkeys(keys, 0.0)
        self._length_s = 0.0
        self._lock = threading.Lock()

    def add(
        self, stage: int, lane: int, frame: int, action: str, start_s: float, end_s: float
    ) -> None:
        """Note what a lane has done; see `timeline.Span`, which is made when somebody asks."""
        key, busy_s = (stage, action), end_s - start_s
        with self._lock:
            noted = (stage, lane, frame, action, start_s, end_s)
            (self._first if len(self._first) < self._kept else self._last).append(noted)
            self._counts[key] += 1
            self._sums_s[key] += busy_s

    def finish_frame(self, now_s: float) -> None:
        """Note that an output came out."""
        with self._lock:
            self._length_s = max(self._length_s, now_s)

    def timeline(self) -> Timeline:
        """What there is up to now."""
        with self._lock:
            noted = [*self._first, *self._last]
            totals = tuple(
                Busy(stage=stage, action=action, spans=count, busy_s=self._sums_s[stage, action])
                for (stage, action), count in self._counts.items()
                if count
            )
            length_s = self._length_s
        spans = sorted(itertools.starmap(_span, noted), key=lambda span: span.start_s)
        return Timeline(stages=self._stages, spans=tuple(spans), length_s=length_s, totals=totals)


def _span(stage: int, lane: int, frame: int, action: str, start_s: float, end_s: float) -> Span:
    return Span(stage=stage, lane=lane, frame=frame, action=action, start_s=start_s, end_s=end_s)
