from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import tvm_iovt
from tvm_iovt.errors import ModelError
from tvm_iovt.frontend.load import load_network
from tvm_iovt.frontend.network import sample_inputs
from tvm_iovt.types import TensorSpec


def test_network_keeps_names_and_has_a_reference(small_model: Path) -> None:
    network = load_network(small_model, {})
    assert network.inputs == (TensorSpec(name="image", shape=(1, 3, 16, 16), dtype="float32"),)
    assert network.outputs == (TensorSpec(name="scores", shape=(1, 10), dtype="float32"),)
    outputs = network.reference(sample_inputs(network.inputs))
    assert outputs["scores"].shape == (1, 10)
    assert network.reference_name.startswith("onnxruntime ")
    assert sum(op.flops for op in network.operators) > 0


def test_names_that_relax_cannot_use_survive(make_model, tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["input:0"], ["out/put.1"])
    path = tmp_path / "model.onnx"
    onnx.save(make_model([node], {"input:0": [1, 4]}, {"out/put.1": [1, 4]}), str(path))
    network = load_network(path, {})
    assert [i.name for i in network.inputs] == ["input:0"]
    assert [o.name for o in network.outputs] == ["out/put.1"]


def test_dynamic_model_with_shapes(make_model, tmp_path: Path) -> None:
    weight = np.ones((4, 3, 3, 3), dtype=np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Shape", ["c"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axes"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["c", "shape"], ["y"]),
    ]
    constants = {
        "w": weight,
        "zero": np.int64(0),
        "axes": np.array([0]),
        "rest": np.array([-1]),
    }
    path = tmp_path / "model.onnx"
    onnx.save(make_model(nodes, {"x": ["N", 3, "H", "W"]}, {"y": ["N", "K"]}, constants), str(path))
    network = load_network(path, {"x": (2, 3, 5, 7)})
    assert network.outputs[0].shape == (2, 4 * 5 * 7)


def test_training_mode_batch_norm_uses_its_running_statistics(make_model, tmp_path: Path) -> None:
    constants = {
        name: np.full(3, value, np.float32)
        for name, value in zip("sbmv", (2, 1, 3, 4), strict=True)
    }
    node = helper.make_node(
        "BatchNormalization", ["x", *"sbmv"], ["y", "rm", "rv"], "bn", training_mode=1
    )
    path = tmp_path / "model.onnx"
    onnx.save(make_model([node], {"x": [1, 3, 4, 4]}, {"y": [1, 3, 4, 4]}, constants), str(path))
    network = load_network(path, {})
    assert any(d.subject == "bn" and "training mode" in d.reason for d in network.decisions)
    x = np.ones((1, 3, 4, 4), np.float32)
    expected = 2 * (1 - 3) / np.sqrt(4 + 1e-5) + 1
    np.testing.assert_allclose(network.reference({"x": x})["y"], expected, rtol=1e-5)


@pytest.mark.parametrize(("parameter", "value"), [("v", -1.0), ("s", np.nan), ("m", np.inf)])
def test_unusable_batch_norm(make_model, tmp_path: Path, parameter: str, value: float) -> None:
    constants = {name: np.ones(3, np.float32) for name in "sbmv"}
    constants[parameter][1] = value
    node = helper.make_node("BatchNormalization", ["x", *"sbmv"], ["y"], "bn")
    path = tmp_path / "model.onnx"
    onnx.save(make_model([node], {"x": [1, 3, 4, 4]}, {"y": [1, 3, 4, 4]}, constants), str(path))
    with pytest.raises(ModelError, match="BatchNormalization bn has unusable statistics"):
        load_network(path, {})


def test_data_dependent_output_shape_is_refused(make_model, tmp_path: Path) -> None:
    node = helper.make_node("NonZero", ["x"], ["y"], "nz")
    model = make_model([node], {"x": [4]}, {"y": None})
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path))
    with pytest.raises(ModelError, match="not known before the network runs"):
        load_network(path, {})


