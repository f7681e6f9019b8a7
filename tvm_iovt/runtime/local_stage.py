"""A stage of a pipeline on this machine: on its CPU, or on a GPU in it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvm_iovt import bundle
from tvm_iovt.errors import BundleError
from tvm_iovt.runtime import threads as thread_pool
from tvm_iovt.runtime.compiled_stage import (
    CPU,
    CompiledStage,
    load_library,
    misfit,
    stage_target,
    to_device,
)
from tvm_iovt.runtime.machine import this_machine
from tvm_iovt.runtime.network_inputs import InputPlace, check_input
from tvm_iovt.runtime.stage_lane import StageLane, Values
from tvm_iovt.types import Deployment

_GPU_LANES = 2


class LocalStage:
    """A stage of a bundle's deployment, run by the process itself. A `StageDevice`.

    A CPU stage has one lane and hands its tensors on as they are. A GPU stage has two, so that the
    work on the host for one frame (copies from and to its memory, launching) goes on while the GPU
    computes another one. On the GPU itself all lanes share the default stream: copies wait for the
    kernels before them.

    Args:
        path: The bundle, packed or not.
        deployment: A deployment of it.
        index: Of the stage.
        ffi: The module `tvm_ffi`, see `runtime.libtvm.load`.
        threads: Worker threads of a CPU stage; 0 for what the plan says, as far as there are CPUs.
        cpus: CPUs that the stage's threads run on; by default any. Stages that compute at the
            same time get out of each other's way if each has its own.

    Raises:
        BundleError: The bundle is damaged, has no such stage, or the stage is for another
            machine.
    """

    def __init__(
        self,
        path: Path,
        deployment: Deployment,
        index: int,
        ffi: Any,
        *,
        threads: int = 0,
        cpus: Sequence[int] | None = None,
    ) -> None:
        stage = next((s for s in deployment.plan.stages if s.index == index), None)
        library = next((i for i in deployment.libraries if i.stage == index), None)
        if stage is None or library is None:
            raise BundleError(
                f"{deployment.name} of {path} has no stage {index}",
                seen=f"{len(deployment.plan.stages)} stages, {len(deployment.libraries)} libraries",
                do="compile the model again",
            )
        self.stage = stage
        self._target = stage_target(path, stage, deployment)
        reason = misfit(self._target, ffi, path / "lib")
        if reason:
            machine = this_machine()
            raise BundleError(
                f"Stage {index} of {path} cannot run here",
                seen=f"it {reason}; this machine is {machine.arch} ({machine.cpu})",
                do="run it on its device",
            )
        bundle.verify(path, [library.file])
        self._library = load_library(path, library, ffi)
        self._ffi = ffi
        self._cpus = tuple(cpus or ())
        available = len(self._cpus or os.sched_getaffinity(0))
        self._threads = threads or min(stage.threads, available)

    @property
    def name(self) -> str:
        """For messages and the timeline."""
        return f"stage {self.stage.index} on {self.stage.target}"

    @property
    def lanes(self) -> int:
        """Frames that the stage can carry at a time."""
        return _GPU_LANES if self._target.gpu else 1

    def open_lane(self) -> StageLane:
        """A lane for the calling thread, which gets the stage's CPUs and workers of its own.

        Raises:
            DeviceError: The device cannot be used.
            UsageError: The CPUs or the number of threads do not exist.
        """
        threads = 1 if self._target.gpu else self._threads
        thread_pool.own_pool(self._ffi, threads=threads, cpus=self._cpus)
        machine = CompiledStage(self.stage, self._target, self._library, self._ffi)
        return LocalLane(machine, self._ffi)


class LocalLane:
    """A machine state of its own, so that lanes of one stage share nothing but its code.

    Args:
        machine: Of the stage; nobody else uses it.
        ffi: The module `tvm_ffi`.
    """

    def __init__(self, machine: CompiledStage, ffi: Any) -> None:
        self._machine: CompiledStage | None = machine
        self._ffi = ffi
        self._places = {spec.name: InputPlace(spec, ffi) for spec in machine.stage.inputs}
        self._values: Values = {}

    def receive(self, values: Mapping[str, Any]) -> None:
        """Bring the stage's inputs to the device; arrays that kernels can read stay in place."""
        tensors = {}
        for spec in self._open.stage.inputs:
            value = values[spec.name]
            if isinstance(value, np.ndarray):
                check_input(spec, value)
                value = self._places[spec.name].tensor(value)
            tensors[spec.name] = value
        self._values = self._open.arguments(tensors)

    def compute(self) -> None:
        """Run the stage. Its inputs are released as soon as it is done."""
        values, self._values = self._values, {}
        self._values = self._open.run(values)
        if self._open.device_type == CPU:
            for place in self._places.values():
                place.leave_to(self._values.values())

    def send(self) -> Values:
        """The outputs in the memory of this machine, which the lane forgets."""
        values, self._values = self._values, {}
        return {name: to_device(self._ffi, value, CPU) for name, value in values.items()}

    def close(self) -> None:
        """Give the machine's memory back."""
        self._values = {}
        self._places = {}
        self._machine = None

    @property
    def _open(self) -> CompiledStage:
        if self._machine is None:
            raise RuntimeError("the lane is closed")
        return self._machine
