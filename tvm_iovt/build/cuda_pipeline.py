"""Lowering Relax modules to scheduled, bound CUDA kernels.

The schedules are rule-based (dlight): convolutions become implicit matrix products in shared
memory, reductions and matrix-vector products get kernels of their own, and the last rule binds
whatever is left to a flat grid. No tuning is needed for a correct result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm_iovt.errors import TargetError
from tvm_iovt.types import Decision

if TYPE_CHECKING:
    import tvm

    from tvm_iovt.schedules.tuned import TunedSchedules


def fusion_passes(target: tvm.target.Target) -> list[tvm.transform.Pass]:
    """The passes from Relax operators to fused, unscheduled kernels, in order.

    Args:
        target: A CUDA target with a host.
    """
    from tvm import relax
    from tvm.relax.backend.cuda import pipeline as stock

    passes = relax.transform
    return [
        *stock.library_dispatch_passes(target),
        passes.LegalizeOps(),
        passes.AnnotateTIROpPattern(),
        passes.FoldConstant(),
        passes.FuseOps(),
        passes.FuseTIR(),
        # Fusion leaves the unfused originals behind; nothing calls them, so nothing need bind them.
        passes.DeadCodeElimination(),
    ]


def default_schedules() -> tvm.transform.Pass:
    """Schedules by dlight's rules for kernels without one; `Target.current()` says for what."""
    from tvm.s_tir import dlight

    return dlight.ApplyDefaultSchedule(
        dlight.gpu.Matmul(),
        dlight.gpu.GEMV(),
        dlight.gpu.Reduction(),
        dlight.gpu.GeneralReduction(),
        dlight.gpu.Fallback(),
    )


def lower_for_cuda(
    mod: tvm.IRModule, target: tvm.target.Target, tuned: TunedSchedules | None = None
) -> tuple[tvm.IRModule, tuple[Decision, ...]]:
    """Lower a Relax module to calls of CUDA kernels; lowering for the virtual machine comes next.

    Args:
        mod: The module; it is not changed.
        target: A CUDA target with a host.
        tuned: Schedules to prefer to dlight's.

    Returns:
        The module, and a decision for each kernel that was tuned.

    Raises:
        TargetError: A kernel came out without a thread binding, which no GPU can run.
    """
    return schedule_for_cuda(fuse_for_cuda(mod, target), target, tuned)


def fuse_for_cuda(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """Everything before scheduling; the arguments are those of `lower_for_cuda`."""
    import tvm

    with target:
        return tvm.transform.Sequential(fusion_passes(target))(mod)


def schedule_for_cuda(
    fused: tvm.IRModule, target: tvm.target.Target, tuned: TunedSchedules | None = None
) -> tuple[tvm.IRModule, tuple[Decision, ...]]:
    """Everything after `fuse_for_cuda`; arguments and errors are those of `lower_for_cuda`."""
    with target:
        scheduled, decisions = _with_tuned(fused, tuned)
        lowered = default_schedules()(scheduled)
    unbound = unbound_kernels(lowered)
    if unbound:
        raise TargetError(
            "Some operators cannot be scheduled for CUDA",
            seen=", ".join(unbound),
            do="compile the network (or the stage with these operators) for a CPU target",
        )
    return lowered, decisions


def _with_tuned(
    mod: tvm.IRModule, tuned: TunedSchedules | None
) -> tuple[tvm.IRModule, tuple[Decision, ...]]:
    """The module with every kernel scheduled that was tuned."""
    import tvm
    from tvm import tirx

    if tuned is None:
        return mod, ()
    functions = dict(mod.functions.items())
    decisions = []
    for variable, function in functions.items():
        found = tuned.scheduled(function) if isinstance(function, tirx.PrimFunc) else None
        if found is not None:
            name = str(variable.name_hint)
            functions[variable] = found[0].with_attr("tirx.is_scheduled", True)
            decisions.append(
                Decision(transform="ScheduleForCuda", subject=name, applied=True, reason=found[1])
            )
    module = tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)
    return module, tuple(decisions)


def unbound_kernels(mod: tvm.IRModule) -> tuple[str, ...]:
    """Names of the kernels (TIR functions) of a module that no GPU thread is bound to, sorted.

    Functions that only the host runs (marked so by TVM) do not count.
    """
    from tvm import tirx

    return tuple(
        sorted(
            variable.name_hint
            for variable, function in mod.functions.items()
            if isinstance(function, tirx.PrimFunc)
            and "tirx.is_host_func" not in (function.attrs or {})
            and not _is_bound(function)
        )
    )


def _is_bound(function: tvm.tirx.PrimFunc) -> bool:
    import tvm_ffi
    from tvm import tirx

    bound: list[tirx.For] = []

    def visit(loop: tirx.For) -> None:
        if loop.thread_binding is not None:
            bound.append(loop)

    tvm_ffi.structural_walk(function.body, (tirx.For, visit), order="post")
    return bool(bound)
