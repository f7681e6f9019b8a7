"""Run a network from its bundle: stage by stage, on NumPy arrays."""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvm_iovt import bundle
from tvm_iovt.discrepancy import compare
from tvm_iovt.errors import BundleError, DeviceError, UsageError
from tvm_iovt.runtime import libtvm
from tvm_iovt.runtime import threads as thread_pool
from tvm_iovt.runtime.machine import environment, this_machine
from tvm_iovt.types import (
    Deployment,
    Discrepancy,
    Library,
    Manifest,
    Measurement,
    Stage,
    TargetSpec,
    TensorSpec,
)

_DEVICE_TYPES = {"llvm": 1, "cuda": 2, "vulkan": 7}  # DLDeviceType of dlpack.h
# The kinds of exception that TVM's checks become in Python.
_FFI_ERRORS = (
    *(RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError),
    *(OSError, MemoryError),
)
_POOLED_ALLOCATOR = 2  # AllocatorType of tvm/runtime/memory/memory_manager.h
_ALIGNMENT_BYTES = 64  # what compiled kernels assume of their arguments
_SMALL_BYTES = 16384  # what is copied in less time than it takes to describe it to TVM


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
        targets = {target.name: target for target in deployment.targets}
        self._stages = tuple(
            _CompiledStage(path, stage, libraries[stage.index], _target(path, stage, targets), ffi)
            for stage in deployment.plan.stages
        )
        self._places = {spec.name: _InputPlace(spec, ffi) for spec in manifest.inputs}

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
        self._check_inputs(inputs)
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
        self._check_inputs(inputs)
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

    def _check_inputs(self, inputs: Mapping[str, np.ndarray]) -> None:
        if inputs.keys() != self._places.keys():
            wanted = "; ".join(map(str, self.inputs))
            given = ", ".join(map(repr, inputs)) or "none"
            raise UsageError("The inputs have the wrong names", seen=given, do=f"give {wanted}")
        for name, place in self._places.items():
            array, spec = inputs[name], place.spec
            if not isinstance(array, np.ndarray):
                raise UsageError(f"Input {name} is not a NumPy array", seen=type(array).__name__)
            if array.shape != spec.shape or array.dtype != place.dtype:
                shape = "x".join(map(str, array.shape)) or "scalar"
                raise UsageError(
                    f"Input {name} has the wrong shape or dtype",
                    seen=f"{shape} {array.dtype}",
                    do=f"give {spec}",
                )

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
            tensor = _to_device(self._ffi, values[spec.name], _DEVICE_TYPES["llvm"])
            outputs[spec.name] = np.array(np.from_dlpack(tensor))
        return outputs


