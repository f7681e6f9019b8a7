"""Seconds of each unit of a network, measured inside of it on this machine.

The network is compiled as for a bundle and run in a process of its own, as the number of threads of
a process cannot change. Kernels are timed one by one, in their place in the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvm_iovt.errors import DeviceError, TuningError
from tvm_iovt.stages.kernels import KernelOptions
from tvm_iovt.types import TargetSpec

BUDGET_S = 4.0
"""Seconds to run the network for."""

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
        from tvm_iovt.stages.kernel_clock import timed_kernels
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
        run = timed_kernels(machine, inputs, BUDGET_S)
        return UnitTimes(
            unit_s=unit_seconds(graph, run.kernels), whole_s=run.whole_s, noise=run.noise
        )


def _ignore(message: str) -> None:
    """What would be told twice: the compilation tells it, too."""
