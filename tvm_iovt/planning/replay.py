"""A plan from a file, perhaps edited, checked against the network and predicted anew."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

from tvm_iovt.cost_graph import CostGraph
from tvm_iovt.errors import UsageError
from tvm_iovt.partition.planner import plan_stated
from tvm_iovt.partition.problem import Problem
from tvm_iovt.planning.edge_server import edge_and_server
from tvm_iovt.planning.links import parse_links
from tvm_iovt.planning.network_plan import with_threads
from tvm_iovt.planning.places import devices_of, routes_of
from tvm_iovt.planning.plan_file import PlanFile


def replay(path: Path, file: PlanFile, graph: CostGraph, links: tuple[str, ...]) -> PlanFile:
    """The plan of a file for the network as it is compiled now.

    Args:
        path: Of the file, for messages.
        file: What it holds; its stages may have been edited.
        graph: The network's units.
        links: See `links.parse_link`; by default those that it was planned with.

    Raises:
        TargetError: A stage does not fit its device.
        UsageError: The stages do not make the network, or the network has other units than the one
            that was planned (other options of the compilation, say).
    """
    known = [unit.name for unit in file.graph.units]
    now = [unit.name for unit in graph.units]
    if known != now:
        pairs = itertools.zip_longest(known, now, fillvalue="")
        other = next(a or b for a, b in pairs if a != b)
        raise UsageError(
            f"{path} was planned for other units than this compilation has",
            seen=f"{len(known)} units, {len(now)} now; the first that differs is {other}",
            do="give compile the same --fuse and --input-shape as plan, or plan again",
        )
    specs = file.targets
    stated = file.links
    if links and file.home:
        stated = edge_and_server(specs, links).stated
    elif links:
        stated = parse_links(links, [spec.name for spec in specs])
    problem = Problem(
        graph=graph,
        devices=devices_of(specs, stated, pipeline=not file.home),
        unit_s=file.unit_s,
        routes=routes_of(specs, stated, file.home),
    )
    old = file.plan.prediction
    found = plan_stated(
        problem,
        file.plan.stages,
        noise=old.noise if old else 0.0,
        source=old.source if old else "assumed",
    )
    if [stage.units for stage in found.stages] == [stage.units for stage in file.plan.stages]:
        found = dataclasses.replace(file.plan, stages=found.stages, prediction=found.prediction)
    # A stage that was moved has the threads of its new place, as the times that it is planned with.
    plan = with_threads(found, specs)
    return dataclasses.replace(file, graph=graph, plan=plan, links=stated)
