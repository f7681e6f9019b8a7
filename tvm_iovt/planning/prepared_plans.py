"""Plans for other conditions than the expected ones, to change over to while a pipeline runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tvm_iovt.partition.evaluate import evaluate
from tvm_iovt.partition.placement import placement_of
from tvm_iovt.partition.planner import plan
from tvm_iovt.partition.problem import Problem
from tvm_iovt.types import PartitionPlan, TargetSpec

# What may be otherwise on the day: a device slowed down, or its links.
_SLOWER = (1.5, 2.5)
_NARROWER = (0.4, 0.15)


def prepared_plans(
    problem: Problem,
    chosen: PartitionPlan,
    specs: Sequence[TargetSpec],
    objective: str,
    count: int,
) -> list[PartitionPlan]:
    """Plans for days on which a device or a link is slower than expected, no two alike.

    Args:
        problem: As it is expected to be.
        chosen: The plan for that.
        specs: The devices.
        objective: Of the plan.
        count: Of plans, at most.
    """
    seen = {_cuts(chosen, specs)}
    found: list[PartitionPlan] = []
    for other_day in _conditions(problem):
        if len(found) == count:
            break
        other = plan(other_day, objective)
        if _cuts(other, specs) not in seen:
            seen.add(_cuts(other, specs))
            found.append(_as_expected(problem, chosen, other))
    return found


def _as_expected(problem: Problem, chosen: PartitionPlan, other: PartitionPlan) -> PartitionPlan:
    """A plan for other conditions with what it would take under the expected ones."""
    source = chosen.prediction.source if chosen.prediction else "assumed"
    noise = chosen.prediction.noise if chosen.prediction else 0.0
    found = evaluate(problem, placement_of(problem, other.stages), source=source, noise=noise)
    return dataclasses.replace(
        other,
        prediction=found.prediction,
        reason="prepared for slower days",
        alternatives=(),
        reasons=(),
    )


def _conditions(problem: Problem) -> list[Problem]:
    conditions = []
    for slower, narrower in zip(_SLOWER, _NARROWER, strict=True):
        for device in range(len(problem.devices)):
            rows = tuple(
                tuple(slower * unit_s for unit_s in row) if d == device else row
                for d, row in enumerate(problem.unit_s)
            )
            conditions.append(dataclasses.replace(problem, unit_s=rows))
        routes = tuple(
            tuple(
                dataclasses.replace(
                    route,
                    hops=tuple(
                        dataclasses.replace(hop, bytes_per_s=narrower * hop.bytes_per_s)
                        for hop in route.hops
                    ),
                )
                for route in row
            )
            for row in problem.routes
        )
        conditions.append(dataclasses.replace(problem, routes=routes))
    return conditions


def _cuts(
    found: PartitionPlan, specs: Sequence[TargetSpec]
) -> tuple[tuple[TargetSpec, tuple[str, ...]], ...]:
    """What makes plans differ: the units of each stage, and the kind of its device."""
    kinds = {spec.name: dataclasses.replace(spec, name="") for spec in specs}
    return tuple((kinds[stage.target], stage.units) for stage in found.stages)
