"""The search of a task: first of its template's space, then by evolution of TVM's generic one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm_iovt.schedules.cpu import SCHEDULED, schedule_function
from tvm_iovt.schedules.design_space import design_space, generic_spaces, template_spaces
from tvm_iovt.schedules.template import Refusal
from tvm_iovt.schedules.tvm_api import Schedule, meta_schedule, tirx, tvm
from tvm_iovt.schedules.winograd_template import Winograd
from tvm_iovt.tuning.cost_model import CostModel
from tvm_iovt.tuning.evolution import EvolutionSearch
from tvm_iovt.tuning.proposal import Measured, Proposal, Search
from tvm_iovt.tuning.search_chain import SearchChain
from tvm_iovt.tuning.small_space import MAX_POINTS, SmallSpaceSearch, points_of
from tvm_iovt.tuning.tasks import Task
from tvm_iovt.tuning.traces import trial_key
from tvm_iovt.tuning.trial import Trial
from tvm_iovt.types import TargetSpec


def task_search(
    task: Task,
    spec: TargetSpec,
    target: Any,
    model: CostModel,
    history: Mapping[str, Measured],
    seed: int,
) -> Search:
    """A search for schedules of a task.

    Args:
        task: What to search for.
        spec: The target.
        target: The same as `tvm.target.Target`.
        model: Predicts.
        history: Trials of the task that were made already, by their keys.
        seed: Of the random numbers.
    """
    schedule = Schedule(task.module, debug_mask="none")

    def templates() -> Search | None:
        spaces = template_spaces(schedule, spec.cpu) if spec.gpu is None else []
        points = points_of(spaces)
        if spaces and points is not None and points <= MAX_POINTS:
            return SmallSpaceSearch(task, spaces, model, history, seed)
        return evolution(design_space(spec.cpu, target), spaces) if spaces else None

    def generic() -> Search | None:
        if not isinstance(Winograd().match(schedule.copy()), Refusal):
            return None  # stages that must be interleaved: no generic rule comes near
        if spec.gpu is None:
            generator = design_space(spec.cpu, target)
            spaces = generic_spaces(schedule, spec.cpu, target)
        else:
            generator = meta_schedule.space_generator.PostOrderApply()
            context = meta_schedule.TuneContext(
                task.module, target=target, space_generator=generator, num_threads=1
            )
            spaces = list(context.generate_design_space())
        return evolution(generator, spaces) if spaces else None

    def evolution(generator: Any, spaces: Sequence[Any]) -> Search:
        return EvolutionSearch(task, generator, spaces, model, target, history, seed)

    return SearchChain([_or_none(templates), _or_none(generic)])


def _or_none(make: Callable[[], Search | None]) -> Callable[[], Search | None]:
    """A function without a space for TVM is a function without a search."""

    def made() -> Search | None:
        try:
            return make()
        except Exception:  # TVM raises plain and unrelated classes
            return None

    return made


def template_function(task: Task, spec: TargetSpec, target: Any) -> Any | None:
    """The task's function as it is scheduled without tuning; None if nothing applies."""
    function = task.module["main"]
    if spec.gpu is None:
        scheduled, decision = schedule_function(function, spec.cpu, task.workload.name)
        return scheduled if decision.applied else None
    from tvm_iovt.build.cuda_pipeline import default_schedules, unbound_kernels

    with target:
        module = default_schedules()(task.module)
    if unbound_kernels(module):
        return None
    scheduled = module["main"]
    assert isinstance(scheduled, tirx.PrimFunc)
    return scheduled.with_attr(SCHEDULED, True)


def template_proposal(task: Task, spec: TargetSpec, target: Any) -> Proposal | None:
    """The untuned schedule as the first thing to measure; None if there is none."""
    function = template_function(task, spec, target)
    if function is None:
        return None
    module = str(tvm.ir.save_json(tvm.IRModule({"main": function})))
    trial = Trial(key=trial_key(task.workload.key, None), workload=task.workload, module=module)
    return Proposal(trial=trial, trace=None, schedule=None)
