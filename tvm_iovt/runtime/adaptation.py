"""When to go on with another of the prepared cuts, because devices or links are not as planned.

A plan rests on predicted times. While frames pass, the monitor keeps moving averages of what the
stages and transfers take. Where one leaves the band in which its prediction is known and stays
outside, the predictions of every prepared cut are scaled with what was observed of the same
devices and links, and the best one is proposed, if it is better by a margin and the current cut
has had its time. It only computes: no threads, no clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tvm_iovt.errors import UsageError
from tvm_iovt.runtime.timeline_recorder import EMA_WEIGHT, StageTimes
from tvm_iovt.types import PartitionPlan

HOME = ""
"""The caller's place, as the end of a link."""

# A single sample counts as this many times the average at most: one hiccup is no drift.
_OUTLIER = 3.0
# Of a frame's predicted time: differences of that size between tiny times say nothing.
_SMALL = 0.02

Key = tuple[str, ...]
"""A device `(target,)`, or a link `(source, destination)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A predicted piece of a cut: a stage's kernels, or a transfer.

    Attributes:
        key: The device or link.
        predicted_s: Seconds for a frame.
    """

    key: Key
    predicted_s: float

    def __str__(self) -> str:
        if len(self.key) == 1:
            return f"computing on {self.key[0]}"
        source, destination = (place or "the caller" for place in self.key)
        return f"moving tensors from {source} to {destination}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedCut:
    """A way to run the network that needs no compilation any more.

    Attributes:
        name: For messages.
        compute: One part for each stage.
        transfers: To each stage, and from the last one to the caller.
        latency_s: Predicted, of one frame.
        period_s: Predicted, between two frames.
        noise: Relative half-width of the band that the predictions are known to.
    """

    name: str
    compute: tuple[Part, ...]
    transfers: tuple[Part, ...]
    latency_s: float
    period_s: float
    noise: float = 0.0

    @classmethod
    def of(cls, name: str, plan: PartitionPlan) -> PreparedCut:
        """From a deployment's plan.

        Raises:
            UsageError: The plan has no prediction.
        """
        prediction = plan.prediction
        if prediction is None or len(prediction.stages) != len(plan.stages):
            raise UsageError(
                f"{name} cannot take part in the adaptation",
                seen="its plan has no prediction",
                do="compile the model with a planned cut (--objective), not with stated ones",
            )
        places = [HOME, *(stage.target for stage in plan.stages), HOME]
        moved_s = [stage.receive_s for stage in prediction.stages] + [prediction.stages[-1].send_s]
        return cls(
            name=name,
            compute=tuple(
                Part(key=(stage.target,), predicted_s=predicted.compute_s)
                for stage, predicted in zip(plan.stages, prediction.stages, strict=True)
            ),
            transfers=tuple(
                Part(key=tuple(places[i : i + 2]), predicted_s=time_s)
                for i, time_s in enumerate(moved_s)
            ),
            latency_s=prediction.latency_s,
            period_s=prediction.period_s,
            noise=prediction.noise,
        )

    @property
    def parts(self) -> tuple[Part, ...]:
        """Computation and transfers."""
        return self.compute + self.transfers


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftSettings:
    """How soon the monitor believes in a change.

    Attributes:
        ema_weight: Of the newest frame in the averages.
        band: Least relative half-width of the band; that of the prediction counts if it is wider.
        patience: Frames that an average must be outside of it, one after the other.
        margin: Least relative gain for a switch.
        dwell_frames: Least number of frames between two switches.
        warmup_frames: Frames after a start that do not count.
        half_life_frames: Frames in which what is remembered of an unused device or link fades by
            half, so that it gets another chance; twice as many after each time that it was left
            because of its drift.
    """

    ema_weight: float = EMA_WEIGHT
    band: float = 0.05
    patience: int = 10
    margin: float = 0.1
    dwell_frames: int = 50
    warmup_frames: int = 3
    half_life_frames: float = 2000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Another cut is better now.

    Attributes:
        cut: Its index.
        name: Its name.
        expected_s: Estimated period (or latency) of it.
        current_s: The same of the current cut.
        reason: In a sentence.
    """

    cut: int
    name: str
    expected_s: float
    current_s: float
    reason: str


@dataclass(slots=True)
class _Memory:
    """What was seen of a device or link: its ratio to the prediction."""

    ratio: float
    age_frames: int = 0
    half_life_frames: float = 0.0


@dataclass(slots=True)
class _Average:
    """Of a part of the current cut."""

    ema_s: float | None = None
    outside: int = 0

    def add(self, measured_s: float, weight: float) -> float:
        if self.ema_s is None:
            self.ema_s = measured_s
        else:
            self.ema_s += weight * (min(measured_s, _OUTLIER * self.ema_s) - self.ema_s)
        return self.ema_s


@dataclass(slots=True)
class _Watch:
    """The averages of the current cut."""

    averages: list[_Average]
    frames: int = 0
    drifted: list[int] = field(default_factory=list)


class Drift:
    """Watches a pipeline's times and proposes switches.

    Args:
        cuts: All that could be used.
        current: Index of the one that runs.
        objective: `throughput` compares periods, `latency` latencies.
        settings: See there.

    Raises:
        UsageError: There is no such cut, or the objective is another one.
    """

    def __init__(
        self,
        cuts: Sequence[PreparedCut],
        current: int = 0,
        *,
        objective: str = "throughput",
        settings: DriftSettings | None = None,
    ) -> None:
        if not 0 <= current < len(cuts) or objective not in ("throughput", "latency"):
            raise UsageError(
                "The adaptation cannot start", seen=f"cut {current} of {len(cuts)}, {objective}"
            )
        self.cuts = tuple(cuts)
        self._objective = objective
        self._settings = settings or DriftSettings()
        self._memory: dict[Key, _Memory] = {}
        self._unusable: set[int] = set()
        self._moved = False
        self._start(current)

    @property
    def current(self) -> int:
        """Index of the cut that runs."""
        return self._current

    def observe(self, stages: Sequence[StageTimes]) -> Proposal | None:
        """Note what the stages of the current cut needed for a frame.

        Returns:
            A better cut, if there is reason to switch to it. It is proposed again with each
            frame until `switched` or `exclude` is called.
        """
        self._watch.frames += 1
        for memory in self._memory.values():
            memory.age_frames += 1
        if self._watch.frames <= self._settings.warmup_frames:
            return None
        self._average(stages)
        if self._watch.frames < self._settings.dwell_frames:
            return None
        if not self._watch.drifted and not self._moved:
            return None
        return self._proposal()

    def switched(self, cut: int) -> None:
        """The frames from now on pass through another cut."""
        for i in self._watch.drifted:
            self._memory[self.cuts[self._current].parts[i].key].half_life_frames *= 2
        self._moved = True
        self._start(cut)

    def exclude(self, cut: int) -> None:
        """Never propose a cut again: it could not be started."""
        self._unusable.add(cut)

    def estimate_s(self, cut: int) -> float:
        """Period (or latency) that a cut would have now."""
        found = self.cuts[cut]
        scaled_s = [part.predicted_s * self._ratio(part.key) for part in found.parts]
        predicted_s = [part.predicted_s for part in found.parts]
        if self._objective == "latency":
            return found.latency_s + sum(scaled_s) - sum(predicted_s)
        # The slowest part sets the period, with what the planner added to it.
        return found.period_s * max(scaled_s) / max(predicted_s) if max(predicted_s) else 0.0

    def _start(self, current: int) -> None:
        self._current = current
        self._watch = _Watch([_Average() for _ in self.cuts[current].parts])

    def _average(self, stages: Sequence[StageTimes]) -> None:
        cut, watch = self.cuts[self._current], self._watch
        whole_s = self._predicted_s(self._current)
        band = max(self._settings.band, cut.noise)
        watch.drifted = []
        pairs = zip(cut.parts, watch.averages, _measured_s(stages), strict=True)
        for i, (part, average, measured_s) in enumerate(pairs):
            ema_s = average.add(measured_s, self._settings.ema_weight)
            outside = abs(ema_s - part.predicted_s) > band * max(part.predicted_s, whole_s)
            average.outside = average.outside + 1 if outside else 0
            if average.outside >= self._settings.patience:
                watch.drifted.append(i)
            small_s = _SMALL * whole_s
            ratio = (ema_s + small_s) / (part.predicted_s + small_s) if whole_s else 1.0
            memory = self._memory.setdefault(
                part.key, _Memory(ratio, half_life_frames=self._settings.half_life_frames)
            )
            memory.ratio, memory.age_frames = ratio, 0

    def _ratio(self, key: Key) -> float:
        memory = self._memory.get(key)
        if memory is None:
            return 1.0
        faded = math.pow(0.5, memory.age_frames / memory.half_life_frames)
        return 1.0 + (memory.ratio - 1.0) * faded

    def _predicted_s(self, cut: int) -> float:
        found = self.cuts[cut]
        return found.latency_s if self._objective == "latency" else found.period_s

    def _proposal(self) -> Proposal | None:
        usable = [i for i in range(len(self.cuts)) if i not in self._unusable]
        estimates_s = {i: self.estimate_s(i) for i in {*usable, self._current}}
        best = min(estimates_s, key=lambda i: estimates_s[i])
        current_s, best_s = estimates_s[self._current], estimates_s[best]
        if best == self._current or best_s >= current_s * (1 - self._settings.margin):
            return None
        return Proposal(
            cut=best,
            name=self.cuts[best].name,
            expected_s=best_s,
            current_s=current_s,
            reason=self._reason(best, best_s, current_s),
        )

    def _reason(self, best: int, best_s: float, current_s: float) -> str:
        what = "a frame takes" if self._objective == "latency" else "there is a frame every"
        return (
            f"{'; '.join(self._causes()) or 'devices that were left may have recovered'}: with "
            f"{self.cuts[self._current].name} {what} {current_s * 1e3:.3g} ms, "
            f"{self.cuts[best].name} should need {best_s * 1e3:.3g} ms"
        )

    def _causes(self) -> Iterator[str]:
        for i in self._watch.drifted:
            part, average = self.cuts[self._current].parts[i], self._watch.averages[i]
            if average.ema_s is not None:
                yield (
                    f"{part} takes {average.ema_s * 1e3:.3g} ms instead of "
                    f"{part.predicted_s * 1e3:.3g} ms for {average.outside} frames"
                )


def _measured_s(stages: Sequence[StageTimes]) -> list[float]:
    """In the order of `PreparedCut.parts`; one stage sends a transfer, the next one receives it."""
    sent_s = [0.0, *(stage.send_s for stage in stages)]
    received_s = [*(stage.receive_s for stage in stages), 0.0]
    return [
        *(stage.compute_s for stage in stages),
        *(sent + received for sent, received in zip(sent_s, received_s, strict=True)),
    ]
