"""Sentences for people: what a placement is called, and why it was chosen, or not."""

from __future__ import annotations

import math

from tvm_iovt.partition.contention import shared_memories
from tvm_iovt.partition.evaluate import (
    ENERGY,
    LATENCY,
    MEMORY,
    THROUGHPUT,
    Evaluation,
    Evaluator,
    megabytes,
)
from tvm_iovt.partition.placement import Placement, bits
from tvm_iovt.partition.problem import Problem

_TRIED = 16  # units at a cut that are moved to its other side, to see what that costs


def duration(seconds: float) -> str:
    """Seconds for people, three digits: `12.3 us`, `0.8 ms`, `1.25 s`."""
    size = abs(seconds)
    if size < 1e-4:
        return f"{seconds * 1e6:.3g} us"
    if size < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s" if size < 1e3 else f"{seconds:.0f} s"


def quantity(objective: str, value: float) -> str:
    """A value of an objective in its own unit."""
    if objective == MEMORY:
        return megabytes(value)
    if objective == ENERGY:
        return f"{value:.3g} J" if value >= 1 else f"{value * 1e3:.3g} mJ"
    return duration(value)


def placement_name(problem: Problem, placement: Placement) -> str:
    """`the whole network on host`, or `host | arm, cut after conv_12`."""
    names = [problem.devices[device].name for device in placement.devices]
    if len(names) == 1:
        return f"the whole network on {names[0]}"
    cuts = [cut_name(problem, placement, stage) for stage in range(1, len(names))]
    return f"{' | '.join(names)}, cut after {'; '.join(cuts)}"


def cut_name(problem: Problem, placement: Placement, stage: int) -> str:
    """The units that a cut before a stage lies behind."""
    units = problem.graph.units
    done = sorted(unit for _, members in placement.stages[:stage] for unit in members)
    if done[-1] == len(done) - 1:  # the units are in order up to it
        return units[done[-1]].name
    inside = frozenset(done)
    crossing = {edge.producer for edge in problem.graph.crossing(inside)} & inside
    names = [units[unit].name for unit in sorted(crossing, reverse=True)] or [units[done[-1]].name]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more if more else " and ".join(names[:3])


def why_not(
    problem: Problem, other: Evaluation, chosen: Evaluation, objective: str, noise: float
) -> str:
    """Why a placement was not chosen."""
    if other.obstacle:
        return other.obstacle
    theirs, ours = other.value(objective), chosen.value(objective)
    if theirs < ours:
        share = 1 - theirs / ours
        if share > noise + 1e-9:
            return f"it would take {share:.1%} less"  # stages that the user stated
        more = len(other.placement.stages) - len(chosen.placement.stages)
        later_s = other.prediction.latency_s - chosen.prediction.latency_s
        cost = ""
        if more > 0:
            cost = f", for {more} more stage{'s' * (more > 1)}"
        elif objective != LATENCY and later_s > 0:
            cost = f", and its frames take {duration(later_s)} longer"
        return f"its gain of {share:.2%} is within the noise of {noise:.1%}{cost}"
    if objective == LATENCY:
        return _slower(other, chosen)
    if objective == THROUGHPUT:
        if theirs == ours:
            return "no more frames a second"
        return (
            f"a frame every {duration(theirs)} instead of {duration(ours)}: "
            f"{_slowest(problem, other)}"
        )
    if theirs == ours:
        return f"takes {quantity(objective, theirs)} as well"
    what = "its largest stage needs" if objective == MEMORY else "takes"
    texts = quantity(objective, theirs), quantity(objective, ours)
    if texts[0] == texts[1]:
        return f"{what} {quantity(objective, theirs - ours)} more"
    return f"{what} {texts[0]} instead of {texts[1]}"


def memory_limit(problem: Problem, evaluation: Evaluation) -> str:
    """A sentence if a shared memory, not a stage or transfer, sets the period; else empty."""
    names = _waiting(problem, evaluation)
    if not names:
        return ""
    prediction = evaluation.prediction
    longest_s = max(stage.compute_s for stage in prediction.stages)
    return (
        f"Not a stage but the memory that {names} share limits the frame rate: a frame keeps it "
        f"busy for {duration(prediction.memory_s)}, and no stage for longer than "
        f"{duration(longest_s)}."
    )