def test_sample_inputs_are_reproducible_and_fit() -> None:
    specs = (
        TensorSpec(name="f", shape=(2, 3), dtype="float16"),
        TensorSpec(name="u", shape=(64,), dtype="uint8"),
        TensorSpec(name="i", shape=(9,), dtype="int64"),
        TensorSpec(name="b", shape=(9,), dtype="bool"),
    )
    first, second = sample_inputs(specs), sample_inputs(specs)
    for spec in specs:
        assert first[spec.name].dtype == spec.dtype
        assert first[spec.name].shape == spec.shape
        np.testing.assert_array_equal(first[spec.name], second[spec.name])
    assert set(np.unique(first["i"])) <= {0, 1}
    assert first["u"].max() > 128


def test_simplifier_leaves_constants_folded(make_model, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Mul", ["x", "c"], ["y"]),
    ]
    constants = {"a": np.ones(4, np.float32), "b": np.ones(4, np.float32)}
    path = tmp_path / "model.onnx"
    model = make_model(nodes, {"x": [4]}, {"y": [4]}, constants)
    onnx.save(model, str(path))
    network = load_network(path, {})
    assert [op.op for op in network.operators] == ["Mul"]
    assert numpy_helper.to_array(model.graph.initializer[0]).sum() == 4


def test_simplifier_runs_until_nothing_is_left_to_fold(make_model, tmp_path: Path) -> None:
    # Pads computed from shapes, as torch exports them: constant, but only after several foldings.
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Slice", ["s", "two", "four"], ["hw"]),
        helper.make_node("Mod", ["hw", "seven"], ["rest"]),
        helper.make_node("Concat", ["zero4", "zero2", "rest"], ["pads"], axis=0),
        helper.make_node("Pad", ["x", "pads"], ["y"]),
    ]
    constants = {
        "two": np.array([2]),
        "four": np.array([4]),
        "seven": np.array([7, 7]),
        "zero4": np.zeros(4, np.int64),
        "zero2": np.zeros(2, np.int64),
    }
    path = tmp_path / "model.onnx"
    shapes = {"x": [1, 3, 9, 10]}, {"y": [1, 3, 11, 13]}
    onnx.save(make_model(nodes, *shapes, constants), str(path))
    network = load_network(path, {})
    assert [op.op for op in network.operators] == ["Pad"]
    assert network.outputs[0].shape == (1, 3, 11, 13)


@pytest.mark.parametrize(("dtype", "expected"), [("float16", "float16"), ("float32", "float32")])
def test_arithmetic_of_the_network(make_model, tmp_path: Path, dtype: str, expected: str) -> None:
    node = helper.make_node("Mul", ["x", "w"], ["y"])
    model = make_model([node], {"x": [4]}, {"y": [4]}, {"w": np.ones(4, dtype)})
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path))
    assert load_network(path, {}).arithmetic == expected


def test_empty_optional_inputs_count_as_absent(make_model, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node(
            "Resize",
            ["r", "none", "none", "sizes"],
            ["y"],
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        ),
    ]
    constants = {"none": np.zeros(0, np.float32), "sizes": np.array([1, 2, 8, 10])}
    path = tmp_path / "model.onnx"
    shapes = {"x": [1, 2, 4, 5]}, {"y": [1, 2, 8, 10]}
    onnx.save(make_model(nodes, *shapes, constants, opset=11), str(path))
    assert load_network(path, {}).outputs[0].shape == (1, 2, 8, 10)


def test_old_opsets_are_modernized(make_model, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Slice", ["x"], ["s"], axes=[3], starts=[1], ends=[4]),
        helper.make_node("Upsample", ["s", "scales"], ["y"], mode="nearest"),
    ]
    constants = {"scales": np.array([1, 1, 2, 3], np.float32)}
    path = tmp_path / "model.onnx"
    shapes = {"x": [1, 2, 4, 5]}, {"y": [1, 2, 8, 9]}
    onnx.save(make_model(nodes, *shapes, constants, opset=9), str(path))
    network = load_network(path, {})
    assert network.outputs[0].shape == (1, 2, 8, 9)
    assert any(d.transform == "Modernize" and d.applied for d in network.decisions)
    result = tvm_iovt.compile(path, output=tmp_path / "b.iovt")
    assert result.manifest.deployments[0].discrepancy is not None


def test_modern_opsets_are_left_alone(small_model: Path) -> None:
    decisions = load_network(small_model, {}).decisions
    assert not any(d.transform == "Modernize" for d in decisions)
