"""The process that compiles networks for this machine's CPU and times them, kernel by kernel."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_iovt.probe.kernel_samples import TimedKernel
from tvm_iovt.probe.synthetic_networks import network_plan
from tvm_iovt.types import TargetSpec

_FASTEST = 0.12
"""Share of the runs that count. What disturbs a run only makes it longer, but the luckiest moments
of all kernels never come in one run: the kernels' medians are over the fastest whole runs."""

_LEAST_RUNS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedNetwork:
    """A network that was run.

    Attributes:
        name: Of the network.
        units: Its units, see `SyntheticNetwork`.
        kernels: Its kernels in the order of their calls.
        whole_s: Seconds of a run without the clock inside.
        spread: Half of the quartile range of the runs that count, relative.
    """

    name: str
    units: tuple[Any, ...]
    kernels: tuple[TimedKernel, ...]
    whole_s: float
    spread: float


class NetworkTimer:
    """Service of a `WorkerProcess` whose environment states the number of threads.

    Args:
        spec: This machine's CPU, `cpu.cores` as many as threads.
    """

    def __init__(self, spec: TargetSpec) -> None:
        from tvm_iovt import _tvm

        self._spec = spec
        self._target = _tvm.tvm_target(spec)
        self._device = _tvm.tvm.device("cpu", 0)
        self._built: dict[str, tuple[Any, Any]] = {}

    def network(self, family: str, turn: int, budget_s: float) -> TimedNetwork:
        """Time a synthetic network, see `synthetic_networks.network_plan`."""
        network = network_plan(family, turn)
        machine = self._machine(network.module, network.precision)
        x = np.random.default_rng(0).standard_normal(network.shape, np.float32)
        inputs = [self._tensor(x)]
        kernels, whole_s, spread = timed_kernels(machine, inputs, budget_s)
        return TimedNetwork(
            name=network.name, units=network.units, kernels=kernels, whole_s=whole_s, spread=spread
        )

    def run_for(self, family: str, seconds: float) -> float:
        """Run a synthetic network for a while; median seconds of a run."""
        if family not in self._built:
            network = network_plan(family, 0)
            x = np.random.default_rng(0).standard_normal(network.shape, np.float32)
            machine = self._machine(network.module, network.precision)
            self._built[family] = (machine, self._tensor(x))
        machine, tensor = self._built[family]
        main = machine["main"]
        main(tensor)
        times: list[float] = []
        deadline_s = time.perf_counter() + seconds
        while not times or time.perf_counter() < deadline_s:
            began_s = time.perf_counter()
            main(tensor)
            times.append(time.perf_counter() - began_s)
        return statistics.median(times)

    def seconds(
        self, family: str, arguments: Sequence[int], budget_s: float, precision: str = "fp32"
    ) -> float:
        """Seconds of one call of a network of `micro_networks`, the fastest block of many."""
        from tvm_iovt.probe import micro_networks

        module, shapes = getattr(micro_networks, family)(*arguments)
        machine = self._machine(module, precision)
        inputs = [self._tensor(np.ones(shape, np.float32)) for shape in shapes]
        main = machine["main"]
        main(*inputs)
        began_s = time.perf_counter()
        main(*inputs)
        once_s = max(time.perf_counter() - began_s, 1e-7)
        calls = max(int(budget_s / 12 / once_s), 1)
        blocks: list[float] = []
        deadline_s = time.perf_counter() + budget_s
        while len(blocks) < 3 or time.perf_counter() < deadline_s:
            began_s = time.perf_counter()
            for _ in range(calls):
                main(*inputs)
            blocks.append((time.perf_counter() - began_s) / calls)
        return min(blocks)

    def stream(self, seconds: float) -> float:
        """Copy memory for a while, to be in the way of others; returns bytes a second."""
        source = np.ones(8 << 20, np.float64)
        target = np.empty_like(source)
        began_s = time.perf_counter()
        rounds = 0
        while time.perf_counter() - began_s < seconds:
            np.copyto(target, source)
            rounds += 1
        return 2 * source.nbytes * rounds / (time.perf_counter() - began_s)

    def _machine(self, module: Any, precision: str) -> Any:
        from tvm_iovt import _tvm
        from tvm_iovt.build.stage import build_executable
        from tvm_iovt.schedules.cpu import lower_for_cpu

        lowered, _ = lower_for_cpu(module, self._spec.cpu, self._target, precision)
        with self._target:
            executable = build_executable(lowered, self._spec, self._target)
        return _tvm.relax.VirtualMachine(executable, self._device)

    def _tensor(self, value: np.ndarray) -> Any:
        from tvm_iovt import _tvm

        return _tvm.tvm.runtime.tensor(value, self._device)


def timed_kernels(
    machine: Any, inputs: Sequence[Any], budget_s: float
) -> tuple[tuple[TimedKernel, ...], float, float]:
    """Kernels of a network, the seconds of a run, and their relative spread.

    Runs with and without the clock inside take turns. The clock is a function of Python around each
    call, whose own time is the least that it ever saw, for a call that does nothing; the kernels
    get the seconds of a run without it, divided as the clock saw them.
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
    count = max(round(_FASTEST * len(runs)), 3)
    fastest = sorted(runs, key=sum)[:count]
    medians = [statistics.median(times) for times in zip(*fastest, strict=True)]
    own_s = min(
        (s for (name, _), s in zip(clock.calls, medians, strict=True) if name.startswith("vm.")),
        default=0.0,
    )
    low, whole_s, high = statistics.quantiles(sorted(whole)[:count], n=4, method="inclusive")
    kernels = [
        (name, channels, max(seconds - own_s, 1e-9))
        for (name, channels), seconds in zip(clock.calls, medians, strict=True)
        if not name.startswith("vm.")
    ]
    total = sum(seconds for _, _, seconds in kernels)
    factor = whole_s / total if total else 1.0
    found = tuple(
        TimedKernel(name=name, channels=channels, seconds=factor * seconds)
        for name, channels, seconds in kernels
    )
    return found, whole_s, (high - low) / 2 / whole_s


class _Clock:
    """Instrument of TVM's virtual machine: seconds of each call, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
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
            self.calls.append((str(name), int(shape[-1]) if len(shape) else 0))
