"""The kernels of a bundle and how long each takes inside of the network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from layer_times.native import Recorder

from tvm_iovt import bundle, runtime

_CPU, _POOLED = 1, 2  # DLDeviceType of dlpack.h, AllocatorType of TVM's memory manager
_BUILTIN = "vm.builtin."
_EMPTY = "vm.builtin.null_value"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """One call of the virtual machine.

    Attributes:
        name: Of the kernel or builtin.
        shapes: Of its tensors: what it reads, then what it writes.
    """

    name: str
    shapes: tuple[Shape, ...]

    @property
    def is_kernel(self) -> bool:
        return not self.name.startswith(_BUILTIN)

    @property
    def output(self) -> Shape:
        return self.shapes[-1]

    @property
    def output_elements(self) -> int:
        return math.prod(self.output)


class InstrumentedBundle:
    """A bundle in two virtual machines: one with time stamps, one as users run it.

    Attributes:
        calls: What one inference calls, in order.
        run: Runs the network without time stamps, tensors in, tensors out.
        run_instrumented: Runs it with them; `Recorder.durations_s` then fits `calls`.
        templates: How each kernel was scheduled, by its name.
    """

    def __init__(self, path: Path, recorder: Recorder) -> None:
        # Loading it checks the bundle, brings TVM's runtime in and sets the number of threads.
        executor = runtime.load(path, threads=1)
        import tvm_ffi

        manifest = executor.manifest
        library = path / executor.deployment.libraries[0].file.file
        module = tvm_ffi.load_module(str(library))
        inputs, _ = bundle.load_sample(path)
        tensors = [tvm_ffi.from_dlpack(inputs[spec.name]) for spec in manifest.inputs]
        machines = [module["vm_load_executable"]() for _ in range(2)]
        for machine in machines:
            machine["vm_initialization"](_CPU, 0, _POOLED)
        self.calls = _calls(machines[1], tensors, tvm_ffi)
        machines[1]["set_instrument"](tvm_ffi.load_module(str(recorder.path))["record"])
        plain, instrumented = (machine["main"] for machine in machines)
        self.run: Callable[[], object] = lambda: plain(*tensors)
        self.run_instrumented: Callable[[], object] = lambda: instrumented(*tensors)
        self.templates = {
            decision.subject.partition(": ")[2]: decision.reason
            for decision in manifest.decisions
            if decision.transform == "ScheduleForCpu"
        }


def empty_call_s(calls: tuple[Call, ...], durations_s: npt.NDArray[np.float64]) -> float:
    """What the time stamps add to each call: the median duration of calls that do nothing."""
    empty = [d for call, d in zip(calls, durations_s, strict=True) if call.name == _EMPTY]
    return float(np.median(empty)) if empty else 0.0


def _calls(machine: Any, tensors: list[Any], ffi: Any) -> tuple[Call, ...]:
    """What a run calls; found out with a slow instrument in Python."""
    found: list[Call] = []

    def note(function: Any, name: str, is_before: bool, result: Any, *arguments: Any) -> None:
        if is_before:
            shapes = [tuple(map(int, a.shape)) for a in arguments if isinstance(a, ffi.Tensor)]
            found.append(Call(str(name), tuple(shapes)))

    machine["set_instrument"](ffi.convert(note))
    machine["main"](*tensors)
    return tuple(found)
