"""`plan_network`: from a network's units and targets to plans, the best one first."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_iovt.cost_graph import CostGraph
from tvm_iovt.errors import IovtError, UsageError
from tvm_iovt.partition.planner import plan, plan_cuts
from tvm_iovt.partition.problem import Problem
from tvm_iovt.planning.device_choices import device_choices, slowdowns
from tvm_iovt.planning.links import parse_link, parse_links
from tvm_iovt.planning.paper_comparison import paper_comparison
from tvm_iovt.planning.places import devices_of, routes_of
from tvm_iovt.planning.plan_file import PlanFile
from tvm_iovt.planning.prepared_plans import prepared_plans
from tvm_iovt.planning.unit_rows import UnitRows, worst_source
from tvm_iovt.types import Alternative, PartitionPlan, TargetSpec

OBJECTIVES = ("latency", "throughput", "memory", "energy", "paper")

_MOST_ALTERNATIVES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What to plan.

    Attributes:
        objective: One of `OBJECTIVES`; empty with `cuts`.
        cuts: Operators to cut behind; the targets get the parts in order.
        links: See `links.parse_link`.
        prepare: Also give so many plans for other conditions.
    """

    objective: str = "latency"
    cuts: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    prepare: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    specs: tuple[TargetSpec, ...]
    problem: Problem
    plan: PartitionPlan
    rows: tuple[tuple[float, ...], ...]
    measured: tuple[tuple[float, ...], ...]


def check_request(request: PlanRequest, specs: Sequence[TargetSpec]) -> None:
    """Refuse what cannot be planned, before any slow work.

    Raises:
        UsageError: There is no such objective, a link cannot be read, there are more cuts than
            targets, or the objective needs what the targets do not state.
    """
    if not request.cuts and request.objective not in OBJECTIVES:
        raise UsageError(
            f"There is no objective {request.objective!r}",
            do=f"use one of: {', '.join(OBJECTIVES)}",
        )
    parse_links(request.links, [spec.name for spec in specs])
    if request.cuts and len(request.cuts) + 1 != len(specs):
        raise UsageError(
            f"{len(request.cuts)} cuts make {len(request.cuts) + 1} parts, and "
            f"{len(specs)} targets are named",
            seen=", ".join(spec.name for spec in specs),
            do="name a target for each part, in the order in which they run; one may be named "
            "several times (host/1,host/1)",
        )
    if request.objective == "energy" and not request.cuts:
        silent = [spec.name for spec in specs if not spec.active_w]
        if silent:
            raise UsageError(
                "Energy cannot be planned without the power of each device",
                seen=f"no active_w for {', '.join(silent)}",
                do="write active_w, watts while it computes beyond idling, into their target files",
            )
    if request.objective == "paper" and not request.cuts and len(specs) != 2:
        raise UsageError("The published formula is for two devices", seen=f"{len(specs)} targets")


def plan_network(
    name: str,
    sha256: str,
    graph: CostGraph,
    specs: Sequence[TargetSpec],
    rows: UnitRows,
    request: PlanRequest,
) -> tuple[PlanFile, ...]:
    """Plan a network for a set of devices.

    Args:
        name: Of the model, for the file.
        sha256: Of the model's file.
        graph: Its units.
        specs: The devices.
        rows: Their times.
        request: See `PlanRequest`; it has been checked.

    Returns:
        The plan; behind it those for other conditions, each different from those before.

    Raises:
        UsageError: There is no operator of a cut's name.
        TargetError: No plan fits the devices (their memory, say).
    """
    if request.cuts:
        candidate = _stated_cuts(graph, specs, rows, request)
        others: list[_Candidate] = []
    else:
        candidates = [
            _planned(graph, choice, rows, request)
            for choice in device_choices(specs, request.objective)
        ]
        candidate = min(candidates, key=lambda c: _score(c.plan, request.objective))
        others = [] if request.objective == "paper" else _others(candidate, request)
        candidate = dataclasses.replace(
            candidate, plan=_with_rejected(candidate, candidates, request.objective)
        )
    stated = parse_links(request.links, [spec.name for spec in specs])
    return tuple(
        PlanFile(
            model_name=name,
            model_sha256=sha256,
            targets=each.specs,
            graph=graph,
            unit_s=each.rows,
            measured=each.measured,
            plan=with_threads(each.plan, each.specs),
            links=stated,
            named=tuple(specs),
        )
        for each in (candidate, *others)
    )


def plan_whole(name: str, sha256: str, graph: CostGraph, spec: TargetSpec) -> PlanFile:
    """The whole network on one target, with what is predicted of it, whatever its memory."""
    rows = UnitRows(graph, (spec,), None, lambda _: None)
    problem, _, source, _, band = _problem(graph, (spec,), rows, ())
    problem = dataclasses.replace(
        problem, devices=tuple(dataclasses.replace(d, memory_bytes=0) for d in problem.devices)
    )
    chosen = dataclasses.replace(
        _known_to(band, plan_cuts(problem, (), (0,), source=source)),
        objective="whole",
        reason=f"the whole network on {spec.name}",
        alternatives=(),
    )
    return PlanFile(
        model_name=name,
        model_sha256=sha256,
        targets=(spec,),
        graph=graph,
        unit_s=problem.unit_s,
        plan=chosen,
    )


