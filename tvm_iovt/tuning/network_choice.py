"""The last step of tuning: the schedules to use, decided inside the network.

Where the kernels of a network can be timed one by one, each is chosen by its own time there
(`choose_kernels`). Elsewhere, on boards and GPUs, whole networks are compared (`choose_together`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_iovt import _tvm
from tvm_iovt.build.cuda_pipeline import schedule_for_cuda
from tvm_iovt.schedules.cpu import schedule_functions
from tvm_iovt.tuning.finalists import FINALISTS, by_network_time, choice_of, finalists
from tvm_iovt.tuning.network_ranking import Comparison, VariantNetwork
from tvm_iovt.tuning.schedule_records import DeviceKind, ScheduleChoice, TrialRecord
from tvm_iovt.tuning.session import TaskState
from tvm_iovt.tuning.tuned import ChosenSchedules
from tvm_iovt.types import TargetSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkChoice:
    """What was chosen for a network.

    Attributes:
        choices: One for each task.
        comparison: The network untuned and with these choices; None if it was not measured.
    """

    choices: tuple[ScheduleChoice, ...]
    comparison: Comparison | None


Contest = Callable[[Sequence[Any]], Sequence["Comparison | None"]]
"""Times lowered modules of one network against the first of them, in turns; a comparison for each
of the others, None for one whose outputs differ."""

LARGE_GAIN = 0.1
"""Share of its time that a kernel saves alone, if it is tried without those that save less."""


def choose_kernels(
    fused: Any,
    states: Sequence[TaskState],
    trials: Mapping[str, Sequence[TrialRecord]],
    spec: TargetSpec,
    device: DeviceKind,
    inputs: Sequence[np.ndarray],
    *,
    network: str,
    note: Callable[[str], None],
) -> NetworkChoice:
    """Time the fastest schedules inside the network on this machine, and choose.

    A schedule is chosen if its kernel is faster there than the template's; all of them together
    only if the network is, too.

    Args:
        fused: The network's module before scheduling.
        states: Its tasks.
        trials: Recorded trials of each task, by the key of its workload.
        spec: The CPU of this machine.
        device: The same, for the records.
        inputs: Of the network, in order.
        network: Name of the network.
        note: Is told what is surprising.
    """
    candidates = [finalists(state, trials[state.task.workload.key]) for state in states]
    untuned = {
        state.task.workload.key: choice_of(
            state, None, device, network=network, reason="no schedule was as fast alone"
        )
        for state in states
    }
    if not any(candidates):
        return NetworkChoice(choices=tuple(untuned.values()), comparison=None)
    template = _scheduled(fused, spec, {})
    variants: list[dict[str, Any]] = [{}]
    for rank in range(FINALISTS):
        picked = [
            (state, found[rank])
            for state, found in zip(states, candidates, strict=True)
            if len(found) > rank
        ]
        variants.append(_variant(fused, spec, device, network, picked))
    ranked = VariantNetwork(template, variants, spec, inputs)
    wrong = set(ranked.check())
    for index in sorted(wrong):
        note(f"schedules of rank {index} give other outputs in the network and are dropped")
    times = ranked.kernels()
    chosen: list[tuple[TaskState, TrialRecord]] = []
    choices = dict(untuned)
    for state, found in zip(states, candidates, strict=True):
        right = [(t, times[i]) for i, t in enumerate(found, start=1) if i not in wrong]
        best, seconds, before = by_network_time(
            state, [t for t, _ in right], [times[0], *(time for _, time in right)]
        )
        if found and best is None:
            reason = "what is as fast alone is not faster in the network"
        else:
            reason = "fastest in the network" if best else "no schedule was as fast alone"
        if best is not None:
            chosen.append((state, best))
        choices[state.task.workload.key] = choice_of(
            state,
            best,
            device,
            network=network,
            network_s=seconds,
            template_network_s=before,
            reason=reason,
        )
    if not chosen:
        return NetworkChoice(choices=tuple(choices.values()), comparison=None)
    final = VariantNetwork(
        template, [{}, _variant(fused, spec, device, network, chosen)], spec, inputs
    )
    comparison = final.compare(0, 1)
    if final.check() or not comparison.is_gain:
        note("together, the chosen schedules do not make the network faster: none is used")
        rejected = "the network as a whole is not faster with what was found"
        choices = {
            state.task.workload.key: choice_of(
                state, None, device, network=network, reason=rejected
            )
            for state in states
        }
    return NetworkChoice(choices=tuple(choices.values()), comparison=comparison)


def choose_together(
    fused: Any,
    states: Sequence[TaskState],
    trials: Mapping[str, Sequence[TrialRecord]],
    spec: TargetSpec,
    device: DeviceKind,
    contest: Contest,
    *,
    network: str,
    note: Callable[[str], None],
) -> NetworkChoice:
    """Choose between the templates, everything that was faster alone, and what was much faster.

    Args:
        fused: The network's module before scheduling.
        states: Its tasks.
        trials: Recorded trials of each task, by the key of its workload.
        spec: The target.
        device: The same, for the records.
        contest: Compares networks on the device.
        network: Name of the network.
        note: Is told what is surprising.
    """
    first = [
        (state, found[0])
        for state in states
        for found in [finalists(state, trials[state.task.workload.key])]
        if found and (state.template_s is None or found[0].median_s < state.template_s)
    ]
    large = [
        (state, trial)
        for state, trial in first
        if state.template_s is None or trial.median_s <= (1 - LARGE_GAIN) * state.template_s
    ]
    sets = [first, large] if 0 < len(large) < len(first) else [first]
    best, best_comparison, reason = [], None, "no schedule was faster alone"
    if first:
        modules = [_with_picked(fused, spec, device, network, picked) for picked in ([], *sets)]
        reason = "the network as a whole is not faster with what was found"
        for picked, comparison in zip(sets, contest(modules), strict=True):
            if comparison is None:
                note("the network gives other outputs with the schedules found; none of them used")
                continue
            better = best_comparison is None or comparison.ratio < best_comparison.ratio
            if better:
                best_comparison = comparison
                best = picked if comparison.is_gain else []
    chosen = {state.task.workload.key: trial for state, trial in best}
    return NetworkChoice(
        choices=tuple(
            choice_of(
                state,
                chosen.get(state.task.workload.key),
                device,
                network=network,
                reason="part of the fastest network"
                if state.task.workload.key in chosen
                else reason,
            )
            for state in states
        ),
        comparison=best_comparison,
    )


def local_contest(spec: TargetSpec, inputs: Sequence[np.ndarray]) -> Contest:
    """A contest on this machine.

    Args:
        spec: Its CPU or GPU.
        inputs: Of the network, in order.
    """

    def contest(modules: Sequence[Any]) -> Sequence[Comparison | None]:
        found: list[Comparison | None] = []
        for module in modules[1:]:
            functions = {
                str(var.name_hint): function
                for var, function in module.functions.items()
                if isinstance(function, _tvm.tirx.PrimFunc)
            }
            both = VariantNetwork(modules[0], [{}, functions], spec, inputs)
            found.append(None if both.check() else both.compare(0, 1))
        return found

    return contest


def _with_picked(
    fused: Any,
    spec: TargetSpec,
    device: DeviceKind,
    network: str,
    picked: Sequence[tuple[TaskState, TrialRecord]],
) -> Any:
    """The network with some tasks scheduled as in recorded trials, ready for code generation."""
    schedules = {
        state.task.workload.key: choice_of(state, trial, device, network=network, reason="")
        for state, trial in picked
    }
    return _scheduled(fused, spec, schedules)


def _variant(
    fused: Any,
    spec: TargetSpec,
    device: DeviceKind,
    network: str,
    picked: Sequence[tuple[TaskState, TrialRecord]],
) -> dict[str, Any]:
    """The functions of some tasks, scheduled as in recorded trials."""
    module = _with_picked(fused, spec, device, network, picked)
    names = [name for state, _ in picked for name in state.task.functions]
    return {name: module[name] for name in names}


def _scheduled(fused: Any, spec: TargetSpec, schedules: Mapping[str, ScheduleChoice]) -> Any:
    tuned = ChosenSchedules(schedules)
    if spec.gpu is not None:
        return schedule_for_cuda(fused, _tvm.tvm_target(spec), tuned)[0]
    return schedule_functions(fused, spec.cpu, tuned)[0]
