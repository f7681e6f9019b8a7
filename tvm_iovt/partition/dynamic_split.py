"""The cut between a device and a server, chosen anew while the link's bandwidth changes.

Dynamic split computing (arXiv 2205.11269) cuts at *natural bottlenecks*, layers whose output is
small, so no network is changed; which of them is best depends on the data rate, and is decided
while frames come. The rate is a moving average of what transfers achieved. A cut is left only if
another is predicted to be better by more than a margin in several observations running
(hysteresis): noise makes no switches, and there is at most one in `patience` observations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_iovt.errors import IovtError
from tvm_iovt.partition.bandwidth_trace import BandwidthTrace
from tvm_iovt.partition.split_candidates import Candidate

PROBE_BYTES = 16 * 1024
"""What is sent to learn the rate while frames send nothing."""


class SplitPolicy:
    """Chooses among cuts by the bandwidth that was observed last.

    Before the first observation it takes the cut that moves the fewest bytes, of those the fastest:
    that one depends least on the link. The first observation decides at once.

    Args:
        candidates: Cuts to choose from.
        smoothing: Weight of a new observation in the moving average, above 0 to 1.
        margin: Relative gain that another cut must promise to be switched to.
        patience: Observations in a row in which it must promise that.

    Raises:
        IovtError: There are no candidates, or a number is out of its range.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        *,
        smoothing: float = 0.5,
        margin: float = 0.1,
        patience: int = 2,
    ) -> None:
        if not candidates or not 0 < smoothing <= 1 or not 0 <= margin < 1 or patience < 1:
            raise IovtError(
                "A dynamic split cannot be set up like this",
                seen=f"{len(candidates)} cuts, smoothing {smoothing}, margin {margin}, "
                f"patience {patience}",
            )
        self.candidates = tuple(candidates)
        self.current = min(self.candidates, key=lambda c: (c.nbytes, c.before_s + c.after_s))
        self.bytes_per_s: float | None = None
        self.switches = 0
        self._smoothing = smoothing
        self._margin = margin
        self._patience = patience
        self._better = 0

    def observe(self, bytes_per_s: float) -> Candidate:
        """Take what a transfer achieved; returns the cut for the next frame.

        Raises:
            IovtError: The rate is negative or not finite.
        """
        if not 0 <= bytes_per_s < math.inf:
            raise IovtError("An observed bandwidth is not valid", seen=f"{bytes_per_s} bytes/s")
        if self.bytes_per_s is None:
            self.bytes_per_s = bytes_per_s
            self.current = self._best(bytes_per_s)
            return self.current
        self.bytes_per_s += self._smoothing * (bytes_per_s - self.bytes_per_s)
        best = self._best(self.bytes_per_s)
        here_s, there_s = (c.latency_s(self.bytes_per_s) for c in (self.current, best))
        self._better = self._better + 1 if there_s < here_s * (1 - self._margin) else 0
        if self._better >= self._patience:
            self.current = best
            self.switches += 1
            self._better = 0
        return self.current

    def _best(self, bytes_per_s: float) -> Candidate:
        return min(self.candidates, key=lambda c: (c.latency_s(bytes_per_s), c.nbytes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Latencies that frames would have had over a trace.

    Attributes:
        candidates: The cuts.
        chosen: Position of the policy's cut, for each frame.
        dynamic_s: Latency of each frame with the policy.
        fixed_s: The same with each candidate always, `fixed_s[candidate][frame]`.
        oracle_s: The same with the best candidate for each frame, which only hindsight knows.
        switches: Of the policy.
    """

    candidates: tuple[Candidate, ...]
    chosen: tuple[int, ...]
    dynamic_s: tuple[float, ...]
    fixed_s: tuple[tuple[float, ...], ...]
    oracle_s: tuple[float, ...]
    switches: int

    @property
    def best_fixed(self) -> int:
        """Index of the candidate of the least mean latency."""
        sums = [sum(latencies) for latencies in self.fixed_s]
        return sums.index(min(sums))


def replay(
    trace: BandwidthTrace,
    policy: SplitPolicy,
    *,
    frame_interval_s: float,
    frames: int | None = None,
) -> Replay:
    """Run frames over a trace, with a policy and with every fixed cut.

    Frames come at equal intervals; each has both devices and the link for itself, so policies are
    compared frame by frame over the same link. A frame's transfer is observed before the next one
    comes; beside a frame that sends nothing, `PROBE_BYTES` are sent.

    Args:
        trace: Of the link.
        policy: A fresh one; it is changed.
        frame_interval_s: Between two frames.
        frames: How many; by default as many as come before the trace's last value.

    Raises:
        IovtError: The interval is not positive, or there are no frames.
    """
    if not 0 < frame_interval_s < math.inf:
        raise IovtError("Frames need an interval", seen=f"{frame_interval_s} s")
    if frames is None:
        frames = int(trace.end_s / frame_interval_s) + 1
    if frames < 1:
        raise IovtError("There are no frames to replay", seen=f"{frames}")
    times = tuple(i * frame_interval_s for i in range(frames))
    index = {candidate: i for i, candidate in enumerate(policy.candidates)}
    fixed = [[_latency_s(trace, c, time) for time in times] for c in policy.candidates]
    chosen, dynamic = [], []
    for i, time in enumerate(times):
        cut = policy.current
        chosen.append(cut.position)
        dynamic.append(fixed[index[cut]][i])
        begin_s = time + cut.before_s if cut.nbytes else time
        sent = cut.nbytes or PROBE_BYTES
        policy.observe(sent / trace.transfer_s(begin_s, sent))
    return Replay(
        candidates=policy.candidates,
        chosen=tuple(chosen),
        dynamic_s=tuple(dynamic),
        fixed_s=tuple(map(tuple, fixed)),
        oracle_s=tuple(map(min, zip(*fixed, strict=True))),
        switches=policy.switches,
    )


def _latency_s(trace: BandwidthTrace, candidate: Candidate, time_s: float) -> float:
    begin_s = time_s + candidate.before_s
    return candidate.before_s + trace.transfer_s(begin_s, candidate.nbytes) + candidate.after_s
