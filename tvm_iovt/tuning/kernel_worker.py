"""What a worker process does for the tuner: builds kernels, checks and times them.

It runs in a process of its own (see `worker_process`): a kernel may crash it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tvm_iovt import _tvm, host_cpu
from tvm_iovt.build import cpu_pipeline, cuda
from tvm_iovt.build.link import find_linker
from tvm_iovt.runtime import threads as runtime_threads
from tvm_iovt.schedules.template import REDUCE, blocks
from tvm_iovt.schedules.tvm_api import Schedule
from tvm_iovt.tuning.deviation import compared, other_than
from tvm_iovt.tuning.kernel_inputs import DRAWS, Argument, arguments_of, draw
from tvm_iovt.tuning.kernel_replies import BUDGET_S, Built, Measured, Reference
from tvm_iovt.tuning.kernel_run import Buffers, clock_of, time_blocks
from tvm_iovt.tuning.trial import CHECK, RUN, Trial, Workload
from tvm_iovt.tuning.worker_guard import one_line
from tvm_iovt.types import TargetSpec


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A workload whose kernels can be measured."""

    expected: tuple[np.ndarray, ...]
    fill: tuple[np.ndarray, ...]
    buffers: Buffers


class KernelWorker:
    """Builds kernels for a target; checks and times them if that is this machine.

    Args:
        spec: The target.
        threads: Of TVM's pool; the pool is otherwise as the runtime of a bundle has it.
    """

    def __init__(self, spec: TargetSpec, threads: int) -> None:
        os.environ[runtime_threads.COUNT] = str(threads)
        runtime_threads.set_defaults()
        runtime_threads.set_count(_tvm.tvm_ffi, threads)
        self._spec = spec
        self._target = _tvm.tvm_target(spec)
        here = TargetSpec(name="host", description="", cpu=host_cpu.detect())
        self._host = _tvm.tvm_target(here)
        self._pipeline = cpu_pipeline.register()
        self._clock = clock_of(threads) if spec.gpu is None else time.perf_counter
        self._functions: dict[int, tuple[Any, Any]] = {}
        self._next = 0
        self._workload: Workload | None = None
        self._prepared: _Prepared | None = None
        self._reference: Reference | None = None

    def build(self, trial: Trial) -> Built:
        """Build a trial's kernel for this process and keep it."""
        began = time.perf_counter()
        library = self._build(trial)
        function = library["main"]  # compiles: LLVM does it at the first look-up
        self._next += 1
        self._functions[self._next] = library, function
        return Built(handle=self._next, build_s=time.perf_counter() - began)

    def drop(self, handle: int) -> None:
        """Forget a kernel."""
        del self._functions[handle]

    def prepare(self, workload: Workload, reference: Reference) -> None:
        """Make the arguments of a workload; its kernels can be measured until the next one."""
        self._workload, self._reference, self._prepared = workload, reference, None

    def measure(
        self, handle: int, give_up_s: float = math.inf, budget_s: float = BUDGET_S
    ) -> Measured:
        """Check and time a kernel of the prepared workload, and forget it.

        Args:
            handle: From `build`.
            give_up_s: See `kernel_run.time_blocks`.
            budget_s: Seconds of timing.
        """
        began = time.perf_counter()
        library, function = self._functions.pop(handle)
        run_s: tuple[float, ...] = ()
        failed = error = ""
        off = None
        try:
            prepared = self._ready()
            off, error = compared(
                prepared.buffers.outputs_of(function, prepared.fill), prepared.expected
            )
            if error:
                failed = CHECK
            else:
                call = prepared.buffers.call_of(function)
                run_s = time_blocks(
                    call,
                    self._clock,
                    prepared.buffers.wait,
                    budget_s=budget_s,
                    give_up_s=give_up_s,
                )
        except Exception as caught:  # TVM raises plain and unrelated classes
            failed, error = RUN, one_line(caught)
            self._prepared = None  # it may have changed the inputs
        del library
        return Measured(
            run_s=run_s,
            failed=failed,
            error=error,
            deviation=off if off is None or math.isfinite(off) else None,
            measure_s=time.perf_counter() - began,
        )

    def reference(self, workload: Workload) -> Reference:
        """What a workload computes, from its function as it is, on this machine."""
        began = time.perf_counter()
        module = _tvm.tvm.ir.load_json(workload.module)
        arguments = arguments_of(module["main"])
        function = _compiled(_parallel(module), self._host, "s_tir")["main"]
        inputs, blank = arguments[: -workload.outputs], arguments[-workload.outputs :]
        zeros = [np.zeros(a.shape, np.dtype(a.dtype)) for a in blank]
        # Infinities may be what the function is for; NaN cannot be compared.
        for usable in (np.isfinite, lambda array: ~np.isnan(array)):
            for how in DRAWS:
                tensors = [_tvm.tvm.runtime.tensor(a) for a in draw(inputs, how, workload.key)]
                found = _outputs(function, tensors, zeros)
                if all(usable(array.astype(np.float64)).all() for array in found):
                    others = [other_than(array) for array in found]
                    again = _outputs(function, tensors, others)
                    return Reference(
                        how=how,
                        outputs=found,
                        fill=tuple(map(_fill, found, others, again)),
                        seconds=time.perf_counter() - began,
                    )
        message = "the unscheduled function does not give numbers, whatever its inputs are"
        raise ArithmeticError(message)

    def inputs(self, workload: Workload, how: str) -> tuple[np.ndarray, ...]:
        """The inputs that a workload is checked and timed with; see `Reference.how`."""
        arguments = arguments_of(_tvm.tvm.ir.load_json(workload.module)["main"])
        return draw(arguments[: -workload.outputs], how, workload.key)

    def export(self, trial: Trial, output: Path, cross_compiler: str = "") -> float:
        """Build a trial's kernel for the target and link it; seconds of wall time.

        Args:
            trial: What to build.
            output: The shared library to write.
            cross_compiler: See `build.link.find_linker`.
        """
        began = time.perf_counter()
        linker = find_linker(self._spec.cpu, prefer=cross_compiler or self._spec.cross_compiler)
        library = self._build(trial)
        library.export_library(str(output), fcompile=linker.fcompile())
        return time.perf_counter() - began

    def _build(self, trial: Trial) -> Any:
        module = _tvm.tvm.ir.load_json(trial.module)
        if self._spec.gpu is None:
            return _compiled(module, self._target, self._pipeline)
        with cuda.compiling_for(self._spec.gpu.arch):
            return _compiled(module, self._target, "default")

    def _ready(self) -> _Prepared:
        if self._prepared is None:
            workload, reference = self._workload, self._reference
            if workload is None or reference is None:
                message = "no workload has been prepared"
                raise RuntimeError(message)
            module = _tvm.tvm.ir.load_json(workload.module)
            arguments = arguments_of(module["main"])
            inputs = draw(arguments[: -workload.outputs], reference.how, workload.key)
            blank = arguments[-workload.outputs :]
            buffers = self._buffers(inputs, blank)
            self._prepared = _Prepared(reference.outputs, reference.fill, buffers)
        return self._prepared

    def _buffers(self, inputs: Sequence[np.ndarray], outputs: Sequence[Argument]) -> Buffers:
        gpu = self._spec.gpu
        if gpu is None:
            return Buffers(inputs, outputs, self._spec.cpu.l2_bytes)
        return Buffers(inputs, outputs, 0, _tvm.tvm.device(gpu.kind, 0))


