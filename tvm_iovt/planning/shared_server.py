"""`plan A B ...`: several models, each on an edge device of its own, share a server's cores."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from tvm_iovt import targets
from tvm_iovt.errors import UsageError
from tvm_iovt.partition.evaluate import Evaluation, Evaluator
from tvm_iovt.partition.findings import ServedModel, SharedServer
from tvm_iovt.partition.lmos import split_placement
from tvm_iovt.partition.server_allocation import allocate
from tvm_iovt.partition.server_users import User
from tvm_iovt.planning.edge_server import EdgeServer, cut_name, edge_and_server
from tvm_iovt.planning.model_plan import CostedModel, PlanOptions, Progress, read_model
from tvm_iovt.planning.unit_rows import UnitRow, worst_source
from tvm_iovt.types import TargetSpec

_EDGE, _SERVER = 0, 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Client:
    """A model, its splits, and their times."""

    found: CostedModel
    user: User
    splits: tuple[Evaluation, ...]
    rows: tuple[UnitRow, ...]


def plan_shared(
    models: Sequence[Path],
    options: PlanOptions,
    *,
    progress: Progress = lambda message: None,
) -> SharedServer:
    """Where each model is cut and how many of the server's cores it gets.

    The longest latency of all models is least, and of those the sum. Each core serves one model.

    Args:
        models: ONNX files or torch.export programs; one may be named several times.
        options: The first target is the edge device that each model has one of, the second one the
            server; no cuts.
        progress: Called with a line for each step.

    Raises:
        UsageError: The objective is another one than latency, or the server has no cores to share.
        IovtError: One of its other subclasses, each with its exit code.
    """
    _check_objective(options.objective)
    pair = edge_and_server(
        targets.load_devices(options.targets), options.links, apart="a server for several models"
    )
    assert pair.link is not None
    if pair.server.gpu is not None:
        raise UsageError(
            "Models share the cores of a CPU",
            seen=f"{pair.server.name} is a {pair.server.gpu.kind} GPU",
            do="name a CPU target as the second one",
        )
    known: dict[Path, CostedModel] = {}
    for model in models:
        if model not in known:
            known[model] = read_model(model, options, pair.specs, progress)
    cores = pair.server.cpu.cores
    progress(f"sharing {cores} cores among {len(models)} models")
    clients = [_client(known[model], pair) for model in models]
    users = [client.user for client in clients]
    shared = allocate(users, cores)
    served = tuple(
        _served(client, cut, count, cores)
        for client, cut, count in zip(clients, shared.cuts, shared.units, strict=True)
    )
    return SharedServer(
        edge=pair.edge.name,
        server=pair.server.name,
        cores=cores,
        link=pair.link,
        models=served,
        longest_s=shared.longest_s,
        equal_s=max(user.table()[cores // len(users)] for user in users),
        source=worst_source([row for client in clients for row in client.rows]),
    )


def _check_objective(objective: str) -> None:
    if objective in ("", "latency"):
        return
    reason = {
        "throughput": "every model has a frame rate of its own, and nothing says which one counts",
    }.get(objective, "cores of a server change how long a frame takes, and nothing else")
    raise UsageError(
        f"Several models cannot share a server for {objective}",
        seen=reason,
        do="leave --objective out: the longest latency of the models is made least",
    )


def _client(found: CostedModel, pair: EdgeServer) -> _Client:
    """The latency of every split with every number of the server's cores."""
    edge_row = found.rows.of(pair.edge)
    rows = [found.rows.of(_with_cores(pair.server, n + 1)) for n in range(pair.server.cpu.cores)]
    problem = pair.problem(found.graph, (edge_row, rows[0]))
    evaluator = Evaluator(problem)
    units = len(found.graph.units)
    stage_s = problem.devices[_SERVER].stage_s
    splits, latencies = [], []
    behind = [_sums_behind(row.unit_s) for row in rows]
    for position in range(units + 1):
        split = evaluator.evaluate(split_placement(problem, _EDGE, _SERVER, position))
        splits.append(split)
        if split.obstacle:
            latencies.append((math.inf,) * (len(rows) + 1))
        elif position == units:
            latencies.append((split.prediction.latency_s,) * (len(rows) + 1))
        else:
            before_s = split.prediction.latency_s - split.prediction.stages[-1].compute_s
            served = (before_s + stage_s + sums[position] for sums in behind)
            latencies.append((math.inf, *served))
    return _Client(
        found=found,
        user=User(name=found.name, latency_s=tuple(latencies)),
        splits=tuple(splits),
        rows=(edge_row, *rows),
    )


def _served(client: _Client, cut: int, count: int, cores: int) -> ServedModel:
    graph = client.found.graph
    prediction = client.splits[cut].prediction
    latency_s = client.user.latency_s[cut][count]
    edge_s = prediction.stages[0].compute_s if cut else 0.0
    return ServedModel(
        model_name=client.found.name,
        units=len(graph.units),
        position=cut,
        cut=cut_name(graph, cut),
        cores=count,
        latency_s=latency_s,
        edge_s=edge_s,
        transfer_s=prediction.transfer_s,
        server_s=max(latency_s - edge_s - prediction.transfer_s, 0.0),
        edge_only_s=client.user.latency_s[-1][0],
        alone_s=client.user.table()[cores],
    )


def _with_cores(spec: TargetSpec, cores: int) -> TargetSpec:
    return dataclasses.replace(spec, cpu=dataclasses.replace(spec.cpu, cores=cores))


def _sums_behind(unit_s: Sequence[float]) -> list[float]:
    """Seconds of the units from each position on."""
    sums = [0.0]
    for seconds in reversed(unit_s):
        sums.append(sums[-1] + seconds)
    return sums[::-1]
