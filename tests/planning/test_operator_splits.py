"""Convolutions for two devices at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvm_iovt import targets, unit_times
from tvm_iovt.cost_graph import Unit
from tvm_iovt.errors import UsageError
from tvm_iovt.planning.model_plan import PlanOptions, read_model
from tvm_iovt.planning.operator_splits import part_of, plan_splits

UNIT = Unit(
    index=0,
    name="conv",
    operators=("conv",),
    kind="conv",
    flops=1000,
    bytes_in=800,
    bytes_out=1600,
    bytes_weights=400,
    shape_in=(1, 8, 10, 10),
    shape_out=(1, 16, 10, 10),
    kernel=(3, 3),
    strides=(1, 1),
)


def test_a_part_by_rows_reads_a_part_with_all_weights() -> None:
    part = part_of(UNIT, "rows", 0.3)
    assert (part.flops, part.bytes_in, part.bytes_out, part.bytes_weights) == (300, 240, 480, 400)
    assert (part.shape_in, part.shape_out) == ((1, 8, 3, 10), (1, 16, 3, 10))


def test_a_part_by_channels_reads_all_with_a_part_of_the_weights() -> None:
    part = part_of(UNIT, "channels", 0.25)
    assert (part.flops, part.bytes_in, part.bytes_out, part.bytes_weights) == (250, 800, 400, 100)
    assert (part.shape_in, part.shape_out) == (UNIT.shape_in, (1, 4, 10, 10))


def test_all_of_it_is_the_unit() -> None:
    assert part_of(UNIT, "rows", 1.0) is UNIT


@pytest.mark.usefixtures("edge_targets")
def test_equal_devices_with_a_fast_way_halve_a_convolution(
    small_model: Path, tmp_path: Path
) -> None:
    twin = tmp_path / "share" / "targets" / "twin.toml"
    text = (twin.parent / "edge.toml").read_text().replace('machine = "edge"', 'machine = "twin"')
    twin.write_text(text)
    links = tuple(f"{name}=1000GB" for name in ("edge", "twin"))
    found = plan_splits(small_model, PlanOptions(targets="edge,twin", links=links))
    assert [split.unit for split in found.splits] == ["conv0", "depthwise"]
    first = found.splits[0]
    assert sum(first.parts) in (8, 24)
    assert 0.3 < first.gain < 0.51
    assert first.gain == pytest.approx(1 - first.split_s / first.alone_s)
    saved = [split.alone_s - split.split_s for split in found.splits]
    assert saved == sorted(saved, reverse=True)


@pytest.mark.usefixtures("edge_targets")
def test_a_slow_link_pays_for_nothing(small_model: Path) -> None:
    found = plan_splits(small_model, PlanOptions(targets="edge,server", links=("server=1kB",)))
    assert found.splits == ()
    assert {why.subject for why in found.refused} == {"conv0", "depthwise"}
    assert all("takes" in why.reason for why in found.refused)
    assert "groups" in next(w.reason for w in found.refused if w.subject == "depthwise")


@pytest.mark.usefixtures("edge_targets")
def test_the_whole_network_on_the_first_device(small_model: Path) -> None:
    options = PlanOptions(targets="edge,server")
    found = plan_splits(small_model, options)
    specs = targets.load_devices("edge,server")
    model = read_model(small_model, options, specs, lambda message: None)
    expected = sum(unit_times.unit_time_s(unit, specs[0]) for unit in model.graph.units)
    assert found.network_s == pytest.approx(expected)


def test_two_targets_are_needed(small_model: Path) -> None:
    with pytest.raises(UsageError, match="two targets"):
        plan_splits(small_model, PlanOptions(targets="host"))