@contextlib.contextmanager
def _new_name(file: Path) -> Iterator[Path]:
    """A path to a library that no library was loaded from before.

    The dynamic loader knows libraries by the path that they were loaded from, and gives the old
    one when a bundle was compiled again in its place.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="tvm-iovt-"))
    except OSError:  # no temporary folder can be written: a board with read-only storage
        yield file
        return
    try:
        name = folder / file.name
        name.symlink_to(file.resolve())
        yield name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _InputPlace:
    """Where an input is put that kernels cannot read as it is: aligned, and made only once."""

    def __init__(self, spec: TensorSpec, ffi: Any) -> None:
        self.spec = spec
        self.dtype = np.dtype(spec.dtype)
        self._ffi = ffi
        self._array: np.ndarray | None = None
        self._tensor: Any = None

    def tensor(self, array: np.ndarray) -> Any:
        """The array as a tensor; a copy of it if it is small, unaligned or not contiguous.

        The copy is overwritten by the next call.
        """
        flags = array.flags
        if (
            array.nbytes > _SMALL_BYTES
            and flags.c_contiguous
            and flags.writeable
            and array.ctypes.data % _ALIGNMENT_BYTES == 0
        ):
            return self._ffi.from_dlpack(array, require_alignment=_ALIGNMENT_BYTES)
        if self._array is None:
            buffer = np.empty(array.nbytes + _ALIGNMENT_BYTES, np.uint8)
            start = -buffer.ctypes.data % _ALIGNMENT_BYTES
            place = buffer[start : start + array.nbytes].view(self.dtype).reshape(self.spec.shape)
            self._tensor = self._ffi.from_dlpack(place, require_alignment=_ALIGNMENT_BYTES)
            self._array = place
        np.copyto(self._array, array)
        return self._tensor


class _CompiledStage:
    """The virtual machine of one stage, and the device that it computes on."""

    def __init__(
        self, path: Path, stage: Stage, library: Library, target: TargetSpec, ffi: Any
    ) -> None:
        self.stage = stage
        self._ffi = ffi
        self._device_type = _DEVICE_TYPES[target.kind]
        file = path / library.file.file
        try:
            with _new_name(file) as name:
                machine = ffi.load_module(str(name))["vm_load_executable"]()
        except _FFI_ERRORS as error:
            raise BundleError(
                f"{file} cannot be loaded", seen=_first_line(error), do="compile the model again"
            ) from error
        devices = [self._device_type, 0, _POOLED_ALLOCATOR]
        if target.gpu:
            devices += [_DEVICE_TYPES["llvm"], 0, _POOLED_ALLOCATOR]  # for shapes and scalars
        try:
            machine["vm_initialization"](*devices)
            self._main = machine["main"]
        except _FFI_ERRORS as error:
            raise _failed(stage, error) from error

    def arguments(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the stage's inputs that are in `values`, on the stage's device."""
        return {
            spec.name: _to_device(self._ffi, values[spec.name], self._device_type)
            for spec in self.stage.inputs
            if spec.name in values
        }

    def run(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The stage's outputs by name. `values` holds all of its inputs, on any device."""
        try:
            result = self._main(*self.arguments(values).values())
            _synchronize(self._ffi, self._device_type)
        except _FFI_ERRORS as error:
            raise _failed(self.stage, error) from error
        outputs = (result,) if isinstance(result, self._ffi.Tensor) else tuple(result)
        if len(outputs) != len(self.stage.outputs):
            raise BundleError(
                f"Stage {self.stage.index} does not return what the bundle records",
                seen=f"{len(outputs)} outputs; recorded {len(self.stage.outputs)}",
                do="compile the model again",
            )
        return {spec.name: out for spec, out in zip(self.stage.outputs, outputs, strict=True)}


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
    for target in deployment.targets:
        reason = this_machine().misfit(target.cpu)
        if not reason and target.gpu:
            reason = _device_misfit(target.gpu.kind, ffi, packed)
        if reason:
            return reason
    return ""


def _device_misfit(kind: str, ffi: Any, packed: Path) -> str:
    if kind not in _DEVICE_TYPES:
        return f"needs a {kind} device, which this runtime does not know"
    try:
        libtvm.load_device(kind, packed)
    except DeviceError as error:
        return f"needs {kind}: {error.seen}"
    attribute_exists = 0  # DeviceAttrKind::kExist
    query = ffi.get_global_func("runtime.GetDeviceAttr")
    return "" if query(_DEVICE_TYPES[kind], 0, attribute_exists) else f"needs a {kind} device"


def _target(path: Path, stage: Stage, targets: Mapping[str, TargetSpec]) -> TargetSpec:
    if stage.target not in targets:
        raise BundleError(
            f"The manifest of {path} is damaged",
            seen=f"stage {stage.index} is for {stage.target}, which is not among its targets",
            do="compile the model again",
        )
    return targets[stage.target]


def _to_device(ffi: Any, tensor: Any, device_type: int) -> Any:
    if tensor.device.dlpack_device_type() == device_type:
        return tensor
    device = ffi.device(device_type, 0)
    allocate = ffi.get_global_func("runtime.TVMTensorAllocWithScope")
    copy = allocate(ffi.Shape(tensor.shape), tensor.dtype, device, None)
    ffi.get_global_func("runtime.TVMTensorCopyFromTo")(tensor, copy)
    other = tensor.device.dlpack_device_type()
    _synchronize(ffi, other if device_type == _DEVICE_TYPES["llvm"] else device_type)
    return copy


def _synchronize(ffi: Any, device_type: int) -> None:
    """Wait for the device's default stream; the CPU computes synchronously."""
    if device_type != _DEVICE_TYPES["llvm"]:
        ffi.get_global_func("runtime.Device_StreamSync")(ffi.device(device_type, 0), 0)


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


def _failed(stage: Stage, error: Exception) -> DeviceError:
    return DeviceError(
        f"Stage {stage.index} failed on {stage.target}",
        seen=_first_line(error),
        do="check the device's free memory, and that the bundle was compiled for this device",
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
