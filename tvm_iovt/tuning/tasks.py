"""The kernels of a lowered network that have schedules to search for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from tvm_iovt import _tvm
from tvm_iovt.schedules.border import write_inside
from tvm_iovt.schedules.cpu import SCHEDULED
from tvm_iovt.tuning.trial import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A workload and what it means to a network.

    Attributes:
        workload: The kernel. One that writes into a border (`schedules.border`) leaves it alone.
        module: The same as `tvm.IRModule`, function `main`.
        weight: Calls in one run of the network.
        flops: Of one call; 0 if TVM cannot tell.
        moved_bytes: Inputs, weights and outputs of one call.
        functions: Names of the network's functions that are this kernel.
    """

    workload: Workload
    module: Any
    weight: int
    flops: int
    moved_bytes: int
    functions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """The kernels of a network.

    Attributes:
        tasks: Those to search schedules for.
        fixed: Names of those without choices: scheduled already, views, calls of libraries.
    """

    tasks: tuple[Task, ...]
    fixed: tuple[str, ...]


def without_border(function: Any) -> Any:
    """The function that is scheduled: it writes inside of a border, and others fill that."""
    inside = write_inside(function)
    return function if inside is None else inside[0]


def module_of(function: Any) -> Any:
    """A module with the function as `main`, whatever it was called and annotated before."""
    bare = function.with_attr("global_symbol", "main").without_attr("op_pattern")
    return _tvm.tvm.IRModule({"main": bare})


def workload_key(module: Any) -> str:
    """Key of a workload: equal for modules that are structurally equal, names aside."""
    return f"{_tvm.tvm_ffi.structural_hash(module) & (1 << 64) - 1:016x}"


def extract_tasks(mod: Any) -> Tasks:
    """The tasks of a module of fused, unscheduled PrimFuncs (`schedules.cpu.fuse_for_cpu`).

    Args:
        mod: `tvm.IRModule` whose function `main` calls the PrimFuncs with `call_tir`.

    Returns:
        One task for each distinct kernel.
    """
    calls, outputs = _calls(mod)
    by_key: dict[str, list[str]] = {}
    modules: dict[str, Any] = {}
    fixed = []
    for name in sorted(calls):
        function = mod[name]
        if not _is_searchable(function):
            fixed.append(name)
            continue
        module = module_of(without_border(function))
        key = workload_key(module)
        modules[key] = module
        by_key.setdefault(key, []).append(name)
    tasks = tuple(
        _task(key, modules[key], names, sum(calls[name] for name in names), outputs[names[0]])
        for key, names in by_key.items()
    )
    return Tasks(tasks=tasks, fixed=tuple(fixed))


def _task(key: str, module: Any, names: list[str], weight: int, outputs: int) -> Task:
    buffers = module["main"].params
    return Task(
        workload=Workload(
            key=key, name=names[0], module=str(_tvm.tvm.ir.save_json(module)), outputs=outputs
        ),
        module=module,
        weight=weight,
        flops=_flops(module),
        moved_bytes=sum(map(_bytes, buffers)),
        functions=tuple(names),
    )


def _flops(module: Any) -> int:
    from tvm.s_tir.analysis import estimate_tir_flops

    try:
        return int(estimate_tir_flops(module))
    except _tvm.tvm.error.InternalError:  # it does not know every expression
        return 0


def _bytes(buffer: Any) -> int:
    elements = 1
    for extent in buffer.shape:
        elements *= int(extent)
    dtype = _tvm.tvm.DataType(str(buffer.dtype))
    return elements * ((int(dtype.bits) * int(dtype.lanes) + 7) // 8)


def _calls(mod: Any) -> tuple[Counter[str], dict[str, int]]:
    """How often each PrimFunc is called, and how many outputs it has."""
    relax = _tvm.relax
    calls: Counter[str] = Counter()
    outputs: dict[str, int] = {}
    call_tir = _tvm.tvm.ir.Op.get("relax.call_tir")

    def visit(expr: Any) -> None:
        if not isinstance(expr, relax.Call) or expr.op != call_tir:
            return
        name = str(expr.args[0].name_hint)
        calls[name] += 1
        kind = expr.ty_args[0]
        outputs[name] = len(kind.fields) if hasattr(kind, "fields") else 1

    for function in mod.functions.values():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, visit)
    return calls, outputs


def _is_searchable(function: Any) -> bool:
    """Whether a PrimFunc computes something whose loops can be arranged anew."""
    if SCHEDULED in (function.attrs or {}):
        return False
    if _tvm.relax.analysis.has_reshape_pattern(function):
        return False  # becomes a view
    static = all(
        isinstance(extent, _tvm.tirx.IntImm)
        for buffer in function.params
        for extent in buffer.shape
    )
    return static and not _calls_libraries(function)


def _calls_libraries(function: Any) -> bool:
    found: list[Any] = []

    def visit(call: Any) -> None:
        if str(getattr(call.op, "name", "")) in _LIBRARY_CALLS:
            found.append(call)

    _tvm.tvm_ffi.structural_walk(function.body, (_tvm.tvm.ir.Call, visit), order="post")
    return bool(found)


_LIBRARY_CALLS = ("tirx.tvm_call_packed", "tirx.call_extern", "tirx.tvm_call_cpacked")
