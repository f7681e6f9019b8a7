"""The CPU lowering: channels-last, packed weights, fused operators, scheduled loops."""

from __future__ import annotations

from functools import partial
from typing import Any

from tvm_iovt.schedules.border import fill_border, fuse_like_elementwise, write_inside
from tvm_iovt.schedules.constants import fold_constants
from tvm_iovt.schedules.contraction import Contraction
from tvm_iovt.schedules.dot_template import DotProduct
from tvm_iovt.schedules.elementwise import Elementwise, ParallelOnly
from tvm_iovt.schedules.layout import propagate_channels_last
from tvm_iovt.schedules.packing import pack_constant_weights
from tvm_iovt.schedules.reduced_precision import reduce_precision
from tvm_iovt.schedules.reduction import Reduction
from tvm_iovt.schedules.selection import Selector, predict
from tvm_iovt.schedules.template import Refusal, Template
from tvm_iovt.schedules.tiles import lanes_of
from tvm_iovt.schedules.tuned import TunedSchedules
from tvm_iovt.schedules.tvm_api import Schedule, relax, tirx, tvm
from tvm_iovt.schedules.vector_math import legalize_map
from tvm_iovt.schedules.window import Window
from tvm_iovt.schedules.winograd_template import Winograd
from tvm_iovt.types import CpuSpec, Decision

SCHEDULED = "tirx.is_scheduled"
"""Function attribute that TVM's default schedules and tuner respect."""

TRANSFORM = "ScheduleForCpu"

TEMPLATES: tuple[Template, ...] = (
    DotProduct(),
    DotProduct(fuse=False),
    Winograd(),
    Winograd(fuse=False),
    Contraction(),
    Contraction(fuse=False),
    Window(),
    Window(fuse=False),
    Reduction(),
    Elementwise(),
    ParallelOnly(),
)
"""In order of preference; the first that matches and applies wins."""


def lower_for_cpu(
    mod: Any,
    cpu: CpuSpec,
    target: Any,
    precision: str = "fp32",
    select: Selector | None = None,
    tuned: TunedSchedules | None = None,
) -> tuple[Any, tuple[Decision, ...]]:
    """Legalise, fuse and schedule a Relax module for a CPU.

    Args:
        mod: `tvm.IRModule` with a function `main` of static shapes whose parameters are constants;
            images are NCHW, as the ONNX importer makes them.
        cpu: Vector width, registers, caches and cores to schedule for.
        target: `tvm.target.Target` of kind `llvm` for the same CPU.
        precision: What convolutions and matrix products of float32 compute in; see
            `reduced_precision.reduce_precision`.
        select: Chooses the kernels of the convolutions; by default `selection.predict`.
        tuned: Schedules to prefer to those of the templates.

    Returns:
        The module, ready for the data-flow lowering of `tvm.relax.backend.cpu_generic`, and one
        decision per PrimFunc. Inputs and outputs keep their shapes and types.
    """
    return schedule_functions(fuse_for_cpu(mod, cpu, target, precision, select), cpu, tuned)


def fuse_for_cpu(
    mod: Any,
    cpu: CpuSpec,
    target: Any,
    precision: str = "fp32",
    select: Selector | None = None,
) -> Any:
    """Everything before scheduling: channels-last, packed weights, fused PrimFuncs.

    The arguments are those of `lower_for_cpu`. Functions that are scheduled between this and
    `schedule_functions` and marked with `SCHEDULED` stay as they are.
    """
    with target:
        mod = relax.transform.DecomposeOpsForInference()(mod)
        mod = fold_constants(mod)
        mod = propagate_channels_last(mod)
        mod = reduce_precision(mod, cpu, precision)
        mod = pack_constant_weights(mod, cpu, select or partial(predict, cpu=cpu))
        mod = tvm.transform.Sequential(
            [
                relax.backend.DispatchSampling(),
                relax.backend.DispatchSortScan(),
                relax.transform.LegalizeOps(legalize_map()),
                relax.transform.AnnotateTIROpPattern(),
            ]
        )(mod)
        return tvm.transform.Sequential(
            [
                relax.transform.FoldConstant(),
                relax.transform.FuseOps(),
                relax.transform.FuseTIR(),
                relax.transform.DeadCodeElimination(),
            ]
        )(fuse_like_elementwise(mod))


def schedule_functions(
    mod: Any, cpu: CpuSpec, tuned: TunedSchedules | None = None
) -> tuple[Any, tuple[Decision, ...]]:
    """Schedule every PrimFunc of a module that has no schedule yet."""
    functions = dict(mod.functions.items())
    decisions: list[Decision] = []
    for var in sorted(functions, key=lambda v: str(v.name_hint)):
        function = functions[var]
        if not isinstance(function, tirx.PrimFunc) or SCHEDULED in (function.attrs or {}):
            continue
        scheduled, decision = schedule_function(function, cpu, str(var.name_hint), tuned=tuned)
        functions[var] = scheduled
        decisions.append(decision)
    return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos), tuple(decisions)


def schedule_function(
    function: Any,
    cpu: CpuSpec,
    name: str,
    templates: tuple[Template, ...] = TEMPLATES,
    tuned: TunedSchedules | None = None,
) -> tuple[Any, Decision]:
    """Schedule one PrimFunc as it was tuned, else with the first template that fits.

    Args:
        function: An unscheduled PrimFunc.
        cpu: The CPU to schedule for.
        name: For the decision.
        templates: In order of preference.
        tuned: Schedules to prefer to those of the templates.

    Returns:
        The function, marked as scheduled, and what was done. Without any applicable template the
        function is returned as it came.
    """
    inside = write_inside(function)
    if inside is not None:
        inner, border = inside
        result, decision = schedule_function(inner, cpu, name, templates, tuned)
        if decision.applied:
            return fill_border(result, border, lanes_of(cpu)), decision
    found = tuned.scheduled(function) if tuned is not None else None
    if found is not None:
        result, reason = found
        decision = Decision(transform=TRANSFORM, subject=name, applied=True, reason=reason)
        return result.with_attr(SCHEDULED, True), decision
    refusals: list[str] = []
    failures: list[str] = []
    for template in templates:
        try:
            schedule = Schedule(tvm.IRModule({"main": function}))
            match = template.match(schedule)
            if isinstance(match, Refusal):
                refusals.append(f"{template.name}: {match.reason}")
                continue
            template.apply(schedule, match, cpu)
            result = schedule.mod["main"].with_attr(SCHEDULED, True)
        except Exception as error:  # TVM raises plain and unrelated classes; a build must not fail
            failures.append(f"{template.name} failed: {_first_line(error)}")
            continue
        reason = "; ".join([f"{template.name}: {match.detail}", *failures])
        return result, Decision(transform=TRANSFORM, subject=name, applied=True, reason=reason)
    reason = "; ".join([*failures, *refusals])
    return function, Decision(transform=TRANSFORM, subject=name, applied=False, reason=reason)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "rror" in line), lines[0] if lines else repr(error))
