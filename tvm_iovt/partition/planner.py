"""The entry to planning: which device runs which part of a network, and why."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from tvm_iovt.errors import TargetError, UsageError
from tvm_iovt.partition import alternatives as others
from tvm_iovt.partition.checks import check_devices, check_request, nothing_fits
from tvm_iovt.partition.evaluate import (
    ENERGY,
    LATENCY,
    MEMORY,
    THROUGHPUT,
    Evaluation,
    Evaluator,
)
from tvm_iovt.partition.explain import (
    memory_limit,
    placement_name,
    quantity,
    why_cut,
    why_not,
)
from tvm_iovt.partition.methods import ROUNDING, Found, best_by_count, of_less_latency
from tvm_iovt.partition.placement import Placement, placement_of, plan_stages
from tvm_iovt.partition.problem import Problem
from tvm_iovt.types import PartitionPlan, Stage

CUTS = "cuts"
"""`PartitionPlan.objective` of cuts that the user stated."""


def plan(
    problem: Problem,
    objective: str = LATENCY,
    *,
    order: Sequence[int] | None = None,
    noise: float = 0.0,
    source: str = "assumed",
) -> PartitionPlan:
    """The best plan for an objective, with fewer stages where more gain nothing to speak of.

    Args:
        problem: The network, the devices, and what everything takes.
        objective: `latency` of one frame; `throughput`, the period of a full pipeline, then the
            latency; `memory`, the bytes of the largest stage, then the latency; `energy`, the
            joules of computing a frame beyond idling.
        order: Devices in the order in which they may run, each of them or not; None for any order.
        noise: Relative half-width of the band that the times are known to. Another stage has to
            gain more; sizes in bytes have no noise.
        source: Of the unit times; see `Prediction.source`.

    Raises:
        UsageError: An argument is wrong, or there are too many devices to leave their order open.
        TargetError: Nothing fits, or a device states no watts and energy is to be minimised.
    """
    check_request(problem, objective, order, noise)
    evaluator = Evaluator(problem, source=source, noise=noise)
    found = best_by_count(evaluator, objective, order)
    devices = range(len(problem.devices)) if order is None else order
    whole = [evaluator.evaluate(one) for one in others.singles(problem, devices)]
    if not found.by_count:
        raise nothing_fits(whole)
    margin = 0.0 if objective == MEMORY else noise
    chosen = _choose(evaluator, objective, order, found, margin)
    compared = [("", one) for one in (*whole, *found.by_count.values())]
    naive = (
        (" (equal FLOPs each)", others.equal_flops(problem, tuple(devices))),
        (" (as much as each can run)", others.greedy(problem, tuple(devices))),
    )
    compared += [(remark, evaluator.evaluate(one)) for remark, one in naive if one]
    reason = _reason(problem, objective, chosen, whole, found, margin)
    return PartitionPlan(
        stages=plan_stages(problem, chosen.placement),
        objective=objective,
        reason=reason,
        prediction=chosen.prediction,
        alternatives=others.describe(evaluator, chosen, compared, objective, margin),
        reasons=_reasons(evaluator, chosen, objective),
    )


def plan_cuts(
    problem: Problem,
    positions: Sequence[int],
    devices: Sequence[int],
    *,
    noise: float = 0.0,
    source: str = "assumed",
) -> PartitionPlan:
    """The plan of cuts that the user states.

    Args:
        problem: The network, the devices, and what everything takes.
        positions: Where to cut, increasing: each cut lies behind so many units.
        devices: Index of the device of each stage, one more than cuts.
        noise: As for `plan`.
        source: As for `plan`.

    Raises:
        UsageError: The cuts or devices make no stages.
        TargetError: A stage does not fit its device.
    """
    units = len(problem.graph.units)
    ends = [0, *positions, units]
    if any(end <= start for start, end in itertools.pairwise(ends)):
        raise UsageError(
            "The cuts do not cut the network into stages",
            seen=f"positions {list(positions)} of {units} units",
            do=f"name different operators, in the network's order, between 1 and {units - 1}",
        )
    if len(devices) != len(positions) + 1 or len(set(devices)) != len(devices):
        raise UsageError(
            "Every stage needs a target of its own",
            seen=f"{len(positions)} cuts, {len(devices)} targets ({len(set(devices))} different)",
            do="name one target more than cuts, in the order in which they run",
        )
    check_devices(problem, devices)
    placement = Placement.of_cuts(devices, positions, units)
    return _stated(problem, placement, "These cuts were stated.", noise, source)


def plan_stated(
    problem: Problem, stages: Sequence[Stage], *, noise: float = 0.0, source: str = "assumed"
) -> PartitionPlan:
    """The plan of stages that the user states, by names of units: a plan that was edited, say.

    Raises:
        UsageError: The stages do not make this network, or not on these targets.
        TargetError: A stage does not fit its device.
    """
    placement = placement_of(problem, stages)
    return _stated(problem, placement, "These stages were stated.", noise, source)


def _stated(
    problem: Problem, placement: Placement, reason: str, noise: float, source: str
) -> PartitionPlan:
    evaluator = Evaluator(problem, source=source, noise=noise)
    stated = evaluator.evaluate(placement)
    if stated.obstacle:
        raise TargetError(
            "These stages cannot run where they are put",
            seen=stated.obstacle,
            do="cut elsewhere, or let the planner choose: --objective latency",
        )
    whole = [
        ("", evaluator.evaluate(one))
        for one in others.singles(problem, range(len(problem.devices)))
    ]
    return PartitionPlan(
        stages=plan_stages(problem, placement),
        objective=CUTS,
        reason=f"{reason} {memory_limit(problem, stated)}".rstrip(),
        prediction=stated.prediction,
        alternatives=others.describe(evaluator, stated, whole, LATENCY, noise),
        reasons=_reasons(evaluator, stated, LATENCY),
    )


def _choose(
    evaluator: Evaluator,
    objective: str,
    order: Sequence[int] | None,
    found: Found,
    noise: float,
) -> Evaluation:
    """The fewest stages within the noise of the best; of those, where ties abound, the fastest."""
    best = min(one.value(objective) for one in found.by_count.values())
    bound = best / (1 - noise) * (1 + ROUNDING)
    fewest = min(k for k, one in found.by_count.items() if one.value(objective) <= bound)
    chosen = found.by_count[fewest]
    if fewest > 1 and objective in (THROUGHPUT, MEMORY):
        # What is traded for latency must not be what the last stage was added for.
        fewer = [one.value(objective) for k, one in found.by_count.items() if k < fewest]
        worth = min([bound, *((1 - noise) * value for value in fewer)])
        faster = of_less_latency(
            evaluator, objective, order, found, chosen, max(worth, chosen.value(objective))
        )
        if _product(faster, objective) < _product(chosen, objective):
            chosen = faster
    return _in_order_of_devices(evaluator, objective, chosen) if order is None else chosen


def _product(found: Evaluation, objective: str) -> float:
    """Smaller where more latency is gained than is lost of the objective, relatively."""
    return found.prediction.latency_s * found.value(objective)


def _in_order_of_devices(evaluator: Evaluator, objective: str, chosen: Evaluation) -> Evaluation:
    """The same stages with equal devices in the order in which they are named."""
    stages = list(chosen.placement.stages)
    for first in range(len(stages)):
        for second in range(first + 1, len(stages)):
            if stages[first][0] < stages[second][0]:
                continue
            swapped = list(stages)
            swapped[first] = (stages[second][0], stages[first][1])
            swapped[second] = (stages[first][0], stages[second][1])
            found = evaluator.evaluate(Placement(stages=tuple(swapped)))
            if _as_good(found, chosen, objective):
                stages, chosen = swapped, found
    return chosen


def _as_good(found: Evaluation, chosen: Evaluation, objective: str) -> bool:
    return not found.obstacle and all(
        a <= b * (1 + ROUNDING)
        for a, b in (
            (found.value(objective), chosen.value(objective)),
            (found.prediction.latency_s, chosen.prediction.latency_s),
            (found.prediction.period_s, chosen.prediction.period_s),
        )
    )


def _reason(
    problem: Problem,
    objective: str,
    chosen: Evaluation,
    whole: Sequence[Evaluation],
    found: Found,
    noise: float,
) -> str:
    what = {LATENCY: "a frame", THROUGHPUT: "between frames", ENERGY: "a frame"}
    unit = what.get(objective, "in the largest stage")
    value = quantity(objective, chosen.value(objective))
    name = placement_name(problem, chosen.placement)
    name = name[0].upper() + name[1:] if name.startswith("the ") else name
    sentence = f"{name}: {value} {unit}"
    if len(chosen.placement.stages) == 1:
        cuts = [one for k, one in found.by_count.items() if k > 1]
        if cuts:
            best = min(cuts, key=lambda one: one.value(objective))
            sentence += (
                f"; no cut gains more than it costs. The best, "
                f"{placement_name(problem, best.placement)}: "
                f"{why_not(problem, best, chosen, objective, noise)}"
            )
        else:
            sentence += "; it cannot be cut" if len(problem.devices) > 1 else "; the only device"
    else:
        single = min(whole, key=lambda one: one.value(objective))
        if single.obstacle:
            sentence += f"; no device can run it alone ({single.obstacle})"
        else:
            gain = 1 - chosen.value(objective) / single.value(objective)
            alone = problem.devices[single.placement.devices[0]].name
            sentence += f", {gain:.1%} less than the whole network on {alone}, the best alone"
    note = f"{found.note[0].upper()}{found.note[1:]}." if found.note else ""
    return " ".join(part for part in (f"{sentence}.", memory_limit(problem, chosen), note) if part)


def _reasons(evaluator: Evaluator, chosen: Evaluation, objective: str) -> tuple[str, ...]:
    stages = range(1, len(chosen.placement.stages))
    return tuple(why_cut(evaluator, chosen, stage, objective) for stage in stages)
