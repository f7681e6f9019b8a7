"""The process that compiles networks for this machine's CPU and times them, kernel by kernel."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_iovt.probe.synthetic_networks import network_plan
from tvm_iovt.stages.kernel_clock import TimedKernel, timed_kernels
from tvm_iovt.types import TargetSpec

_STAGE_NETWORK = (8, "pointwise", 32, 14, 14)
"""Some ten microseconds of kernels whose operands stay in the nearest caches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedNetwork:
    """A network that was run.

    Attributes:
        name: Of the network.
        units: Its units, see `SyntheticNetwork`.
        kernels: Its kernels in the order of their calls.
        whole_s: Median seconds of a run without the clock inside.
        spread: Half of the quartile range of the runs, relative.
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
        run = timed_kernels(machine, inputs, budget_s)
        return TimedNetwork(
            name=network.name,
            units=network.units,
            kernels=run.kernels,
            whole_s=run.whole_s,
            spread=run.spread,
        )

    def stay_on(self, cpus: tuple[int, ...]) -> None:
        """Run on these CPUs from now on; before anything else."""
        os.sched_setaffinity(0, cpus)

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

    def stage(self) -> tuple[float, float]:
        """Seconds that a stage of a pipeline costs beside its kernels; see `stage_cost`."""
        import tvm_ffi

        from tvm_iovt.probe.micro_networks import chain
        from tvm_iovt.probe.stage_cost import Network, stage_seconds

        module, (shape,) = chain(*_STAGE_NETWORK)
        library = self._executable(module, "fp32").jit()
        return stage_seconds(Network(library=library, shape=shape), self._spec, tvm_ffi)

    def _machine(self, module: Any, precision: str) -> Any:
        from tvm_iovt import _tvm

        return _tvm.relax.VirtualMachine(self._executable(module, precision), self._device)

    def _executable(self, module: Any, precision: str) -> Any:
        from tvm_iovt.build.stage import build_executable
        from tvm_iovt.schedules.cpu import lower_for_cpu

        lowered, _ = lower_for_cpu(module, self._spec.cpu, self._target, precision)
        with self._target:
            return build_executable(lowered, self._spec, self._target)

    def _tensor(self, value: np.ndarray) -> Any:
        from tvm_iovt import _tvm

        return _tvm.tvm.runtime.tensor(value, self._device)
