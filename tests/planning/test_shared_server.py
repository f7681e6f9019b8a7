"""Cores of a server for several models."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest

from tvm_iovt import targets
from tvm_iovt.errors import UsageError
from tvm_iovt.partition.evaluate import evaluate
from tvm_iovt.partition.lmos import split_placement
from tvm_iovt.planning.edge_server import edge_and_server
from tvm_iovt.planning.model_plan import PlanOptions, read_model
from tvm_iovt.planning.shared_server import plan_shared

OPTIONS = PlanOptions(targets="edge,server", links=("server=1GB,10us",))

pytestmark = pytest.mark.usefixtures("edge_targets")


def latencies(model: Path) -> dict[tuple[int, int], float]:
    """Of every split with 1 to 4 cores, by position and cores; without the server it has 0."""
    pair = edge_and_server(targets.load_devices(OPTIONS.targets), OPTIONS.links)
    found = read_model(model, OPTIONS, pair.specs, lambda message: None)
    units = len(found.graph.units)
    tried = {}
    for cores in range(1, 5):
        cpu = dataclasses.replace(pair.server.cpu, cores=cores)
        server = dataclasses.replace(pair.server, cpu=cpu)
        problem = pair.problem(found.graph, [found.rows.of(pair.edge), found.rows.of(server)])
        for position in range(units + 1):
            placement = split_placement(problem, 0, 1, position)
            needed = cores if position < units else 0
            tried[position, needed] = evaluate(problem, placement).prediction.latency_s
    return tried


def test_the_latency_is_that_of_the_split_with_its_cores(funnel_model: Path) -> None:
    shared = plan_shared([funnel_model], OPTIONS)
    (model,) = shared.models
    assert model.cores > 0
    assert model.latency_s == pytest.approx(latencies(funnel_model)[model.position, model.cores])
    parts = model.edge_s + model.transfer_s + model.server_s
    assert parts == pytest.approx(model.latency_s)
    assert model.alone_s == model.latency_s == shared.longest_s
    assert model.latency_s < model.edge_only_s


def test_no_other_shares_have_a_smaller_longest_latency(
    funnel_model: Path, small_model: Path
) -> None:
    models = [funnel_model, small_model, funnel_model]
    shared = plan_shared(models, OPTIONS)
    assert [model.model_name for model in shared.models] == ["funnel", "small", "funnel"]
    assert sum(model.cores for model in shared.models) <= shared.cores == 4
    assert shared.longest_s == max(model.latency_s for model in shared.models)
    assert shared.longest_s <= shared.equal_s
    tables = []
    known = {model: latencies(model) for model in set(models)}
    for model in models:
        tried = known[model].items()
        tables.append([min(s for (_, need), s in tried if need <= n) for n in range(5)])
    least = min(
        max(table[count] for table, count in zip(tables, counts, strict=True))
        for counts in itertools.product(range(5), repeat=3)
        if sum(counts) <= 4
    )
    assert shared.longest_s == pytest.approx(least)


@pytest.mark.parametrize("objective", ["throughput", "memory", "energy", "paper"])
def test_other_objectives_are_refused(funnel_model: Path, objective: str) -> None:
    options = dataclasses.replace(OPTIONS, objective=objective)
    with pytest.raises(UsageError, match=objective) as caught:
        plan_shared([funnel_model, funnel_model], options)
    assert caught.value.seen


def test_a_gpu_has_no_cores_to_share(funnel_model: Path) -> None:
    with pytest.raises(UsageError, match="cores of a CPU"):
        plan_shared([funnel_model] * 2, PlanOptions(targets="edge,cuda@host"))
