from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from layer_times.kernels import Call, empty_call_s
from layer_times.layer_table import LayerTable, Row, text
from layer_times.matching import match
from layer_times.onnx_layers import layers
from layer_times.ort_profile import layer_times_s
from layer_times.runs import Runs
from onnx import helper

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def network(make_model) -> onnx.ModelProto:
    """Two equal convolutions, a depthwise one with stride 2, and a dense layer."""
    random = np.random.default_rng(0)
    constants = {
        name: random.standard_normal(shape).astype(np.float32)
        for name, shape in {
            "w0": (16, 16, 3, 3),
            "w1": (16, 16, 3, 3),
            "w2": (16, 1, 3, 3),
            "w3": (16, 10),
        }.items()
    }
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"], "second", pads=[1] * 4),
        helper.make_node(
            "Conv", ["c", "w2"], ["d"], "third", pads=[1] * 4, strides=[2, 2], group=16
        ),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["y"], "fourth"),
    ]
    return make_model(nodes, {"x": [1, 16, 8, 8]}, {"y": [1, 10]}, constants)


def test_geometry_and_work_of_layers(network) -> None:
    found = layers(network)
    assert [layer.geometry for layer in found] == [
        "16->16 3x3 s1 8x8",
        "16->16 3x3 s1 8x8",
        "16->16 3x3 s2 4x4 g16",
        "16->10",
    ]
    assert [layer.flops for layer in found] == [
        2 * 64 * 16 * 16 * 9,
        2 * 64 * 16 * 16 * 9,
        2 * 16 * 16 * 9,
        2 * 16 * 10,
    ]


def test_kernels_are_matched_by_shape_and_order(network) -> None:
    image, half = (1, 8, 8, 16), (1, 4, 4, 16)
    calls = [
        Call("vm.builtin.alloc_tensor", ()),
        Call("fused_conv2d_relu_bordered", (image, (6, 6, 16, 16), (1, 10, 10, 16))),
        Call("bordered", (image, (1, 10, 10, 16))),
        Call("fused_conv2d_winograd_add", ((1, 10, 10, 16), (6, 6, 16, 16), image)),
        Call("fused_depthwise_conv2d", (image, (3, 3, 16), half)),
        Call("mean", (half, (1, 1, 1, 16))),
        Call("matmul", ((1, 16), (1, 16, 10), (1, 10))),
        Call("fused_conv2d_other", ((1, 5, 5, 3), (3, 3, 3, 3), (1, 5, 5, 3))),
    ]
    assert match(calls, layers(network)) == {1: 0, 3: 1, 4: 2, 6: 3}


def test_onnx_runtime_names_layers_by_what_is_fused_into_them(network) -> None:
    nodes = {"b": 1e-3, "c": 2e-3, "fourth": 4e-3}
    assert layer_times_s(layers(network), nodes) == [1e-3, 2e-3, None, 4e-3]


def test_time_stamps_cost_what_an_empty_call_takes() -> None:
    calls = (Call("vm.builtin.null_value", ()), Call("conv2d", ()), Call("x", ()))
    assert empty_call_s(calls, np.array([1e-7, 5e-6, 1e-6])) == 1e-7
    assert empty_call_s(calls[1:], np.array([5e-6, 1e-6])) == 0.0


def test_the_table_gives_rates_ratios_and_the_gap() -> None:
    rows = (
        Row("fused_conv2d_add", "direct", "16->16 3x3 s1 8x8", 10**8, 1e-3, 2e-3),
        Row("max_pool2d", "", "", 0, 0.5e-3, None),
    )
    table = LayerTable(
        rows=rows,
        builtins_s=1e-5,
        whole_s=2e-3,
        peer_other_s=1e-3,
        peer_whole_s=3e-3,
        empty_call_s=3e-8,
        clean_blocks=3,
        blocks=4,
        is_busy=True,
    )
    lines = list(text(table, peak_flops=1e11))
    assert lines[1].split() == [
        *("conv2d_add", "16->16", "3x3", "s1", "8x8"),
        *("100.0", "1000.0", "100.0", "100%", "2000.0", "0.50"),
    ]
    assert lines[2].split() == ["max_pool2d", "500.0"]
    assert "25.0% outside of kernels" in "\n".join(lines)
    assert lines[-1].endswith("the machine is busy")
    assert all(len(line) <= 110 for line in lines)


def test_a_busy_machine_gives_a_low_quantile_in_place_of_the_median() -> None:
    runs = Runs(lambda: 0, loads=[0.0, 0.0, 0.1, 2.0])
    assert (runs.clean, runs.quantile) == (3, 0.5)
    runs = Runs(lambda: 0, loads=[0.0, 0.0, 1.0, 2.0])
    assert (runs.clean, runs.quantile) == (2, 0.2)


def test_a_network_is_measured(network, tmp_path: Path) -> None:
    model, report = tmp_path / "tiny.onnx", tmp_path / "report.json"
    onnx.save(network, model)
    command = [sys.executable, str(BENCH / "layers.py"), str(model)]
    command += ["--rounds", "2", "--wait", "0", "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    assert found["peak_flops"] > 1e8
    geometries = [row["layer"] for row in found["tiny"]["rows"] if row["layer"]]
    assert geometries == [layer.geometry for layer in layers(network)]
    assert all(row["time_s"] >= 0 for row in found["tiny"]["rows"])
    assert found["tiny"]["whole_s"] > 0
