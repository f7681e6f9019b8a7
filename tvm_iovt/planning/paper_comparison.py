"""The plan of a published formula beside ours."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from tvm_iovt import unit_times
from tvm_iovt.partition.planner import plan, plan_cuts
from tvm_iovt.partition.problem import Problem
from tvm_iovt.types import Alternative, PartitionPlan, TargetSpec


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
    best = plan(problem, "latency", source=source)
    assert best.prediction is not None
    assert chosen.prediction is not None
    ratio = chosen.prediction.latency_s / best.prediction.latency_s
    ours = Alternative(
        name=f"our plan for latency: {' | '.join(stage.target for stage in best.stages)}",
        latency_s=best.prediction.latency_s,
        period_s=best.prediction.period_s,
        reason=f"the published formula's plan takes {ratio:.2f} times as long by our model",
    )
    return dataclasses.replace(
        chosen,
        objective="paper",
        reason=f"{found.reason} (arXiv 2411.00838 v1, reproduced with its defects)",
        alternatives=(ours, *chosen.alternatives),
    )
