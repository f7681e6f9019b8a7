"""Plans pay for the stages of a pipeline, and only for those."""

from __future__ import annotations

import dataclasses

import pytest

from tvm_iovt import targets
from tvm_iovt.cost_graph import CostGraph, Edge, Unit
from tvm_iovt.json_codec import from_json, to_json
from tvm_iovt.planning.network_plan import PlanRequest, plan_network, plan_whole
from tvm_iovt.planning.plan_file import PlanFile
from tvm_iovt.planning.unit_rows import UnitRows
from tvm_iovt.types import DeviceProfile, DtypePeak, Roof, TargetSpec, TensorSpec

STAGE_S = 80e-6


def chain(count: int, flops: int) -> CostGraph:
    """Equal convolutions, one behind the other, whose tensors are next to nothing."""
    units = tuple(
        Unit(
            index=i,
            name=f"u{i}",
            operators=(),
            kind="conv",
            flops=flops,
            bytes_in=64,
            bytes_out=64,
            bytes_weights=64,
            shape_in=(1, 4, 4, 1),
            shape_out=(1, 4, 4, 1),
            kernel=(3, 3),
            strides=(1, 1),
        )
        for i in range(count)
    )
    tensors = [TensorSpec(name=f"t{i}", shape=(1, 4, 4, 1), dtype="float32") for i in range(count)]
    edges = tuple(
        Edge(spec=tensor, producer=i - 1, consumers=(i,)) for i, tensor in enumerate(tensors)
    )
    end = TensorSpec(name="end", shape=(1, 4, 4, 1), dtype="float32")
    edges += (Edge(spec=end, producer=count - 1, consumers=(), is_output=True),)
    return CostGraph(units=units, edges=edges)


def cores(count: int, stage_s: float = STAGE_S) -> tuple[TargetSpec, ...]:
    roof = Roof(
        threads=1,
        peaks=(DtypePeak(dtype="float32", flops_per_s=1e9),),
        bandwidth_bytes_per_s=1e10,
    )
    profile = DeviceProfile(
        source="datasheet", roofs=(roof,), launch_s=1e-6, handoff_s=15e-6, stage_s=stage_s
    )
    names = ["host/1", *(f"host/1~{i}" for i in range(2, count + 1))]
    spec = targets.load("host/1")
    return tuple(dataclasses.replace(spec, name=name, profile=profile) for name in names)


def planned(graph: CostGraph, specs: tuple[TargetSpec, ...], objective: str) -> PlanFile:
    rows = UnitRows(graph, specs, None, lambda _: None)
    (file,) = plan_network("m", "", graph, specs, rows, PlanRequest(objective=objective))
    assert file.plan.prediction is not None
    return file


def test_the_period_of_stages_holds_their_cost() -> None:
    graph = chain(8, 400_000)
    file = planned(graph, cores(2), "throughput")
    assert [len(stage.units) for stage in file.plan.stages] == [4, 4]
    kernels_s = sum(file.unit_s[0]) / 2
    assert file.plan.prediction.period_s == pytest.approx(kernels_s + STAGE_S)
    free = planned(graph, cores(2, stage_s=1e-9), "throughput")
    assert free.plan.prediction.period_s == pytest.approx(kernels_s, rel=1e-3)


def test_the_latency_of_stated_stages_holds_that_of_each() -> None:
    graph, specs = chain(8, 400_000), cores(2)
    rows = UnitRows(graph, specs, None, lambda _: None)
    (file,) = plan_network("m", "", graph, specs, rows, PlanRequest(objective="", cuts=("u3",)))
    prediction = file.plan.prediction
    assert prediction is not None
    moved_s = prediction.stages[1].receive_s
    assert prediction.latency_s == pytest.approx(sum(file.unit_s[0]) + 2 * STAGE_S + moved_s)


@pytest.mark.parametrize("objective", ["latency", "throughput"])
def test_the_whole_network_is_called_and_costs_its_kernels(objective: str) -> None:
    # Some 40 us in all: halves would take less, but not with what a stage costs.
    graph = chain(4, 15_000)
    file = planned(graph, cores(2), objective)
    assert len(file.plan.stages) == 1
    kernels_s = sum(file.unit_s[0])
    assert file.plan.prediction.latency_s == pytest.approx(kernels_s)
    assert file.plan.prediction.period_s == pytest.approx(kernels_s)
    free = planned(graph, cores(2, stage_s=1e-9), "throughput")
    assert len(free.plan.stages) == 2


def test_the_whole_network_by_itself_pays_for_no_stage() -> None:
    graph = chain(4, 15_000)
    file = plan_whole("m", "", graph, cores(1)[0])
    assert file.plan.prediction is not None
    assert file.plan.prediction.latency_s == pytest.approx(sum(file.unit_s[0]))


def test_a_profile_travels_with_its_cost() -> None:
    (spec,) = cores(1)
    assert from_json(DeviceProfile, to_json(spec.profile)) == spec.profile
