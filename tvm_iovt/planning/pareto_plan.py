"""`plan --pareto`: all splits between an edge device and a server that no other beats."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tvm_iovt import targets
from tvm_iovt.errors import UsageError
from tvm_iovt.partition.evaluate import evaluate
from tvm_iovt.partition.findings import FrontPoint, ParetoFront
from tvm_iovt.partition.lmos import MEMORY_SHARE, LmosPlan, Split, plan_lmos, split_placement
from tvm_iovt.partition.planner import plan_cuts
from tvm_iovt.partition.problem import Problem
from tvm_iovt.planning.edge_server import EdgeServer, cut_name, edge_and_server
from tvm_iovt.planning.model_plan import CostedModel, PlanOptions, Progress, read_model
from tvm_iovt.planning.network_plan import with_threads
from tvm_iovt.planning.plan_file import PlanFile
from tvm_iovt.planning.unit_rows import worst_source

OBJECTIVE = "pareto"
"""`PartitionPlan.objective` of a split from the front."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoRequest:
    """What of the edge's memory may be used.

    Attributes:
        memory_share: Above 0, up to 1.
        edge_memory_bytes: That the edge has; 0: what its target states.
    """

    memory_share: float = MEMORY_SHARE
    edge_memory_bytes: int = 0


def plan_pareto(
    model: Path,
    options: PlanOptions,
    request: ParetoRequest,
    *,
    progress: Progress = lambda message: None,
) -> tuple[ParetoFront, PlanFile]:
    """The Pareto front of latency and use of the edge's memory, and the plan of its knee.

    Args:
        model: ONNX file or torch.export program.
        options: The first target is the edge, the second one the server; no objective or cuts.
        request: The limit.
        progress: Called with a line for each step.

    Raises:
        IovtError: One of its subclasses, each with its exit code.
    """
    pair = _with_memory(
        edge_and_server(targets.load_devices(options.targets), options.links), request
    )
    found = read_model(model, options, pair.specs, progress)
    progress(f"comparing {len(found.graph.units) + 1} splits")
    rows = [found.rows.of(spec) for spec in pair.specs]
    problem = pair.problem(found.graph, rows)
    chosen = plan_lmos(problem, memory_share=request.memory_share)
    source = worst_source(rows)
    front = _front(problem, pair, found, chosen, request, source)
    noise = max(row.noise for row in rows)
    position, units = chosen.split.position, len(found.graph.units)
    ends = {0: (1,), units: (0,)}
    plan = plan_cuts(
        problem,
        () if position in ends else (position,),
        ends.get(position, (0, 1)),
        noise=noise,
        source=source,
    )
    plan = dataclasses.replace(
        plan, objective=OBJECTIVE, reason=f"{chosen.reason[0].upper()}{chosen.reason[1:]}."
    )
    measured = tuple(row.unit_s if row.source == "measured" else () for row in rows)
    file = PlanFile(
        model_name=found.name,
        model_sha256=found.sha256,
        targets=pair.specs,
        graph=found.graph,
        unit_s=problem.unit_s,
        measured=measured if any(measured) else (),
        plan=with_threads(plan, pair.specs),
        links=pair.stated,
        home=pair.home,
    )
    return front, file


def _with_memory(pair: EdgeServer, request: ParetoRequest) -> EdgeServer:
    """The pair, with as much memory at the edge as was stated."""
    if not 0 < request.memory_share <= 1:
        raise UsageError(
            "The share of the edge's memory is above 0 and up to 1",
            seen=f"{request.memory_share}",
            do="give --memory-share a part of it, such as 0.1",
        )
    edge = pair.edge
    if request.edge_memory_bytes:
        edge = dataclasses.replace(edge, memory_bytes=request.edge_memory_bytes)
    if not edge.memory_bytes:
        raise UsageError(
            f"Nobody says how much memory {edge.name} has, which the front is about",
            seen=f"no memory_bytes in {edge.source or 'its target'}",
            do="write memory_bytes = 536870912 (its bytes) into its TOML file, above all tables, "
            "or add --edge-memory 512MB",
        )
    return dataclasses.replace(pair, edge=edge)


def _front(
    problem: Problem,
    pair: EdgeServer,
    found: CostedModel,
    chosen: LmosPlan,
    request: ParetoRequest,
    source: str,
) -> ParetoFront:
    point = _point_of(problem, chosen.limit_bytes)
    fastest = plan_lmos(problem, rule="latency-only", memory_share=request.memory_share)
    return ParetoFront(
        model_name=found.name,
        units=len(found.graph.units),
        edge=pair.edge.name,
        server=pair.server.name,
        link=pair.link,
        memory_bytes=pair.edge.memory_bytes,
        memory_share=request.memory_share,
        limit_bytes=chosen.limit_bytes,
        rule=chosen.rule,
        reason=chosen.reason,
        chosen=chosen.front.index(chosen.split),
        front=tuple(map(point, chosen.front)),
        fastest=point(fastest.split),
        source=source,
    )


def _point_of(problem: Problem, limit_bytes: float) -> Callable[[Split], FrontPoint]:
    def point(split: Split) -> FrontPoint:
        placement = split_placement(problem, 0, 1, split.position)
        return FrontPoint(
            position=split.position,
            cut=cut_name(problem.graph, split.position),
            latency_s=split.latency_s,
            period_s=evaluate(problem, placement).prediction.period_s,
            edge_bytes=split.edge_bytes,
            limit_share=split.edge_bytes / limit_bytes,
        )

    return point
