"""Seconds of each unit of a network, measured inside of it on this machine.

The network is compiled as for a bundle and run in a process of its own, as the number of threads of
a process cannot change. Kernels are timed one by one, in their place in the network.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm_iovt.errors import DeviceError, TuningError
from tvm_iovt.stages.kernels import KernelOptions
from tvm_iovt.types import TargetSpec

BUDGET_S = 4.0
"""Seconds to run the network for."""

MIN_RUNS, MAX_RUNS = 15, 400

_TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitTimes:
    """What was measured.

    Attributes:
        unit_s: Seconds of each unit.
        whole_s: Median seconds of the network.
        noise: Half-width of the band of that median (notch of a box plot), relative to it.
    """

    unit_s: tuple[float, ...]
    whole_s: float
    noise: float


def measure_units(
    model: Path,
    input_shapes: Mapping[str, tuple[int, ...]],
    specs: Sequence[TargetSpec],
    spec: TargetSpec,
    fuse: str,
    options: KernelOptions,
) -> UnitTimes:
    """Measure the units of a network on this machine's CPU.

    Args:
        model: Its file.
        input_shapes: Of inputs that the model leaves open.
        specs: All targets of the plan, which decide about the graph passes.
        spec: That to measure: this machine's CPU with `cpu.cores` threads.
        fuse: Of the compilation.
        options: Of the compilation.

    Raises:
        DeviceError: The network cannot be run here.
    """
    from tvm_iovt.runtime import threads
    from tvm_iovt.tuning.worker_process import WorkerProcess

    environment = {threads.COUNT: str(spec.cpu.cores), threads.BIND: "0"}
    worker = WorkerProcess(f"{__name__}:UnitTimer", (), environment=environment)
    try:
        worker.start()
        found = worker.call(
            "measure",
            str(model),
            dict(input_shapes),
            tuple(specs),
            spec,
            fuse,
            options,
            timeout_s=_TIMEOUT_S,
        )
    except TuningError as error:
        raise DeviceError(
            f"Measuring the operators of {model.name} on {spec.name} failed",
            seen=error.seen or error.what,
            do="leave --measure out to plan with predicted times",
        ) from error
    finally:
        worker.close()
    assert isinstance(found, UnitTimes)
    return found


class UnitTimer:
    """The service of the process that runs the network."""

    def measure(
        self,
        model: str,
        input_shapes: dict[str, tuple[int, ...]],
        specs: tuple[TargetSpec, ...],
        spec: TargetSpec,
        fuse: str,
        options: KernelOptions,
    ) -> UnitTimes:
        """See `measure_units`."""
        import relay_passes
        from tvm_iovt import _tvm
        from tvm_iovt.build.stage import build_executable
        from tvm_iovt.frontend.load import load_network
        from tvm_iovt.frontend.network import sample_inputs
        from tvm_iovt.planning.kernel_units import unit_seconds
        from tvm_iovt.schedules.cpu import lower_for_cpu
        from tvm_iovt.stages.graph import annotate
        from tvm_iovt.stages.kernels import kernel_selector, tuned_schedules

        network = load_network(Path(model), input_shapes)
        module, _ = annotate(network, specs, fuse)
        graph = relay_passes.read_costs(module)
        target = _tvm.tvm_target(spec)
        select = kernel_selector(spec, options, _ignore)
        tuned = tuned_schedules(spec, options, _ignore)
        lowered, _ = lower_for_cpu(module, spec.cpu, target, options.precision, select, tuned)
        with target:
            executable = build_executable(lowered, spec, target)
        device = _tvm.tvm.device("cpu", 0)
        machine = _tvm.relax.VirtualMachine(executable, device)
        arrays = sample_inputs(network.inputs)
        inputs = [_tvm.tvm.runtime.tensor(arrays[i.name], device) for i in network.inputs]
        return _measured(machine, inputs, lambda kernels: unit_seconds(graph, kernels))


def _measured(machine: Any, inputs: Sequence[Any], attribute: Any) -> UnitTimes:
    from tvm_iovt.planning.kernel_units import TimedKernel

    main = machine["main"]
    for _ in range(3):
        main(*inputs)
    recorder = _Recorder()
    whole: list[float] = []
    runs: list[list[float]] = []
    began_s = time.monotonic()
    while len(runs) < MIN_RUNS or (len(runs) < MAX_RUNS and time.monotonic() - began_s < BUDGET_S):
        start = time.perf_counter()
        main(*inputs)
        whole.append(time.perf_counter() - start)
        machine.set_instrument(recorder.tick)
        recorder.begin()
        main(*inputs)
        machine.set_instrument(None)
        runs.append(recorder.spent_s)
    medians = [statistics.median(times) for times in zip(*runs, strict=True)]
    whole_s = statistics.median(whole)
    # The instrument is called between kernels, and the network waits for it: what counts is how the
    # time of a run without it is divided.
    scale = whole_s / sum(medians) if sum(medians) else 1.0
    kernels = [
        TimedKernel(name=name, shape=shape, median_s=scale * seconds)
        for (name, shape), seconds in zip(recorder.kernels, medians, strict=True)
    ]
    low, middle, high = statistics.quantiles(whole, n=4, method="inclusive")
    noise = 1.57 * (high - low) / len(whole) ** 0.5 / middle
    return UnitTimes(unit_s=attribute(kernels), whole_s=whole_s, noise=noise)


class _Recorder:
    """Instrument of TVM's virtual machine: seconds of each call of a kernel, in order."""

    def __init__(self) -> None:
        self.kernels: list[tuple[str, tuple[int, ...]]] = []
        self.spent_s: list[float] = []
        self._first = True
        self._began_s = 0.0

    def begin(self) -> None:
        """Start a run."""
        self._first = not self.kernels
        self.spent_s = []

    def tick(self, _function: Any, name: str, before: bool, _result: Any, *arguments: Any) -> None:
        if before:
            self._began_s = time.perf_counter()
            return
        self.spent_s.append(time.perf_counter() - self._began_s)
        if self._first:
            # Kernels write into their last argument.
            shape = getattr(arguments[-1], "shape", ()) if arguments else ()
            self.kernels.append((str(name), tuple(int(size) for size in shape)))


def _ignore(message: str) -> None:
    """What would be told twice: the compilation tells it, too."""
