"""When to go on with another of the prepared cuts, because devices or links are not as planned.

A plan rests on predicted times. While frames pass, the monitor keeps moving averages of what the
stages and transfers take, and of how much they vary. Where one leaves the band in which its
prediction is known and stays outside, the predictions of every prepared cut are scaled with what
was observed of the same devices and links, and the best one is proposed, if the current cut has had
its time and the other one was better throughout by more than a margin, more than the averages are
known to, and more than what handing frames from stage to stage costs anyway. It only computes: no
threads, no clock; how long something lasts it takes from the observed times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tvm_iovt.errors import UsageError
from tvm_iovt.runtime.timeline_recorder import StageTimes
from tvm_iovt.types import PartitionPlan

HOME = ""
"""The caller's place, as the end of a link."""

# A single sample counts as this many times the average at most: one hiccup is no drift.
_OUTLIER = 3.0
# Of a frame's predicted time: differences of that size between tiny times say nothing.
_SMALL = 0.02
# From the mean absolute deviation of a normal distribution to its standard deviation.
_NORMAL = math.sqrt(math.pi / 2)

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
                Part(key=(stage.target,), predicted_s=predicted.kernels_s)
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
        floor_s: Differences up to that say nothing, whatever they are relative to the prediction:
            threads that wake each other, and a system that has other things to do, are not drift.
        deviations: Of an average: differences up to so many are noise.
        patience: Frames that an average must be outside of the band, and another cut be better,
            one after the other.
        patience_s: Seconds of the same: of frames of less than a millisecond a few are over before
            the system has given the CPU back.
        margin: Least relative gain for a switch.
        dwell_frames: Least number of frames between two switches.
        dwell_s: Least number of seconds between them.
        warmup_frames: Frames after a start that do not count.
        half_life_frames: Frames in which what is remembered of an unused device or link fades by
            half, so that it gets another chance; twice as many after each time that it was left
            because of its drift.
        half_life_s: Seconds that this takes at least.
    """

    ema_weight: float = 0.1
    band: float = 0.05
    floor_s: float = 100e-6
    deviations: float = 3.0
    patience: int = 10
    patience_s: float = 0.2
    margin: float = 0.1
    dwell_frames: int = 50
    dwell_s: float = 0.5
    warmup_frames: int = 3
    half_life_frames: float = 2000.0
    half_life_s: float = 5.0


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
    age_s: float = 0.0
    half_lives: float = 1.0

    def grow_older(self, seconds: float) -> None:
        self.age_frames += 1
        self.age_s += seconds

    def now(self, settings: DriftSettings) -> float:
        """The ratio, faded."""
        ages = (self.age_frames / settings.half_life_frames, self.age_s / settings.half_life_s)
        return 1.0 + (self.ratio - 1.0) * math.pow(0.5, min(ages) / self.half_lives)


@dataclass(slots=True)
class _Streak:
    """For how long something has been the case without a break."""

    frames: int = 0
    seconds: float = 0.0

    def note(self, holds: bool, seconds: float) -> None:
        self.frames, self.seconds = (self.frames + 1, self.seconds + seconds) if holds else (0, 0.0)

    def is_long(self, settings: DriftSettings) -> bool:
        return self.frames >= settings.patience and self.seconds >= settings.patience_s


@dataclass(slots=True)
class _Average:
    """Of a part of the current cut."""

    ema_s: float = 0.0
    deviation_s: float = 0.0
    samples: int = 0
    outside: _Streak = field(default_factory=_Streak)

    def add(self, measured_s: float, weight: float) -> float:
        """Count a frame; the first ones weigh equally, as none of them is known to be usual."""
        self.samples += 1
        if self.samples == 1:
            self.ema_s = measured_s
            return self.ema_s
        weight = max(weight, 1 / self.samples)
        difference_s = min(measured_s, _OUTLIER * self.ema_s) - self.ema_s
        self.deviation_s += weight * (abs(difference_s) - self.deviation_s)
        self.ema_s += weight * difference_s
        return self.ema_s

    def noise_s(self, weight: float) -> float:
        """Standard deviation of the average, were the frames' times independent and normal."""
        weight = max(weight, 1 / max(self.samples, 1))
        return _NORMAL * self.deviation_s * math.sqrt(weight / (2 - weight))


