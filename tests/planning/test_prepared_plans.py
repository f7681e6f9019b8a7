"""Plans for slower days: others than the chosen one, with what they take on an ordinary day."""

from __future__ import annotations

import pytest

from tvm_iovt import targets
from tvm_iovt.cost_graph import CostGraph, Edge, Unit
from tvm_iovt.partition.evaluate import evaluate
from tvm_iovt.partition.placement import placement_of
from tvm_iovt.partition.planner import plan
from tvm_iovt.partition.problem import Device, Problem, Route
from tvm_iovt.planning.prepared_plans import prepared_plans
from tvm_iovt.types import Link, TensorSpec

UNITS = 8
SPECS = targets.load_devices("arm,raspberry-pi-4")


def problem() -> Problem:
    """A chain on two equal devices, whose tensors take little."""
    units = tuple(
        Unit(
            index=i,
            name=f"u{i}",
            operators=(),
            kind="conv",
            flops=1,
            bytes_in=100,
            bytes_out=100,
            bytes_weights=0,
        )
        for i in range(UNITS)
    )
    edges = tuple(
        Edge(
            spec=TensorSpec(name=f"t{i}", shape=(100,), dtype="uint8"),
            producer=i - 1,
            consumers=(i,) if i < UNITS else (),
            is_output=i == UNITS,
        )
        for i in range(UNITS + 1)
    )
    way = Route(hops=(Link(src="a", dst="b", bytes_per_s=1e6, latency_s=1e-4),))
    none = Route()
    return Problem(
        graph=CostGraph(units=units, edges=edges),
        devices=tuple(Device(name=spec.name, stage_s=1e-4) for spec in SPECS),
        unit_s=((1e-2,) * UNITS,) * 2,
        routes=((none, way, way), (way, none, way), (way, way, none)),
    )


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_prepared_plans_are_known_as_well_as_the_chosen_one(noise):
    asked = problem()
    chosen = plan(asked, "throughput", noise=noise, source="calibrated")
    assert chosen.prediction.noise == noise
    others = prepared_plans(asked, chosen, SPECS, "throughput", 3)
    assert others
    for other in others:
        assert other.prediction.noise == noise
        assert other.prediction.source == "calibrated"
        expected = evaluate(
            asked, placement_of(asked, other.stages), noise=noise, source="calibrated"
        )
        assert other.prediction == expected.prediction  # of an ordinary day
        assert [s.units for s in other.stages] != [s.units for s in chosen.stages]


def test_no_more_are_made_than_asked_for():
    asked = problem()
    chosen = plan(asked, "throughput")
    assert [len(prepared_plans(asked, chosen, SPECS, "throughput", n)) for n in (0, 1)] == [0, 1]
