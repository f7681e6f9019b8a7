"""Run a network from its bundle: stage by stage, on NumPy arrays."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvm_iovt import bundle
from tvm_iovt.discrepancy import compare
from tvm_iovt.errors import BundleError, UsageError
from tvm_iovt.runtime import libtvm
from tvm_iovt.runtime import threads as thread_pool
from tvm_iovt.runtime.compiled_stage import (
    CPU,
    CompiledStage,
    load_library,
    misfit,
    stage_target,
    to_device,
)
from tvm_iovt.runtime.machine import environment, this_machine
from tvm_iovt.runtime.network_inputs import InputPlace, check_inputs
from tvm_iovt.types import Deployment, Discrepancy, Manifest, Measurement, TensorSpec


def load(
    path: str | Path,
    *,
    target: str | None = None,
    check: bool = True,
    threads: int | None = None,
    cpus: Sequence[int] | None = None,
) -> Executor:
    """Load a bundle for this machine.

    Args:
        path: The bundle, packed or not.
        target: Name of the deployment to run. By default the one that fits this machine.
        check: Verify size and SHA-256 of the libraries before they are loaded, which executes
            code of theirs. The sample is verified when it is used.
        threads: Worker threads of the CPU stages, for the whole process. By default
            `$TVM_NUM_THREADS`, else the physical cores on x86 and the big cores on ARM.
        cpus: CPUs that the calling thread and its workers run on, to keep several networks out of
            each other's way; by default the system decides. Give it with the first network that
            a thread loads.

    Raises:
        BundleError: The bundle is damaged, or of another version of TVM, or holds no (or more
            than one) deployment that fits this machine.
        DeviceError: The device cannot be used.
        UsageError: `threads` is not positive, larger than the number of cores, or comes too
            late in this process; or there is no such CPU.
    """
    path = Path(path)
    manifest = bundle.read_manifest(path)
    packed = path / "lib"
    libtvm.check_versions(manifest.tvm_version, manifest.tvm_ffi_version, packed)
    ffi = libtvm.load(packed)
    deployment = _choose(path, manifest, target, ffi, packed)
    if check:
        bundle.verify(path, [library.file for library in deployment.libraries])
    if cpus is not None:
        thread_pool.set_cpus(tuple(cpus))
    if threads is not None:
        thread_pool.set_count(ffi, threads)
    return Executor(path, manifest, deployment, ffi)


def why_not_here(path: str | Path, deployment: Deployment) -> str:
    """Why a deployment cannot run on this machine; empty if it can.

    Args:
        path: The bundle, whose packed libraries, if any, are considered too.
        deployment: A deployment of it.

    Raises:
        BundleError: TVM's runtime is not installed.
    """
    packed = Path(path) / "lib"
    return _misfit(deployment, libtvm.load(packed), packed)


class Executor:
    """A loaded network. Made by `load`; use one from one thread at a time.

    Attributes:
        manifest: The bundle's manifest.
        deployment: The deployment that runs.
    """

    def __init__(self, path: Path, manifest: Manifest, deployment: Deployment, ffi: Any) -> None:
        self.manifest = manifest
        self.deployment = deployment
        self._path = path
        self._ffi = ffi
        libraries = {library.stage: library for library in deployment.libraries}
        self._stages = tuple(
            CompiledStage(
                stage,
                stage_target(path, stage, deployment),
                load_library(path, libraries[stage.index], ffi),
                ffi,
            )
            for stage in deployment.plan.stages
        )
        self._places = {spec.name: InputPlace(spec, ffi) for spec in manifest.inputs}

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The network's inputs."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The network's outputs."""
        return self.manifest.outputs

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the network once.

        Args:
            inputs: One array for each of `self.inputs`, of exactly its shape and dtype.

        Returns:
            One array for each of `self.outputs`, owned by the caller.

        Raises:
            UsageError: An input is missing, unknown, or of another shape or dtype.
            DeviceError: The network failed while running.
        """
        check_inputs(self.inputs, inputs)
        return self._fetch(self._execute(self._feed(inputs)))

    def benchmark(
        self, inputs: Mapping[str, np.ndarray], *, warmup: int, repeat: int
    ) -> tuple[Measurement, Measurement]:
        """Measure the latency of one inference.

        Args:
            inputs: As for `run`.
            warmup: Runs before the first measured one.
            repeat: Measured runs of each scope, at least 1.

        Returns:
            The scopes `device` (inputs and outputs stay on the device) and `end_to_end` (from
            NumPy arrays to NumPy arrays).

        Raises:
            UsageError: An input or a number is wrong.
            DeviceError: The network failed while running.
        """
        if repeat < 1 or warmup < 0:
            raise UsageError(
                "There must be at least one measured run", seen=f"warmup {warmup}, repeat {repeat}"
            )
        where = environment(self.threads)
        device, end_to_end = (
            _measurement(
                self.latencies_s(inputs, scope=scope, warmup=warmup, repeat=repeat),
                scope,
                warmup,
                where,
            )
            for scope in ("device", "end_to_end")
        )
        return device, end_to_end

    @property
    def threads(self) -> int:
        """Threads that CPU stages run with; starts TVM's pool if there is none."""
        return int(self._ffi.get_global_func("runtime.NumThreads")())

    def latencies_s(
        self, inputs: Mapping[str, np.ndarray], *, scope: str, repeat: int, warmup: int = 0
    ) -> list[float]:
        """Seconds of each of `repeat` inferences, after `warmup` others.

        Args:
            inputs: As for `run`.
            scope: `device` or `end_to_end`, as for `benchmark`.
            repeat: Measured runs.
            warmup: Runs before them.

        Raises:
            UsageError: An input is wrong.
            DeviceError: The network failed while running.
        """
        check_inputs(self.inputs, inputs)
        call: Callable[[], object] = functools.partial(self.run, inputs)
        if scope == "device":
            call = functools.partial(self._execute, self._place(self._feed(inputs)))
        for _ in range(warmup):
            call()
        times_s = []
        for _ in range(repeat):
            start = time.perf_counter()
            call()
            times_s.append(time.perf_counter() - start)
        return times_s

    def self_check(self, *, rtol: float | None = None, atol: float | None = None) -> Discrepancy:
        """Run the bundle's sample and compare the outputs with the recorded ones.

        Args:
            rtol: Relative tolerance; by default the bundle's own.
            atol: Absolute tolerance, likewise.

        Raises:
            BundleError: The sample is missing, damaged, not for this network, or without
                expected outputs.
            DeviceError: The network failed while running.
        """
        bundle.verify(self._path, [self.manifest.sample])
        inputs, expected = bundle.load_sample(self._path, self.manifest.sample.file)
        if not self.manifest.reference:
            raise BundleError(
                f"{self._path} has nothing to be compared with",
                seen="it was compiled with --no-verify, so its sample has no expected outputs",
                do="compile the model again without --no-verify",
            )
        try:
            actual = self.run(inputs)
        except UsageError as error:
            raise BundleError(
                f"The sample of {self._path} is not for this network", seen=str(error)
            ) from error
        tolerance = self.manifest.tolerance.stated(rtol, atol)
        return compare(actual, expected, tolerance=tolerance, reference=self.manifest.reference)

    def _feed(self, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return {name: self._places[name].tensor(array) for name, array in inputs.items()}

    def _place(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """The network's inputs on the device of the first stage that takes each."""
        placed = dict(tensors)
        for stage in reversed(self._stages):
            placed |= stage.arguments(tensors)
        return placed

    def _execute(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """All tensors by name after the last stage, on the devices that made them."""
        values = dict(tensors)
        for stage in self._stages:
            values.update(stage.run(values))
        return values

    def _fetch(self, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        outputs = {}
        for spec in self.outputs:
            tensor = to_device(self._ffi, values[spec.name], CPU)
            outputs[spec.name] = np.array(np.from_dlpack(tensor))
        return outputs


def _choose(
    path: Path, manifest: Manifest, target: str | None, ffi: Any, packed: Path
) -> Deployment:
    """The deployment of that name, or the only one that fits; with reasons when there is none."""
    misfits = {d.name: _misfit(d, ffi, packed) for d in manifest.deployments}
    contents = "; ".join(f"{name} ({misfit or 'fits'})" for name, misfit in misfits.items())
    machine = this_machine()
    here = f"this machine is {machine.arch} ({machine.cpu})"
    if target is not None:
        if target not in misfits:
            raise BundleError(
                f"{path} has no deployment {target}",
                seen=f"it contains {contents or 'none'}; {here}",
                do="name one that it contains, or compile the model for this target",
            )
        if misfits[target]:
            raise BundleError(
                f"{target} of {path} cannot run here",
                seen=f"it {misfits[target]}; {here}",
                do="run it on its device, or compile the model for this machine",
            )
        fitting = [target]
    else:
        fitting = [name for name, misfit in misfits.items() if not misfit]
    if len(fitting) != 1:
        what = "more than one deployment" if fitting else "no deployment"
        raise BundleError(
            f"{path} has {what} for this machine",
            seen=f"it contains {contents or 'none'}; {here}",
            do="name one with --target" if fitting else "compile the model for this machine",
        )
    return next(d for d in manifest.deployments if d.name == fitting[0])


def _misfit(deployment: Deployment, ffi: Any, packed: Path) -> str:
    reasons = (misfit(target, ffi, packed) for target in deployment.targets)
    return next(filter(None, reasons), "")


def _measurement(times_s: list[float], scope: str, warmup: int, where: str) -> Measurement:
    p10, median, p90 = np.percentile(times_s, (10, 50, 90))
    return Measurement(
        median_s=float(median),
        p10_s=float(p10),
        p90_s=float(p90),
        samples=len(times_s),
        scope=scope,
        warmup=warmup,
        environment=where,
    )
