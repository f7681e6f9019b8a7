"""Operators timed inside of the network, in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvm_iovt import targets
from tvm_iovt.errors import DeviceError
from tvm_iovt.planning.measured_units import measure_units
from tvm_iovt.planning.model_plan import PlanOptions, plan_model
from tvm_iovt.stages.kernels import KernelOptions


def test_times_of_units_add_up_to_that_of_the_network(small_model: Path) -> None:
    spec = targets.load("host/1")
    found = measure_units(small_model, {}, (spec,), spec, "auto", KernelOptions())
    assert sum(found.unit_s) == pytest.approx(found.whole_s)
    assert 0 < found.whole_s < 1
    assert found.noise >= 0


def test_a_model_that_cannot_be_run_is_an_error(tmp_path: Path) -> None:
    spec = targets.load("host/1")
    with pytest.raises(DeviceError, match=r"gone\.onnx on host/1 failed"):
        measure_units(tmp_path / "gone.onnx", {}, (spec,), spec, "auto", KernelOptions())


def test_measured_plans_say_so(small_model: Path) -> None:
    file = plan_model(small_model, PlanOptions(targets="host/1,host/1", measure=True))
    assert file.plan.prediction.source == "measured"
    assert file.measured == file.unit_s
    assert file.unit_s[0] == file.unit_s[1]
