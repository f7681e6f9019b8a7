"""The plan of a published formula beside ours."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from tvm_iovt import unit_times
from tvm_iovt.partition.planner import plan, plan_cuts
from tvm_iovt.partition.problem import Problem
from tvm_iovt.types import Alternative, PartitionPlan, TargetSpec

_TIMES = {"latency": ("latency_s", "latency"), "throughput": ("period_s", "period")}
"""Objectives that are times: the field of a prediction, and its word."""


def paper_comparison(problem: Problem, specs: Sequence[TargetSpec], source: str) -> PartitionPlan:
    """The plan of the published formula, with what our model expects of it."""
    from tvm_iovt.partition.paper import paper_plan

    first, second = (unit_times.profile_of(spec).roofs[-1] for spec in specs)
    hops = problem.routes[0][1].hops
    found = paper_plan(
        problem.graph,
        (first.peaks[0].flops_per_s, second.peaks[0].flops_per_s),
        (first.bandwidth_bytes_per_s, second.bandwidth_bytes_per_s),
        min((hop.bytes_per_s for hop in hops), default=math.inf),
    )
    units = len(problem.graph.units)
    if found.position in (0, units):
        device = 0 if found.position else 1
        chosen = plan_cuts(problem, (), (device,), source=source)
    else:
        chosen = plan_cuts(problem, (found.position,), (0, 1), source=source)
    ours = tuple(_ours(problem, chosen, objective, source) for objective in _TIMES)
    return dataclasses.replace(
        chosen,
        objective="paper",
        reason=f"{found.reason} (arXiv 2411.00838 v1, reproduced with its defects)",
        alternatives=(*ours, *chosen.alternatives),
    )


def _ours(problem: Problem, paper: PartitionPlan, objective: str, source: str) -> Alternative:
    """Our plan for an objective, and how many times as long the published formula's plan takes."""
    best = plan(problem, objective, source=source)
    assert best.prediction is not None
    assert paper.prediction is not None
    what, name = _TIMES[objective]
    ratio = getattr(paper.prediction, what) / getattr(best.prediction, what)
    basis = "with measured operators" if source == "measured" else "by our model"
    return Alternative(
        name=f"our plan for {objective}: {' | '.join(stage.target for stage in best.stages)}",
        latency_s=best.prediction.latency_s,
        period_s=best.prediction.period_s,
        reason=f"{basis} the published formula's plan has {ratio:.2f} times its {name}",
    )
