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
    """The passes from Relax operators to what the virtual machine runs, in order.

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
        *stock.dataflow_lower_passes(target),
        passes.StaticPlanBlockMemory(),
        # No RewriteCUDAGraph: capturing needs a device that supports it, at a gain that only a
        # measurement on that device can show.
        passes.LowerAllocTensor(),
        passes.KillAfterLastUse(),
        passes.LowerRuntimeBuiltin(),
        passes.ComputePrimValue(),
        passes.VMShapeLower(),
        passes.AttachGlobalSymbol(),
    ]


def lower_for_cuda(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """Lower a Relax module for a CUDA target, ready for `relax.build(..., relax_pipeline=None)`.

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

    unbound = []
    for variable, function in mod.functions.items():
        if not isinstance(function, tirx.PrimFunc) or _is_host(function):
            continue
        bound = False

        def visit(node: object) -> None:
            nonlocal bound
            if isinstance(node, tirx.For) and node.thread_binding is not None:
                bound = True
            if isinstance(node, tirx.AttrStmt) and node.attr_key == "thread_extent":
                bound = True

        tirx.stmt_functor.post_order_visit(function.body, visit)
        if not bound:
            unbound.append(variable.name_hint)
    return tuple(sorted(unbound))


def _is_host(function: tvm.tirx.PrimFunc) -> bool:
    attributes = function.attrs or {}
    return "tirx.is_host_func" in attributes
