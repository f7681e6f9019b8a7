"""One stage of a network on one device: its compiled library in TVM's virtual machine."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tvm_iovt.errors import BundleError, DeviceError
from tvm_iovt.runtime import libtvm
from tvm_iovt.runtime.machine import this_machine
from tvm_iovt.types import Deployment, Library, Stage, TargetSpec

CPU = 1  # DLDeviceType of dlpack.h
DEVICE_TYPES = {"llvm": CPU, "cuda": 2, "vulkan": 7}
# The kinds of exception that TVM's checks become in Python.
FFI_ERRORS = (
    *(RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError),
    *(OSError, MemoryError),
)
_POOLED_ALLOCATOR = 2  # AllocatorType of tvm/runtime/memory/memory_manager.h


def load_library(path: Path, library: Library, ffi: Any) -> Any:
    """The module of a stage's library, which executes code of its.

    Raises:
        BundleError: It cannot be loaded.
    """
    file = path / library.file.file
    try:
        with _new_name(file) as name:
            return ffi.load_module(str(name))
    except FFI_ERRORS as error:
        raise BundleError(
            f"{file} cannot be loaded", seen=first_line(error), do="compile the model again"
        ) from error


class CompiledStage:
    """The virtual machine of one stage, and the device that it computes on.

    Its outputs are tensors of their own: they keep what they hold, however often the stage runs,
    until nobody refers to them any more. The virtual machine takes memory from a pool that
    releases and reuses it then.

    Args:
        stage: The stage.
        target: What it was compiled for.
        library: From `load_library`; several machines can share one.
        ffi: The module `tvm_ffi`.

    Raises:
        BundleError: The library holds no network.
        DeviceError: The device cannot be used.
    """

    def __init__(self, stage: Stage, target: TargetSpec, library: Any, ffi: Any) -> None:
        self.stage = stage
        self.device_type = DEVICE_TYPES[target.kind]
        self._ffi = ffi
        try:
            machine = library["vm_load_executable"]()
        except FFI_ERRORS as error:
            raise BundleError(
                f"The library of stage {stage.index} holds no network",
                seen=first_line(error),
                do="compile the model again",
            ) from error
        devices = [self.device_type, 0, _POOLED_ALLOCATOR]
        if target.gpu:
            devices += [CPU, 0, _POOLED_ALLOCATOR]  # for shapes and scalars
        try:
            machine["vm_initialization"](*devices)
            self._main = machine["main"]
        except FFI_ERRORS as error:
            raise _failed(stage, error) from error

    def arguments(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the stage's inputs that are in `values`, on the stage's device."""
        return {
            spec.name: to_device(self._ffi, values[spec.name], self.device_type)
            for spec in self.stage.inputs
            if spec.name in values
        }

    def run(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The stage's outputs by name. `values` holds all of its inputs, on any device.

        Raises:
            DeviceError: The stage failed while running.
            BundleError: It returns something else than the bundle records.
        """
        try:
            result = self._main(*self.arguments(values).values())
            _synchronize(self._ffi, self.device_type)
        except FFI_ERRORS as error:
            raise _failed(self.stage, error) from error
        outputs = (result,) if isinstance(result, self._ffi.Tensor) else tuple(result)
        if len(outputs) != len(self.stage.outputs):
            raise BundleError(
                f"Stage {self.stage.index} does not return what the bundle records",
                seen=f"{len(outputs)} outputs; recorded {len(self.stage.outputs)}",
                do="compile the model again",
            )
        return {spec.name: out for spec, out in zip(self.stage.outputs, outputs, strict=True)}


def stage_target(path: Path, stage: Stage, deployment: Deployment) -> TargetSpec:
    """The target that a stage of a deployment is for.

    Raises:
        BundleError: It is not among the deployment's.
    """
    for target in deployment.targets:
        if target.name == stage.target:
            return target
    raise BundleError(
        f"The manifest of {path} is damaged",
        seen=f"stage {stage.index} is for {stage.target}, which is not among its targets",
        do="compile the model again",
    )


def misfit(target: TargetSpec, ffi: Any, packed: Path) -> str:
    """Why a target is not this machine; empty if it is.

    Args:
        target: What a stage was compiled for.
        ffi: The module `tvm_ffi`.
        packed: Where the packed libraries of a bundle are, if any.
    """
    reason = this_machine().misfit(target.cpu)
    if reason or not target.gpu:
        return reason
    kind = target.gpu.kind
    if kind not in DEVICE_TYPES:
        return f"needs a {kind} device, which this runtime does not know"
    try:
        libtvm.load_device(kind, packed)
    except DeviceError as error:
        return f"needs {kind}: {error.seen}"
    attribute_exists = 0  # DeviceAttrKind::kExist
    query = ffi.get_global_func("runtime.GetDeviceAttr")
    return "" if query(DEVICE_TYPES[kind], 0, attribute_exists) else f"needs a {kind} device"


def to_device(ffi: Any, tensor: Any, device_type: int) -> Any:
    """The tensor itself if it is on such a device, else a copy there, complete."""
    if tensor.device.dlpack_device_type() == device_type:
        return tensor
    device = ffi.device(device_type, 0)
    allocate = ffi.get_global_func("runtime.TVMTensorAllocWithScope")
    copy = allocate(ffi.Shape(tensor.shape), tensor.dtype, device, None)
    ffi.get_global_func("runtime.TVMTensorCopyFromTo")(tensor, copy)
    other = tensor.device.dlpack_device_type()
    _synchronize(ffi, other if device_type == CPU else device_type)
    return copy


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


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


def _synchronize(ffi: Any, device_type: int) -> None:
    """Wait for the device's default stream; the CPU computes synchronously."""
    if device_type != CPU:
        ffi.get_global_func("runtime.Device_StreamSync")(ffi.device(device_type, 0), 0)


def _failed(stage: Stage, error: Exception) -> DeviceError:
    return DeviceError(
        f"Stage {stage.index} failed on {stage.target}",
        seen=first_line(error),
        do="check the device's free memory, and that the bundle was compiled for this device",
    )