def _waiting(problem: Problem, evaluation: Evaluation) -> str:
    """The devices that share the memory which sets the period; empty if something else does."""
    prediction, placement = evaluation.prediction, evaluation.placement
    if evaluation.obstacle or not 0 < prediction.memory_s >= prediction.period_s * (1 - 1e-9):
        return ""
    if max(stage.compute_s for stage in prediction.stages) >= prediction.period_s * (1 - 1e-9):
        return ""
    memories = shared_memories(problem)
    stages = [
        (device, units, stage.compute_s)
        for (device, units), stage in zip(placement.stages, prediction.stages, strict=True)
    ]
    group = max(memories.groups, key=lambda group: memories.busy_s(group, stages))
    names = [problem.devices[device].name for device in placement.devices if device in group]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def why_cut(evaluator: Evaluator, chosen: Evaluation, stage: int, objective: str) -> str:
    """Why a placement is cut before a stage, and what the cut's neighbours would cost."""
    problem = evaluator.problem
    placement = chosen.placement
    prediction = chosen.prediction.stages[stage]
    device, units = placement.stages[stage]
    other, _ = placement.stages[stage - 1]
    there = problem.devices[device].name
    elsewhere_s = sum(problem.unit_s[other][unit] for unit in units)
    if elsewhere_s == math.inf:
        instead = f"{problem.devices[other].name} cannot run all of it"
    else:
        instead = f"{duration(elsewhere_s)} on {problem.devices[other].name}"
    parts = [
        f"cut after {cut_name(problem, placement, stage)}: moves {megabytes(prediction.bytes_in)} "
        f"to {there} in {duration(prediction.receive_s)}",
        f"the stage behind it takes {duration(prediction.compute_s)} there, {instead}",
    ]
    for side in ("earlier", "later"):
        moved = [evaluator.evaluate(one) for one in _moved(evaluator, placement, stage, side)]
        if moved:
            best = min(moved, key=lambda one: one.value(objective))
            parts.append(f"one unit {side}, {_difference(best, chosen, objective)}")
    return "; ".join(parts)


def _difference(other: Evaluation, chosen: Evaluation, objective: str) -> str:
    if other.obstacle:
        return other.obstacle
    more = other.value(objective) - chosen.value(objective)
    if abs(more) <= 1e-9 * chosen.value(objective):
        return "the same"
    return f"{quantity(objective, abs(more))} {'more' if more > 0 else 'less'}"


def _moved(evaluator: Evaluator, placement: Placement, stage: int, side: str) -> list[Placement]:
    """The placements with one unit less before the cut, or one more."""
    ahead, behind = placement.stages[stage - 1], placement.stages[stage]
    giver, taker = (ahead, behind) if side == "earlier" else (behind, ahead)
    if len(giver[1]) == 1:
        return []
    read = 0
    for unit in ahead[1]:
        read |= evaluator.before[unit]
    own = bits(behind[1])
    moved: list[Placement] = []
    for unit in reversed(ahead[1]) if side == "earlier" else behind[1]:
        bound = read >> unit & 1 if side == "earlier" else evaluator.before[unit] & own
        if bound or len(moved) == _TRIED:
            continue
        left = giver[0], tuple(one for one in giver[1] if one != unit)
        more = taker[0], tuple(sorted((*taker[1], unit)))
        pair = (left, more) if side == "earlier" else (more, left)
        stages = (*placement.stages[: stage - 1], *pair, *placement.stages[stage + 1 :])
        moved.append(Placement(stages=stages))
    return moved


def _slower(other: Evaluation, chosen: Evaluation) -> str:
    theirs, ours = other.prediction, chosen.prediction
    moving_s = theirs.transfer_s - ours.transfer_s
    computing_s = (theirs.latency_s - theirs.transfer_s) - (ours.latency_s - ours.transfer_s)
    small_s = 1e-9 * ours.latency_s
    if abs(moving_s) <= small_s and abs(computing_s) <= small_s:
        return "no faster"
    if moving_s > small_s and computing_s < -small_s:
        more = " more" if ours.transfer_s else " of"
        return f"{duration(moving_s)}{more} transfer for {duration(-computing_s)} saved"
    if computing_s > small_s and moving_s < -small_s:
        return f"computes {duration(computing_s)} longer for {duration(-moving_s)} less transfer"
    parts = [f"computes {duration(computing_s)} longer"] if computing_s > small_s else []
    parts += [f"moves tensors {duration(moving_s)} longer"] if moving_s > small_s else []
    return " and ".join(parts) or "no faster"


def _slowest(problem: Problem, evaluation: Evaluation) -> str:
    """The part of a pipeline that its period is that of."""
    if names := _waiting(problem, evaluation):
        return (
            f"the memory that {names} share is busy for {duration(evaluation.prediction.memory_s)}"
        )
    stages = list(zip(evaluation.placement.devices, evaluation.prediction.stages, strict=True))
    device, stage = max(stages, key=lambda pair: pair[1].compute_s)
    name = problem.devices[device].name
    if stage.compute_s >= evaluation.prediction.period_s * (1 - 1e-9):
        return f"{name} computes for {duration(stage.compute_s)}"
    device, stage = max(stages, key=lambda pair: max(pair[1].receive_s, pair[1].send_s))
    name = problem.devices[device].name
    if stage.send_s > stage.receive_s:
        return f"its outputs travel for {duration(stage.send_s)}"
    return f"{megabytes(stage.bytes_in)} travel to {name} for {duration(stage.receive_s)}"