def _outputs(
    function: Any, inputs: Sequence[Any], before: Sequence[np.ndarray]
) -> tuple[np.ndarray, ...]:
    """What the outputs of a function hold after it, given what they held before it."""
    results = [_tvm.tvm.runtime.tensor(array) for array in before]
    function(*inputs, *results)
    return tuple(result.numpy() for result in results)


def _fill(found: np.ndarray, other: np.ndarray, again: np.ndarray) -> np.ndarray:
    """`other` where a function writes, `found` where it leaves `other` alone."""
    alone = again == other if found.dtype.kind in "iub" else again != again
    return np.where(alone, found, other)


def _compiled(module: Any, target: Any, pipeline: str) -> Any:
    with target:
        return _tvm.tvm.tirx.build(module, target=target, pipeline=pipeline)


def _parallel(module: Any) -> Any:
    """The unscheduled module with the outer loops of each block in parallel, where that is legal.

    The order of sums stays.
    """
    schedule = Schedule(module)
    try:
        for block in blocks(schedule):
            axes = schedule.get(block).iter_vars
            loops = schedule.get_loops(block)
            if len(axes) != len(loops):
                continue
            outer = []
            for loop, axis in zip(loops, axes, strict=True):
                if int(axis.iter_type) == REDUCE:
                    break
                outer.append(loop)
            if len(outer) > 1:
                schedule.parallel(schedule.fuse(*outer[:-1]))
    except Exception:  # TVM raises plain and unrelated classes; then it takes a little longer
        return module
    return schedule.mod
