"""Kernels timed one by one inside of the network that calls them, on this machine's CPU."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_LEAST_RUNS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedKernel:
    """A call of a kernel in a run of a network.

    Attributes:
        name: Of the kernel's function.
        shape: Of its result, channels last for images.
        seconds: That it took.
    """

    name: str
    shape: tuple[int, ...]
    seconds: float

    @property
    def channels(self) -> int:
        """The last axis of its result."""
        return self.shape[-1] if self.shape else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedRun:
    """A network that was run.

    Attributes:
        kernels: In the order of their calls; they add up to `whole_s`.
        whole_s: Median seconds of the runs, without the clock inside.
        spread: Half of the quartile range of those runs, relative.
        noise: Half-width of the band of that median (notch of a box plot), relative.
    """

    kernels: tuple[TimedKernel, ...]
    whole_s: float
    spread: float
    noise: float


def timed_kernels(machine: Any, inputs: Sequence[Any], budget_s: float) -> TimedRun:
    """Time the kernels of a network inside of it.

    Runs with and without the clock inside take turns. The clock is a function of Python around each
    call, whose own time is the least that it ever saw, for a call that does nothing; the kernels
    get the seconds of a run without it, divided as the clock saw them.

    Args:
        machine: `VirtualMachine` with a function `main`.
        inputs: Of `main`, on its device.
        budget_s: Seconds to run it for.
    """
    main = machine["main"]
    for _ in range(2):
        main(*inputs)
    clock = _Clock()
    whole: list[float] = []
    runs: list[list[float]] = []
    deadline_s = time.perf_counter() + budget_s
    while len(runs) < _LEAST_RUNS or time.perf_counter() < deadline_s:
        began_s = time.perf_counter()
        main(*inputs)
        whole.append(time.perf_counter() - began_s)
        with clock.inside(machine):
            main(*inputs)
        runs.append(clock.spent_s)
    medians = [statistics.median(times) for times in zip(*runs, strict=True)]
    own_s = min(
        (s for (name, _), s in zip(clock.calls, medians, strict=True) if name.startswith("vm.")),
        default=0.0,
    )
    low, whole_s, high = statistics.quantiles(whole, n=4, method="inclusive")
    kernels = [
        (name, shape, max(seconds - own_s, 1e-9))
        for (name, shape), seconds in zip(clock.calls, medians, strict=True)
        if not name.startswith("vm.")
    ]
    total = sum(seconds for _, _, seconds in kernels)
    factor = whole_s / total if total else 1.0
    found = tuple(
        TimedKernel(name=name, shape=shape, seconds=factor * seconds)
        for name, shape, seconds in kernels
    )
    quartiles = high - low
    return TimedRun(
        kernels=found,
        whole_s=whole_s,
        spread=quartiles / 2 / whole_s,
        noise=1.57 * quartiles / math.sqrt(len(whole)) / whole_s,
    )


class _Clock:
    """Instrument of TVM's virtual machine: seconds of each call, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[int, ...]]] = []
        self.spent_s: list[float] = []
        self._known = False
        self._began_s = 0.0

    @contextlib.contextmanager
    def inside(self, machine: Any) -> Any:
        """Watch one run."""
        self.spent_s = []
        machine.set_instrument(self._tick)
        try:
            yield
        finally:
            machine.set_instrument(None)
            self._known = True

    def _tick(self, _function: Any, name: str, before: bool, _result: Any, *arguments: Any) -> None:
        if before:
            self._began_s = time.perf_counter()
            return
        self.spent_s.append(time.perf_counter() - self._began_s)
        if not self._known:
            shape: Any = getattr(arguments[-1], "shape", ()) if arguments else ()
            self.calls.append((str(name), tuple(int(size) for size in shape)))
