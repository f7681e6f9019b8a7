"""Kernels timed where they count: inside the network, between the kernels before and after them.

What is fastest alone finds its inputs elsewhere in a network, and leaves its result to another
kernel's threads; small gains often vanish. All variants of all kernels are built once, into one
library, and take turns.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_iovt import _tvm
from tvm_iovt.build.stage import build_executable
from tvm_iovt.errors import NumericsError
from tvm_iovt.tuning.network_variants import Variant, entry, kernel_of, with_variants
from tvm_iovt.types import TargetSpec

BUDGET_S = 6.0
"""Seconds to time all variants of a network for."""

MIN_ROUNDS, MAX_ROUNDS = 15, 4000

LEAST_GAIN = 0.003
"""Two builds of the same kernels differ by as much, from where their code and buffers lie."""

MAX_DEVIATION = 1e-3
"""Largest difference of a variant's outputs, relative to the largest of that output: schedules only
change the order of sums, and each was checked alone."""

_WARMUP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTime:
    """A kernel inside a network.

    Attributes:
        median_s: Seconds of all its calls in one run of the network.
        spread_s: Half of the notch of a box plot, see `kernel_timing.Timing`.
    """

    median_s: float
    spread_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two variants of a network, timed in turns.

    Attributes:
        before_s: Median seconds of a run of the first.
        after_s: Of the second.
        ratio: Median of `after / before` over pairs of neighbouring runs.
        noise: Half-width of the band of that median (notch of a box plot).
    """

    before_s: float
    after_s: float
    ratio: float
    noise: float

    @property
    def is_gain(self) -> bool:
        """Whether the second is faster by more than the noise."""
        return self.ratio < 1 - max(self.noise, LEAST_GAIN)


class VariantNetwork:
    """Variants of a network, built for this machine and ready to run.

    Args:
        network: Module whose `main` calls scheduled PrimFuncs.
        variants: See `with_variants`.
        spec: This machine's CPU, or its GPU.
        inputs: Of `main`, in order.
    """

    def __init__(
        self,
        network: Any,
        variants: Sequence[Variant],
        spec: TargetSpec,
        inputs: Sequence[np.ndarray],
    ) -> None:
        target = _tvm.tvm_target(spec)
        with target:
            executable = build_executable(with_variants(network, variants), spec, target)
        device = _tvm.tvm.device("cpu" if spec.gpu is None else spec.gpu.kind, 0)
        self._device = device
        self._machine = _tvm.relax.VirtualMachine(executable, device)
        self._inputs = [_tvm.tvm.runtime.tensor(value, device) for value in inputs]
        self._count = len(variants)
        self._entries = [self._machine[entry(i)] for i in range(self._count)]

    def check(self) -> tuple[int, ...]:
        """Run every variant once; returns those whose outputs differ from the first one's.

        Raises:
            NumericsError: The first variant gives NaN or infinity.
        """
        reference = self._outputs(0)
        if not all(np.isfinite(value).all() for value in reference if value.dtype.kind == "f"):
            raise NumericsError(
                "The untuned network gives NaN or infinity for random inputs",
                seen="its outputs, before anything was tuned",
                do="check the model with `tvm-iovt compile MODEL --sample FILE.npz`",
            )
        return tuple(i for i in range(1, self._count) if not are_alike(self._outputs(i), reference))

    def kernels(self, budget_s: float = BUDGET_S) -> tuple[Mapping[str, KernelTime], ...]:
        """Times of the network's functions in each variant, by name."""
        samples: list[dict[str, list[float]]] = [defaultdict(list) for _ in range(self._count)]
        clock = _Stopwatch()
        self._machine.set_instrument(clock.tick)
        for index in self._turns(budget_s):
            clock.spent_s.clear()
            self._entries[index](*self._inputs)
            for symbol, spent_s in clock.spent_s.items():
                samples[index][kernel_of(symbol)].append(spent_s)
        self._machine.set_instrument(None)
        return tuple({name: _time(values) for name, values in found.items()} for found in samples)

    def compare(self, before: int, after: int, budget_s: float = BUDGET_S) -> Comparison:
        """Two variants as a whole."""
        pairs: list[list[float]] = [[], []]
        both = (before, after)
        for which in self._turns(budget_s, both):
            began_s = time.perf_counter()
            self._entries[both[which]](*self._inputs)
            self._device.sync()
            pairs[which].append(time.perf_counter() - began_s)
        return comparison(*pairs)

    def _turns(self, budget_s: float, entries: Sequence[int] | None = None) -> Any:
        """Indices into `entries` (default: all), in turns, until the budget is spent."""
        entries = range(self._count) if entries is None else entries
        for index in entries:
            for _ in range(_WARMUP):
                self._entries[index](*self._inputs)
        began_s = time.monotonic()
        rounds = 0
        while rounds < MIN_ROUNDS or (
            rounds < MAX_ROUNDS and time.monotonic() - began_s < budget_s
        ):
            for turn in range(len(entries)):
                yield (rounds + turn) % len(entries)
            rounds += 1

    def _outputs(self, index: int) -> list[np.ndarray]:
        result = self._entries[index](*self._inputs)
        values = result if hasattr(result, "__len__") and not hasattr(result, "numpy") else [result]
        return [value.numpy() for value in values]


def comparison(before_s: Sequence[float], after_s: Sequence[float]) -> Comparison:
    """Compare runs that took turns, pair by pair.

    Args:
        before_s: Seconds of runs.
        after_s: Seconds of as many runs of another variant.
    """
    ratios = [b / a for a, b in zip(before_s, after_s, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Comparison(
        ratio=middle,
        before_s=statistics.median(before_s),
        after_s=statistics.median(after_s),
        noise=1.57 * (high - low) / math.sqrt(len(ratios)),
    )


class _Stopwatch:
    """Instrument of TVM's virtual machine: seconds of each kernel, calls added up."""

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = defaultdict(float)
        self._began_s = 0.0

    def tick(self, _function: Any, name: str, before: bool, _result: Any, *_arguments: Any) -> None:
        if before:
            self._began_s = time.perf_counter()
        else:
            self.spent_s[str(name)] += time.perf_counter() - self._began_s


def _time(samples: Sequence[float]) -> KernelTime:
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return KernelTime(median_s=middle, spread_s=1.57 * (high - low) / math.sqrt(len(samples)))


def are_alike(outputs: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> bool:
    """Whether outputs are those of another schedule of the same network, see `MAX_DEVIATION`."""
    for output, wanted in zip(outputs, reference, strict=True):
        if wanted.dtype.kind != "f":
            if not np.array_equal(output, wanted):
                return False
            continue
        largest = float(np.abs(wanted).max(initial=0.0))
        difference = float(np.abs(output.astype(np.float64) - wanted).max(initial=0.0))
        if not difference <= MAX_DEVIATION * max(largest, 1e-6):
            return False
    return True
