"""The front of splits, its knee, and the plan of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvm_iovt import bundle
from tvm_iovt.compiler import CompileOptions, compile_model
from tvm_iovt.errors import UsageError
from tvm_iovt.planning.model_plan import PlanOptions
from tvm_iovt.planning.pareto_plan import ParetoRequest, plan_pareto
from tvm_iovt.planning.plan_file import write_plan

OPTIONS = PlanOptions(targets="edge,server", links=("server=100MB,10us",))


@pytest.mark.usefixtures("edge_targets")
def test_no_split_of_the_front_beats_another(funnel_model: Path) -> None:
    front, _ = plan_pareto(funnel_model, OPTIONS, ParetoRequest(memory_share=1.0))
    assert len(front.front) > 1
    for before, after in zip(front.front, front.front[1:], strict=False):
        assert before.latency_s < after.latency_s
        assert before.edge_bytes < after.edge_bytes
    assert front.fastest.latency_s == front.front[0].latency_s


@pytest.mark.usefixtures("edge_targets")
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_the_limit_is_kept(funnel_model: Path, share: float) -> None:
    front, _ = plan_pareto(funnel_model, OPTIONS, ParetoRequest(memory_share=share))
    assert front.limit_bytes == pytest.approx(share * 1_000_000)
    for point in front.front:
        assert point.edge_bytes <= front.limit_bytes
        assert point.limit_share == pytest.approx(point.edge_bytes / front.limit_bytes)


@pytest.mark.usefixtures("edge_targets")
def test_the_plan_is_that_of_the_knee(funnel_model: Path) -> None:
    front, file = plan_pareto(funnel_model, OPTIONS, ParetoRequest(memory_share=1.0))
    knee = front.front[front.chosen]
    assert file.plan.objective == "pareto"
    assert file.plan.prediction.latency_s == pytest.approx(knee.latency_s)
    assert file.plan.prediction.period_s == pytest.approx(knee.period_s)
    at_edge = [len(s.units) for s in file.plan.stages if s.target == "edge"]
    assert sum(at_edge) == knee.position
    assert (file.home, file.links[0].target) == ("edge", "server")


@pytest.mark.usefixtures("edge_targets")
def test_stated_memory_is_that_of_the_edge(funnel_model: Path) -> None:
    request = ParetoRequest(memory_share=0.5, edge_memory_bytes=100_000)
    front, file = plan_pareto(funnel_model, OPTIONS, request)
    assert front.limit_bytes == 50_000
    assert file.targets[0].memory_bytes == 100_000


def test_an_unknown_amount_of_memory_is_refused(funnel_model: Path) -> None:
    with pytest.raises(UsageError, match="how much memory host/1 has") as caught:
        plan_pareto(funnel_model, PlanOptions(targets="host/1,host/1"), ParetoRequest())
    assert "memory_bytes = " in caught.value.do
    assert "--edge-memory" in caught.value.do


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_shares_are_shares(funnel_model: Path, share: float) -> None:
    request = ParetoRequest(memory_share=share, edge_memory_bytes=1)
    with pytest.raises(UsageError, match="above 0"):
        plan_pareto(funnel_model, PlanOptions(targets="host/1,host/1"), request)


@pytest.mark.usefixtures("edge_targets")
def test_a_replayed_plan_promises_the_same(funnel_model: Path, tmp_path: Path) -> None:
    """The caller stays at the edge, and the link is the stated one, unless another is."""
    import relay_passes
    from tvm_iovt import targets
    from tvm_iovt.frontend.load import load_network
    from tvm_iovt.planning.replay import replay
    from tvm_iovt.stages.graph import annotate

    _, file = plan_pareto(funnel_model, OPTIONS, ParetoRequest(memory_share=0.2))
    assert len(file.plan.stages) == 2
    network = load_network(funnel_model, {})
    annotated, _ = annotate(network, targets.load_devices(OPTIONS.targets), "auto")
    graph = relay_passes.read_costs(annotated)
    again = replay(tmp_path / "plan.json", file, graph, ())
    assert again.plan.prediction.latency_s == pytest.approx(file.plan.prediction.latency_s)
    faster = replay(tmp_path / "plan.json", file, graph, ("edge=10GB,0us",))
    assert faster.plan.prediction.latency_s < file.plan.prediction.latency_s


def test_the_plan_can_be_built(funnel_model: Path, tmp_path: Path) -> None:
    request = ParetoRequest(memory_share=1.0, edge_memory_bytes=200_000)
    _, file = plan_pareto(funnel_model, PlanOptions(targets="host/1,host/1"), request)
    path = tmp_path / "plan.json"
    write_plan(path, file)
    output = tmp_path / "b.iovt"
    made = compile_model(funnel_model, CompileOptions(targets="", plan=path, output=output))
    (deployment,) = made.manifest.deployments
    assert deployment.discrepancy.passed
    assert [s.units for s in deployment.plan.stages] == [s.units for s in file.plan.stages]
    bundle.check(output)