def _problem(
    graph: CostGraph,
    specs: Sequence[TargetSpec],
    rows: UnitRows,
    links: Sequence[str],
    objective: str = "",
) -> tuple[Problem, tuple[tuple[float, ...], ...], str, float, float]:
    """The planner's problem, the measured rows, the times' source, their noise and their band."""
    found = [rows.of(spec) for spec in specs]
    stated = parse_links(links, [spec.name for spec in specs])
    problem = Problem(
        graph=graph,
        devices=devices_of(specs, stated),
        unit_s=tuple(
            tuple(slowdown * unit_s for unit_s in row.unit_s)
            for row, slowdown in zip(found, slowdowns(specs, objective), strict=True)
        ),
        routes=routes_of(specs, stated),
    )
    measured = tuple(row.unit_s if row.source == "measured" else () for row in found)
    noise, band = max(row.noise for row in found), max(row.band for row in found)
    return problem, measured, worst_source(found), noise, band


def _known_to(band: float, found: PartitionPlan) -> PartitionPlan:
    """A plan with the band for its times, which is wider than what matters between plans."""
    assert found.prediction is not None
    return dataclasses.replace(found, prediction=dataclasses.replace(found.prediction, noise=band))


def _planned(
    graph: CostGraph, specs: Sequence[TargetSpec], rows: UnitRows, request: PlanRequest
) -> _Candidate:
    problem, measured, source, noise, band = _problem(
        graph, specs, rows, _links_of(request, specs), request.objective
    )
    if request.objective == "paper":
        chosen = paper_comparison(problem, specs, source)
    else:
        chosen = plan(problem, request.objective, noise=noise, source=source)
    return _Candidate(
        specs=tuple(specs),
        problem=problem,
        plan=_known_to(band, chosen),
        rows=problem.unit_s,
        measured=measured if any(measured) else (),
    )


def _links_of(request: PlanRequest, specs: Sequence[TargetSpec]) -> tuple[str, ...]:
    """The stated links of those devices that are planned for."""
    names = {spec.name for spec in specs}
    return tuple(text for text in request.links if parse_link(text).target in names)


def _stated_cuts(
    graph: CostGraph, specs: Sequence[TargetSpec], rows: UnitRows, request: PlanRequest
) -> _Candidate:
    problem, measured, source, noise, band = _problem(
        graph, specs, rows, request.links, "throughput" if len(specs) > 1 else ""
    )
    try:
        positions = [graph.position_after(cut) for cut in request.cuts]
    except IovtError as error:
        raise UsageError(error.what, seen=error.seen, do=error.do) from error
    if positions != sorted(set(positions)) or positions[-1] == len(graph.units):
        raise UsageError(
            "The cuts do not divide the network in order",
            seen=", ".join(
                f"{cut} is unit {position} of {len(graph.units)}"
                for cut, position in zip(request.cuts, positions, strict=True)
            ),
            do="name them in the order of the network, each once, and not its last unit",
        )
    chosen = plan_cuts(problem, positions, range(len(specs)), source=source, noise=noise)
    return _Candidate(
        specs=tuple(specs),
        problem=problem,
        plan=_known_to(band, chosen),
        rows=problem.unit_s,
        measured=measured if any(measured) else (),
    )


def _score(found: PartitionPlan, objective: str) -> tuple[float, float, int]:
    prediction = found.prediction
    assert prediction is not None
    first = {
        "throughput": prediction.period_s,
        "memory": float(max(stage.memory_bytes for stage in prediction.stages)),
        "energy": prediction.energy_j,
    }.get(objective, prediction.latency_s)
    return first, prediction.latency_s, len(found.stages)


def _with_rejected(
    best: _Candidate, candidates: Sequence[_Candidate], objective: str
) -> PartitionPlan:
    """The best plan, with the best ones of other threads and of fewer devices beside it."""
    rejected: dict[str, Alternative] = {}
    for other in candidates:
        prediction = other.plan.prediction
        if other is best or prediction is None:
            continue
        name = _name_of(other)
        if len(other.plan.stages) == 1:
            reason = "no other stage in its way, and none that helps"
        else:
            reason = f"other threads, more {'time' if objective != 'memory' else 'memory'}"
        rejected[name] = Alternative(
            name=name,
            latency_s=prediction.latency_s,
            period_s=prediction.period_s,
            reason=reason,
        )
    kept = [each for each in best.plan.alternatives if each.name not in rejected]
    return dataclasses.replace(
        best.plan, alternatives=(*kept, *rejected.values())[:_MOST_ALTERNATIVES]
    )


def _name_of(candidate: _Candidate) -> str:
    stages = candidate.plan.stages
    threads = [_cores(candidate.specs, stage.target) for stage in stages]
    if len(stages) == 1:
        return f"the whole network on {stages[0].target}"
    return " | ".join(
        f"{stage.target} with {count} thread{'s' if count > 1 else ''}"
        for stage, count in zip(stages, threads, strict=True)
    )


def _cores(specs: Sequence[TargetSpec], name: str) -> int:
    return next(spec.cpu.cores for spec in specs if spec.name == name)


def with_threads(found: PartitionPlan, specs: Sequence[TargetSpec]) -> PartitionPlan:
    """The plan with the cores of its devices as the threads of its stages."""
    gpus = {spec.name for spec in specs if spec.gpu is not None}
    return dataclasses.replace(
        found,
        stages=tuple(
            stage
            if stage.target in gpus
            else dataclasses.replace(stage, threads=_cores(specs, stage.target))
            for stage in found.stages
        ),
    )


def _others(best: _Candidate, request: PlanRequest) -> list[_Candidate]:
    plans = prepared_plans(best.problem, best.plan, best.specs, request.objective, request.prepare)
    return [dataclasses.replace(best, plan=other) for other in plans]
