"""Lowering Relax modules to scheduled, bound CUDA kernels.

The schedules are rule-based (dlight): convolutions become implicit matrix products in shared
memory, reductions and matrix-vector products get kernels of their own, and the last rule binds
whatever is left to a flat grid. No tuning is needed for a correct result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm_iovt.errors import TargetError

if TYPE_CHECKING:
    import tvm


def gpu_passes(target: tvm.target.Target) -> list[tvm.transform.Pass]:
    """The passes from Relax operators to scheduled kernels, in order.

    Args:
        target: A CUDA target with a host; some rules choose tile sizes by its limits.
    """
    from tvm import relax
    from tvm.relax.backend.cuda import pipeline as stock
    from tvm.s_tir import dlight

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
        dlight.ApplyDefaultSchedule(
            dlight.gpu.Matmul(),
            dlight.gpu.GEMV(),
            dlight.gpu.Reduction(),
            dlight.gpu.GeneralReduction(),
            dlight.gpu.Fallback(),
        ),
    ]


def lower_for_cuda(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """Lower a Relax module to calls of CUDA kernels; lowering for the virtual machine comes next.

    Args:
        mod: The module; it is not changed.
        target: A CUDA target with a host.

    Raises:
        TargetError: A kernel came out without a thread binding, which no GPU can run.
    """
    import tvm

    with target:
        lowered = tvm.transform.Sequential(gpu_passes(target))(mod)
    unbound = unbound_kernels(lowered)
    if unbound:
        raise TargetError(
            "Some operators cannot be scheduled for CUDA",
            seen=", ".join(unbound),
            do="compile the network (or the stage with these operators) for a CPU target",
        )
    return lowered


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
