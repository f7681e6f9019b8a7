"""From an imported module and a target to one linked shared library."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from tvm_iovt import _tvm
from tvm_iovt.build import cpu_pipeline, cuda
from tvm_iovt.build.cuda_pipeline import lower_for_cuda
from tvm_iovt.build.link import Linker
from tvm_iovt.errors import IovtError, ModelError
from tvm_iovt.schedules.cpu import lower_for_cpu
from tvm_iovt.schedules.selection import Selector
from tvm_iovt.schedules.tuned import TunedSchedules
from tvm_iovt.types import Decision, TargetSpec


def build_stage(
    module: Any,
    spec: TargetSpec,
    linker: Linker,
    output: Path,
    precision: str = "fp32",
    select: Selector | None = None,
    tuned: TunedSchedules | None = None,
) -> tuple[tuple[Decision, ...], int]:
    """Compile `main` of a Relax module for a target and link it, parameters inside.

    Args:
        module: Relax `IRModule` after the clean-up passes; it is not changed.
        spec: The target.
        linker: Linker for `spec.cpu`.
        output: Path of the shared library.
        precision: What the kernels of a CPU compute in, see `schedules.cpu.lower_for_cpu`.
        select: Chooses the kernels of convolutions on a CPU; by default prediction does.
        tuned: Schedules that were found by measuring, for the kernels that it knows.

    Returns:
        What the lowering decided for each kernel, and the bytes of parameters inside.

    Raises:
        ModelError: TVM cannot generate code for the network on this target.
        ToolchainError: Linking failed, or the CUDA compiler did.
    """
    target = _tvm.tvm_target(spec)
    decisions: list[Decision] = []
    with _code_generator(spec), target, _compiler_errors(spec):
        if spec.gpu is None:
            lowered, notes = lower_for_cpu(module, spec.cpu, target, precision, select, tuned)
        else:
            lowered, notes = lower_for_cuda(module, target, tuned)
        decisions += notes
        executable = build_executable(lowered, spec, target)
        executable.export_library(str(output), fcompile=linker.fcompile())
    if spec.gpu is not None:
        cuda.check_embedded(output, spec.gpu.arch)
    return tuple(decisions), parameters_bytes(lowered)


def build_executable(lowered: Any, spec: TargetSpec, target: Any) -> Any:
    """Generate code for a module of scheduled kernels; `target` must be the current one.

    Args:
        lowered: Relax functions of scheduled PrimFuncs.
        spec: The target.
        target: The same as `tvm.target.Target`.

    Returns:
        `tvm.relax.VMExecutable`, for the virtual machine or to be exported.
    """
    return _tvm.relax.build(
        lowered,
        target=target,
        relax_pipeline=_vm_pipeline(),
        tir_pipeline=cpu_pipeline.register() if spec.gpu is None else "default",
    )


def parameters_bytes(module: Any) -> int:
    """Bytes of tensor constants in the Relax functions of a module, each counted once."""
    relax, tvm = _tvm.relax, _tvm.tvm
    sizes: dict[Any, int] = {}

    def visit(expr: Any) -> None:
        if isinstance(expr, tvm.ir.GenericConst):
            value = expr.value
            sizes[expr] = value.numpy().nbytes

    for function in module.functions.values():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, visit)
    return sum(sizes.values())


def _vm_pipeline() -> Any:
    """Lowering from scheduled kernels to the virtual machine, with memory planned statically."""
    relax, transform = _tvm.relax, _tvm.tvm.transform
    return transform.Sequential(
        [
            relax.transform.RewriteDataflowReshape(),
            relax.transform.ToNonDataflow(),
            relax.transform.RemovePurityChecking(),
            relax.transform.CallTIRRewrite(),
            relax.transform.StaticPlanBlockMemory(),
            relax.transform.LowerAllocTensor(),
            relax.transform.KillAfterLastUse(),
            relax.transform.LowerRuntimeBuiltin(),
            relax.transform.ComputePrimValue(),
            relax.transform.VMShapeLower(),
            relax.transform.AttachGlobalSymbol(),
        ]
    )


def _code_generator(spec: TargetSpec) -> contextlib.AbstractContextManager[Any]:
    if spec.gpu is None:
        return contextlib.nullcontext()
    return cuda.compiling_for(spec.gpu.arch)


@contextlib.contextmanager
def _compiler_errors(spec: TargetSpec) -> Any:
    """TVM's exceptions as ours; those that are ours already, and interrupts, pass through."""
    try:
        yield
    except IovtError:
        raise
    except Exception as error:
        cause = _own_error(error)
        if cause is not None:
            raise cause from error
        text = str(error).strip()
        raise ModelError(
            f"TVM {_tvm.TVM_VERSION} cannot generate code for {spec.name}",
            seen=f"{type(error).__name__}: {text.splitlines()[-1][:300] if text else ''}",
            do="`tvm-iovt inspect` lists the operators; -vv shows the whole trace. If the model is "
            "static and its operators are supported, this is worth a bug report",
        ) from error


def _own_error(error: BaseException) -> IovtError | None:
    """An error of ours that crossed TVM's C++ frames on its way (the linker callback's, say)."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, IovtError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None
