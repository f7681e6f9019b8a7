"""Times of devices are found once each."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from tvm_iovt import targets
from tvm_iovt.cost_graph import CostGraph
from tvm_iovt.planning.device_choices import device_choices
from tvm_iovt.planning.unit_rows import Measuring, UnitRows
from tvm_iovt.stages.kernels import KernelOptions


def test_each_number_of_threads_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def measured(_model, _shapes, _specs, spec, _fuse, _kernels) -> SimpleNamespace:
        asked.append(spec.cpu.cores)
        return SimpleNamespace(unit_s=(), noise=0.1)

    monkeypatch.setattr("tvm_iovt.planning.measured_units.measure_units", measured)
    specs = tuple(
        dataclasses.replace(spec, cpu=dataclasses.replace(spec.cpu, cores=64))
        for spec in targets.load_devices("host,host")
    )
    measuring = Measuring(
        model=Path("m.onnx"), input_shapes={}, fuse="auto", kernels=KernelOptions()
    )
    rows = UnitRows(CostGraph(units=(), edges=()), specs, measuring, lambda _: None)
    for choice in device_choices(specs, "throughput"):
        for spec in choice:
            assert rows.of(spec).source == "measured"
    assert len(asked) == len(set(asked)) < 30
    assert {64, 63, 32, 1} <= set(asked)