@dataclass(slots=True)
class _Watch:
    """The averages of the current cut."""

    averages: list[_Average]
    frames: int = 0
    seconds: float = 0.0
    drifted: list[int] = field(default_factory=list)
    better: int | None = None
    is_better: _Streak = field(default_factory=_Streak)


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
        settings, watch = self._settings, self._watch
        measured_s = _measured_s(stages)
        # At least so long ago the frame before came: the parts of a pipeline overlap.
        seconds = sum(measured_s) if self._objective == "latency" else max(measured_s)
        watch.frames += 1
        watch.seconds += seconds
        for memory in self._memory.values():
            memory.grow_older(seconds)
        if watch.frames <= settings.warmup_frames:
            return None
        self._average(measured_s, seconds)
        proposal = self._proposal() if watch.drifted or self._moved else None
        better = proposal.cut if proposal is not None else None
        if better != watch.better:
            watch.better, watch.is_better = better, _Streak()
        watch.is_better.note(better is not None, seconds)
        if watch.frames < settings.dwell_frames or watch.seconds < settings.dwell_s:
            return None
        return proposal if watch.is_better.is_long(settings) else None

    def switched(self, cut: int) -> None:
        """The frames from now on pass through another cut."""
        for i in self._watch.drifted:
            self._memory[self.cuts[self._current].parts[i].key].half_lives *= 2
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

    def _average(self, times_s: Sequence[float], seconds: float) -> None:
        cut, watch, settings = self.cuts[self._current], self._watch, self._settings
        whole_s = self._predicted_s(self._current)
        band = max(settings.band, cut.noise)
        watch.drifted = []
        pairs = zip(cut.parts, watch.averages, times_s, strict=True)
        for i, (part, average, measured_s) in enumerate(pairs):
            difference_s = average.add(measured_s, settings.ema_weight) - part.predicted_s
            band_s = max(
                band * max(part.predicted_s, whole_s), settings.floor_s, self._noise_s(average)
            )
            average.outside.note(abs(difference_s) > band_s, seconds)
            if average.outside.is_long(settings):
                watch.drifted.append(i)
            small_s = _SMALL * whole_s
            # A transfer of nothing to speak of may take many times as long: no link is that slow.
            says_nothing = not whole_s or abs(difference_s) <= settings.floor_s
            ratio = 1.0 if says_nothing else 1.0 + difference_s / (part.predicted_s + small_s)
            memory = self._memory.setdefault(part.key, _Memory(ratio))
            memory.ratio, memory.age_frames, memory.age_s = ratio, 0, 0.0

    def _noise_s(self, average: _Average) -> float:
        return self._settings.deviations * average.noise_s(self._settings.ema_weight)

    def _ratio(self, key: Key) -> float:
        memory = self._memory.get(key)
        return memory.now(self._settings) if memory is not None else 1.0

    def _predicted_s(self, cut: int) -> float:
        found = self.cuts[cut]
        return found.latency_s if self._objective == "latency" else found.period_s

    def _proposal(self) -> Proposal | None:
        usable = [i for i in range(len(self.cuts)) if i not in self._unusable]
        estimates_s = {i: self.estimate_s(i) for i in {*usable, self._current}}
        best = min(estimates_s, key=lambda i: estimates_s[i])
        current_s, best_s = estimates_s[self._current], estimates_s[best]
        least_gain_s = max(
            self._settings.margin * current_s,
            self._settings.floor_s,
            *map(self._noise_s, self._watch.averages),
        )
        if best == self._current or best_s >= current_s - least_gain_s:
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
            yield (
                f"{part} takes {average.ema_s * 1e3:.3g} ms instead of "
                f"{part.predicted_s * 1e3:.3g} ms for {average.outside.frames} frames"
            )


def _measured_s(stages: Sequence[StageTimes]) -> list[float]:
    """In the order of `PreparedCut.parts`; one stage sends a transfer, the next one receives it."""
    sent_s = [0.0, *(stage.send_s for stage in stages)]
    received_s = [*(stage.receive_s for stage in stages), 0.0]
    return [
        *(stage.compute_s for stage in stages),
        *(sent + received for sent, received in zip(sent_s, received_s, strict=True)),
    ]
