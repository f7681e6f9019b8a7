"""Plans from files: edited ones are predicted as what they are now."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tvm_iovt import targets
from tvm_iovt.cost_graph import CostGraph, Edge, Unit
from tvm_iovt.errors import UsageError
from tvm_iovt.planning.network_plan import PlanRequest, plan_network
from tvm_iovt.planning.plan_file import PlanFile
from tvm_iovt.planning.replay import replay
from tvm_iovt.planning.unit_rows import UnitRows
from tvm_iovt.types import Stage, TensorSpec

PATH = Path("plan.json")


def chain(count: int) -> CostGraph:
    units = tuple(
        Unit(
            index=i,
            name=f"u{i}",
            operators=(f"u{i}",),
            kind="conv",
            flops=10**8,
            bytes_in=4000,
            bytes_out=4000,
            bytes_weights=1000,
        )
        for i in range(count)
    )
    edges = tuple(
        Edge(
            spec=TensorSpec(name=f"t{i}", shape=(1, 1, 10, 100), dtype="float32"),
            producer=i - 1,
            consumers=(i,) if i < count else (),
            is_output=i == count,
        )
        for i in range(count + 1)
    )
    return CostGraph(units=units, edges=edges)


GRAPH = chain(6)


@pytest.fixture(scope="module")
def file() -> PlanFile:
    """Two units on each of a core, two, and four of a board."""
    specs = targets.load_devices("raspberry-pi-4/1,raspberry-pi-4/2,arm/4")
    rows = UnitRows(GRAPH, specs, None, lambda _: None)
    request = PlanRequest(objective="", cuts=("u1", "u3"))
    (found,) = plan_network("m", "0" * 64, GRAPH, specs, rows, request)
    return found


def edited(file: PlanFile, *stages: Stage) -> PlanFile:
    return dataclasses.replace(file, plan=dataclasses.replace(file.plan, stages=stages))


def test_an_unedited_plan_stays_as_it_is(file):
    assert [stage.threads for stage in file.plan.stages] == [1, 2, 4]
    assert replay(PATH, file, GRAPH, ()) == file


@pytest.mark.parametrize(
    ("target", "threads"), [("raspberry-pi-4/1", 1), ("raspberry-pi-4/2", 2), ("arm/4", 4)]
)
def test_a_stage_that_was_moved_has_the_threads_of_its_new_place(file, target, threads):
    first = file.plan.stages[0]
    units = tuple(unit.name for unit in GRAPH.units)
    asked = edited(file, dataclasses.replace(first, target=target, units=units))
    (stage,) = replay(PATH, asked, GRAPH, ()).plan.stages
    assert (stage.target, stage.threads) == (target, threads)


def test_places_that_were_exchanged_exchange_their_threads(file):
    first, second, third = file.plan.stages
    asked = edited(
        file,
        dataclasses.replace(first, target=third.target),
        second,
        dataclasses.replace(third, target=first.target),
    )
    found = replay(PATH, asked, GRAPH, ())
    assert [stage.threads for stage in found.plan.stages] == [4, 2, 1]
    seconds = dict(zip((spec.name for spec in file.targets), file.unit_s, strict=True))
    last = found.plan.prediction.stages[-1]
    assert last.kernels_s == pytest.approx(sum(seconds["raspberry-pi-4/1"][4:]))


@pytest.mark.parametrize(
    ("units", "differs"), [(5, "u5"), (8, "u6")], ids=["one is gone", "some more"]
)
def test_another_networks_first_unit_is_named(file, units, differs):
    with pytest.raises(UsageError, match="planned for other units") as caught:
        replay(PATH, file, chain(units), ())
    assert caught.value.seen == f"6 units, {units} now; the first that differs is {differs}"
