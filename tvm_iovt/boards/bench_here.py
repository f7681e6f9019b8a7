"""Bundles on this machine, as contestants of a bench."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tvm_iovt import runtime
from tvm_iovt.boards.bench import Arrays, Bench, BenchOptions, Progress, measure
from tvm_iovt.boards.condition import read_condition
from tvm_iovt.runtime.machine import environment
from tvm_iovt.types import Manifest


class LocalContestant:
    """A bundle that runs in this process, as the product would run it."""

    def __init__(self, path: Path, target: str | None, threads: int | None) -> None:
        self.bundle = path
        self._executor = runtime.load(path, target=target, threads=threads)

    @property
    def deployment(self) -> str:
        """What of it runs."""
        return self._executor.deployment.name

    @property
    def manifest(self) -> Manifest:
        """Its manifest."""
        return self._executor.manifest

    @property
    def threads(self) -> int:
        """Worker threads of the process."""
        return self._executor.threads

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """The outputs."""
        return self._executor.run(inputs)

    def device_s(self, inputs: Arrays, number: int, repeat: int) -> Sequence[float]:
        """Samples of the scope `device`."""
        every = self._executor.latencies_s(inputs, scope="device", repeat=number * repeat)
        return [statistics.mean(every[i : i + number]) for i in range(0, len(every), number)]

    def end_to_end_s(self, inputs: Arrays, repeat: int) -> Sequence[float]:
        """Samples of the scope `end_to_end`."""
        return self._executor.latencies_s(inputs, scope="end_to_end", repeat=repeat)


def bench_here(
    paths: Sequence[Path],
    options: BenchOptions,
    *,
    target: str | None = None,
    threads: int | None = None,
    progress: Progress = lambda message: None,
) -> Bench:
    """Measure bundles on this machine.

    Raises:
        BundleError: One is damaged, or not for this machine.
        NumericsError: One computes its own sample wrongly.
        DeviceError: One failed while running.
        UsageError: A number is wrong.
    """
    options.check()
    contestants = [LocalContestant(path, target, threads) for path in paths]
    where = environment(contestants[0].threads)
    before = read_condition()
    timings = measure(contestants, options, environment=where, progress=progress)
    return Bench(where=where, board="", before=before, after=read_condition(), timings=timings)
