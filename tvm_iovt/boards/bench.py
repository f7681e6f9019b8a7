"""Measure bundles on a board or on this machine, in turns, so that they can be compared.

Whatever slows a machine down for a while (heat, other programs) hits all of them alike, as each
round times a block of every bundle; ratios are taken within rounds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from tvm_iovt import bundle as bundles
from tvm_iovt.boards.condition import Condition
from tvm_iovt.discrepancy import compare
from tvm_iovt.errors import NumericsError, UsageError
from tvm_iovt.types import Discrepancy, Manifest, Measurement

ROUNDS = 10
"""Rounds that the samples are spread over."""

_BLOCK_SHARE = 0.25  # of a step's time limit that one block may take

Arrays = Mapping[str, np.ndarray]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """How to measure.

    Attributes:
        warmup: Runs of each bundle before the first measured one.
        repeat: Samples of each scope.
        number: Inferences that a sample of the scope `device` is the average of.
        timeout_s: Longest time of one step.
    """

    warmup: int = 3
    repeat: int = 30
    number: int = 1
    timeout_s: float = 60.0

    def check(self) -> None:
        """Refuse numbers that nothing can be measured with.

        Raises:
            UsageError: One is too small.
        """
        if self.warmup < 0 or self.repeat < 1 or self.number < 1 or not self.timeout_s > 0:
            raise UsageError(
                "There must be something to measure, and time for it",
                seen=f"warmup {self.warmup}, repeat {self.repeat}, number {self.number}, "
                f"timeout {self.timeout_s:g} s",
                do="repeat and number are at least 1, warmup at least 0, the timeout positive",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """The time of a bundle by that of the first one.

    Attributes:
        median: Of the ratios within rounds; below 1 is faster than the first.
        low: Lower end of the noise band, `median - 1.57 IQR / sqrt(rounds)` (McGill et al., doi
            10.1080/00031305.1978.10479236).
        high: Upper end. A band that contains 1 shows no difference.
    """

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleTiming:
    """One bundle.

    Attributes:
        bundle: Its path.
        deployment: What of it ran.
        discrepancy: Of its outputs on the sample; None if the bundle has no reference.
        device: Latency on the device, copies excluded.
        end_to_end: Latency from arrays here to arrays here, over the network if it is a board.
        device_ratio: Against the first bundle; None for the first itself.
        end_to_end_ratio: Likewise.
    """

    bundle: str
    deployment: str
    discrepancy: Discrepancy | None
    device: Measurement
    end_to_end: Measurement
    device_ratio: Ratio | None = None
    end_to_end_ratio: Ratio | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """All bundles, on one machine.

    Attributes:
        where: The machine, in words.
        board: Name of the board; empty for this machine.
        before: Its condition before; None if it does not tell.
        after: Its condition after.
        timings: In the order of the bundles.
    """

    SCHEMA: ClassVar[str] = "tvm-iovt/bench/1"

    where: str
    board: str
    before: Condition | None
    after: Condition | None
    timings: tuple[BundleTiming, ...]


class Contestant(Protocol):
    """A loaded bundle that can be run and timed."""

    @property
    def bundle(self) -> Path:
        """Where it is."""
        ...

    @property
    def deployment(self) -> str:
        """What of it runs."""
        ...

    @property
    def manifest(self) -> Manifest:
        """Its manifest."""
        ...

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """The outputs."""
        ...

    def device_s(self, inputs: Arrays, number: int, repeat: int) -> Sequence[float]:
        """`repeat` samples of the scope `device`, each the average of `number` inferences."""
        ...

    def end_to_end_s(self, inputs: Arrays, repeat: int) -> Sequence[float]:
        """`repeat` samples of the scope `end_to_end`."""
        ...


def measure(
    contestants: Sequence[Contestant],
    options: BenchOptions,
    *,
    environment: str,
    progress: Progress = lambda message: None,
) -> tuple[BundleTiming, ...]:
    """Check and time loaded bundles, block by block.

    Raises:
        NumericsError: One computes its own sample wrongly.
        DeviceError: The device failed.
    """
    inputs, checks = [], []
    for contestant in contestants:
        progress(f"checking {contestant.bundle}")
        sample, found = _check(contestant)
        inputs.append(sample)
        checks.append(found)
        for _ in range(options.warmup):
            contestant.run(sample)
    sizes = _blocks(contestants, inputs, options)
    device: list[list[list[float]]] = [[] for _ in contestants]
    end_to_end: list[list[list[float]]] = [[] for _ in contestants]
    for turn, size in enumerate(sizes):
        progress(f"round {turn + 1} of {len(sizes)}")
        for i in range(len(contestants)):
            which = (turn + i) % len(contestants)
            contestant, sample = contestants[which], inputs[which]
            device[which].append(list(contestant.device_s(sample, options.number, size)))
            end_to_end[which].append(list(contestant.end_to_end_s(sample, size)))
    return tuple(
        BundleTiming(
            bundle=str(contestant.bundle),
            deployment=contestant.deployment,
            discrepancy=checks[i],
            device=_measurement(device[i], "device", options, environment),
            end_to_end=_measurement(end_to_end[i], "end_to_end", options, environment),
            device_ratio=ratio(device[i], device[0]) if i else None,
            end_to_end_ratio=ratio(end_to_end[i], end_to_end[0]) if i else None,
        )
        for i, contestant in enumerate(contestants)
    )


def ratio(blocks: Sequence[Sequence[float]], first: Sequence[Sequence[float]]) -> Ratio:
    """The time of one bundle by that of another, from the blocks of the same rounds."""
    ratios = [
        statistics.median(a) / statistics.median(b) for a, b in zip(blocks, first, strict=True)
    ]
    low, median, high = np.percentile(ratios, (25, 50, 75))
    band = 1.57 * (high - low) / math.sqrt(len(ratios))
    return Ratio(median=float(median), low=float(median - band), high=float(median + band))


def _check(contestant: Contestant) -> tuple[Arrays, Discrepancy | None]:
    """The sample's inputs, and how far the outputs are from its expected ones."""
    manifest = contestant.manifest
    inputs, expected = bundles.load_sample(contestant.bundle, manifest.sample.file)
    outputs = contestant.run(inputs)
    if not manifest.reference:
        return inputs, None
    found = compare(outputs, expected, tolerance=manifest.tolerance, reference=manifest.reference)
    if not found.passed:
        worst = found.worst
        raise NumericsError(
            f"{contestant.bundle} computes its own sample wrongly there",
            seen=f"output {worst.name}: {worst.violations} of {worst.elements} elements outside of "
            f"{manifest.tolerance}, largest difference {worst.max_abs:.3g}",
            do="run `tvm-iovt verify` on the device, and compile the model again",
        )
    return inputs, found


def _blocks(
    contestants: Sequence[Contestant], inputs: Sequence[Arrays], options: BenchOptions
) -> list[int]:
    """Samples in each round: few enough that a block stays well below the limit of a step."""
    slowest_s = max(
        max(c.device_s(i, 1, 1)[0] * options.number, c.end_to_end_s(i, 1)[0])
        for c, i in zip(contestants, inputs, strict=True)
    )
    most = max(1, int(options.timeout_s * _BLOCK_SHARE / max(slowest_s, 1e-9)))
    size = min(math.ceil(options.repeat / ROUNDS), most)
    full, rest = divmod(options.repeat, size)
    return [size] * full + ([rest] if rest else [])


def _measurement(
    blocks: Sequence[Sequence[float]], scope: str, options: BenchOptions, environment: str
) -> Measurement:
    samples = [sample for block in blocks for sample in block]
    p10, median, p90 = np.percentile(samples, (10, 50, 90))
    return Measurement(
        median_s=float(median),
        p10_s=float(p10),
        p90_s=float(p90),
        samples=len(samples),
        scope=scope,
        warmup=options.warmup,
        environment=environment,
    )
