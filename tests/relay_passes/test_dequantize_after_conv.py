from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx
from tvm.script import ir as I
from tvm.script import relax as R

from relay_passes import DequantizeAfterConv
from tests.relay_passes.fusion_cases import virtual_machine
from tvm_iovt.frontend.reference import OnnxReference
from tvm_iovt.types import Decision


def quantized_conv(
    make_model: Callable[..., onnx.ModelProto],
    *,
    channels: int = 8,
    outputs: int = 12,
    size: int = 9,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    bias: bool = True,
    relu: bool = False,
    bias_factor: float = 1.0,
    weight_zero_point: int = 0,
    seed: int = 0,
) -> onnx.ModelProto:
    """float -> Q -> DQ -> Conv [-> Relu] -> Q -> DQ, per-channel int8 weights, int32 bias."""
    random = np.random.default_rng(seed)
    in_scale, out_scale = np.float32(0.031), np.float32(0.077)
    scales = random.uniform(0.001, 0.02, outputs).astype(np.float32)
    shape = (outputs, channels // groups, kernel, kernel)
    constants: dict[str, Any] = {
        "sx": in_scale,
        "zx": np.int8(-7),
        "w": random.integers(-127, 128, shape, dtype=np.int8),
        "sw": scales,
        "zw": np.full(outputs, weight_zero_point, np.int8),
        "b": random.integers(-4000, 4000, outputs, dtype=np.int32),
        "sb": in_scale * scales * np.float32(bias_factor),
        "zb": np.zeros(outputs, np.int32),
        "sy": out_scale,
        "zy": np.int8(-128 if relu else 5),
    }
    attributes = {"pads": [kernel // 2] * 4, "strides": [stride] * 2, "group": groups}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "sx", "zx"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wf"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "sb", "zb"], ["bf"], axis=0),
        helper.make_node("Conv", ["xf", "wf", *(["bf"] if bias else [])], ["c"], **attributes),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("QuantizeLinear", ["r" if relu else "c", "sy", "zy"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "sy", "zy"], ["y"]),
    ]
    if not relu:
        del nodes[5]
    if not bias:
        del nodes[3]
        constants = {k: v for k, v in constants.items() if k not in ("b", "sb", "zb")}
    out = (size - 1) // stride + 1
    return make_model(
        nodes, {"x": [1, channels, size, size]}, {"y": [1, outputs, out, out]}, constants
    )


def rewrite(model: onnx.ModelProto) -> tuple[tvm.IRModule, list[Decision]]:
    decisions: list[Decision] = []
    return DequantizeAfterConv(decisions.append)(from_onnx(model)), decisions


def count(mod: tvm.IRModule, op: str) -> int:
    found = []

    def visit(expr: Any) -> None:
        if isinstance(expr, relax.Call) and expr.op == tvm.ir.Op.get(op):
            found.append(expr)

    relax.analysis.post_order_visit(mod["main"], visit)
    return len(found)


def assert_exact(model: onnx.ModelProto, mod: tvm.IRModule) -> None:
    (value,) = model.graph.input
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32) * 2
    machine = virtual_machine(mod)
    found = machine["main"](tvm.runtime.tensor(x)).numpy()
    np.testing.assert_array_equal(found, OnnxReference(model)({"x": x})["y"])


def test_before_and_after_operators(make_model) -> None:
    model = quantized_conv(make_model)
    before, (after, decisions) = from_onnx(model), rewrite(model)
    assert (count(before, "relax.dequantize"), count(after, "relax.dequantize")) == (4, 1)
    assert count(after, "relax.nn.conv2d") == 1
    assert count(after, "relax.quantize") == 2
    assert [(d.applied, d.reason) for d in decisions] == [(True, "exact sums")]


def test_expected_module() -> None:
    weight = np.arange(-2, 2, dtype=np.int8).reshape(2, 2, 1, 1)
    w, wf = relax.const(weight), relax.const(weight.astype(np.float32))
    scales, m = (
        relax.const(np.float32([0.5, 0.25])),
        relax.const(np.float32([0.25, 0.125]).reshape(1, 2, 1, 1)),
    )
    zeros = relax.const(np.zeros(2, np.int8))

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 2, 3, 3), "int8")) -> R.Tensor((1, 2, 3, 3), "int8"):
            with R.dataflow():
                xf = R.dequantize(x, R.const(1.0, "float32"), R.const(3, "int8"), axis=1)
                wd = R.dequantize(w, scales, zeros, axis=0)
                c = R.nn.conv2d(xf, wd)
                y = R.quantize(c, R.const(2.0, "float32"), R.const(4, "int8"), axis=1)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 2, 3, 3), "int8")) -> R.Tensor((1, 2, 3, 3), "int8"):
            with R.dataflow():
                cast = R.astype(x, dtype="float32")
                centred = R.subtract(cast, R.const(3.0, "float32"))
                c = R.nn.conv2d(centred, wf)
                scaled = R.multiply(c, m)
                y = R.quantize(scaled, R.const(1.0, "float32"), R.const(4, "int8"), axis=1)
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(DequantizeAfterConv()(Before), Expected)


@settings(max_examples=12, deadline=None)
@given(
    channels=st.sampled_from([3, 8, 20]),
    kernel=st.sampled_from([1, 3, 5]),
    size=st.integers(5, 11),
    stride=st.sampled_from([1, 2]),
    depthwise=st.booleans(),
    bias=st.booleans(),
    relu=st.booleans(),
    weight_zero_point=st.sampled_from([0, 3]),
    seed=st.integers(0, 99),
)
def test_bit_exact_with_integer_kernels(
    make_model, channels, kernel, size, stride, depthwise, bias, relu, weight_zero_point, seed
) -> None:
    model = quantized_conv(
        make_model,
        channels=channels,
        outputs=channels if depthwise else 7,
        groups=channels if depthwise else 1,
        kernel=kernel,
        size=size,
        stride=stride,
        bias=bias,
        relu=relu,
        # ONNX Runtime has no integer kernel for weights with a zero point in all cases.
        weight_zero_point=0 if depthwise else weight_zero_point,
        seed=seed,
    )
    after, decisions = rewrite(model)
    assert all(d.applied for d in decisions)
    if weight_zero_point == 0 or depthwise:
        assert_exact(model, after)


def refused(model: onnx.ModelProto) -> str:
    after, decisions = rewrite(model)
    assert [d.applied for d in decisions] == [False]
    tidy = tvm.transform.Sequential([relax.transform.DeadCodeElimination()])
    tvm.ir.assert_structural_equal(after, tidy(from_onnx(model)))
    return decisions[0].reason


def test_bias_of_another_scale_is_refused(make_model) -> None:
    assert "bias has another scale" in refused(quantized_conv(make_model, bias_factor=2.0))


def test_weight_scales_along_another_axis_are_refused(make_model) -> None:
    # As many input as output channels: the wrong axis would fit, and compute something else.
    model = quantized_conv(make_model, channels=12, outputs=12)
    weight = next(n for n in model.graph.node if n.output[0] == "wf")
    weight.attribute[0].i = 1
    assert "weight has scales along axis 1" in refused(model)


def test_input_scales_for_each_channel_are_refused(make_model) -> None:
    model = quantized_conv(make_model)
    for name, value in (("sxc", np.full(8, 0.03, np.float32)), ("zxc", np.zeros(8, np.int8))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    for node in model.graph.node[:2]:
        node.input[1:] = ["sxc", "zxc"]
        node.attribute.append(helper.make_attribute("axis", 1))
    assert "input has scales along axis 1" in refused(model)


def test_float_weight_is_refused(make_model) -> None:
    model = quantized_conv(make_model)
    weights = np.ones((12, 8, 3, 3), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "float_w"))
    conv = next(n for n in model.graph.node if n.op_type == "Conv")
    conv.input[1] = "float_w"
    assert "weight is not quantized" in refused(model)


def test_float_bias_is_refused(make_model) -> None:
    model = quantized_conv(make_model)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(12, np.float32), "float_b"))
    conv = next(n for n in model.graph.node if n.op_type == "Conv")
    conv.input[2] = "float_b"
    assert "bias is not quantized" in refused(model)


def test_convolution_read_twice_is_left_alone(make_model) -> None:
    model = quantized_conv(make_model, bias=False)
    model.graph.output.append(
        helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, [1, 12, 9, 9])
    )
    after, decisions = rewrite(model)
    assert decisions == []
    assert count(after, "relax.dequantize") == 3


def test_sums_beyond_float32_are_said_to_round(make_model) -> None:
    _, decisions = rewrite(quantized_conv(make_model, channels=512, outputs=2, size=5, kernel=5))
    assert [d.applied for d in decisions] == [True]
    assert "may round" in decisions[0].reason


def test_idempotent(make_model) -> None:
    once, _ = rewrite(quantized_conv(make_model))
    tvm.ir.assert_structural_equal(DequantizeAfterConv()(once), once)


def test_float_convolutions_are_not_touched(make_model) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    constants = {"w": np.ones((2, 3, 1, 1), np.float32)}
    model = make_model([node], {"x": [1, 3, 4, 4]}, {"y": [1, 2, 4, 4]}, constants)
    after, decisions = rewrite(model)
    assert decisions == []
    assert count(after, "relax.nn.conv2d") == 1


def quantized_matrix_product(
    make_model: Callable[..., onnx.ModelProto],
    *,
    lead: tuple[int, ...] = (4,),
    transposed: bool = False,
    bias: bool = False,
    scales_axis: int | None = None,
    per_tensor: bool = False,
) -> onnx.ModelProto:
    """float -> Q -> DQ -> Gemm or MatMul with int8 weights -> Q -> DQ."""
    random = np.random.default_rng(4)
    depth, features = 24, 24
    shape = (features, depth) if transposed else (depth, features)
    axis = scales_axis if scales_axis is not None else (0 if transposed else 1)
    scales = random.uniform(0.001, 0.02, () if per_tensor else features).astype(np.float32)
    constants: dict[str, Any] = {
        "sx": np.float32(0.031),
        "zx": np.int8(-7),
        "w": random.integers(-128, 128, shape).astype(np.int8),
        "sw": scales,
        "zw": np.zeros(scales.shape, np.int8),
        "sy": np.float32(0.0771),
        "zy": np.int8(5),
    }
    inputs = ["xf", "wf"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "sx", "zx"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wf"], axis=axis),
    ]
    if bias:
        constants["b"] = random.integers(-4000, 4000, features).astype(np.int32)
        constants["sb"] = np.float32(0.031) * np.broadcast_to(scales, features)
        constants["zb"] = np.zeros(features, np.int32)
        nodes.append(helper.make_node("DequantizeLinear", ["b", "sb", "zb"], ["bf"], axis=0))
        inputs.append("bf")
    if transposed or bias:
        nodes.append(helper.make_node("Gemm", inputs, ["c"], transB=int(transposed)))
    else:
        nodes.append(helper.make_node("MatMul", inputs, ["c"]))
    nodes += [
        helper.make_node("QuantizeLinear", ["c", "sy", "zy"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "sy", "zy"], ["y"]),
    ]
    return make_model(nodes, {"x": [*lead, depth]}, {"y": [*lead, features]}, constants)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lead": (2, 3)},
        {"transposed": True},
        {"transposed": True, "bias": True},
        {"bias": True},
        {"transposed": True, "per_tensor": True},
    ],
    ids=str,
)
def test_matrix_products_of_whole_numbers(options: dict[str, Any], make_model) -> None:
    model = quantized_matrix_product(make_model, **options)
    after, decisions = rewrite(model)
    assert [(d.applied, d.reason) for d in decisions] == [(True, "exact sums")]
    assert decisions[0].subject.startswith("matmul ")
    assert count(after, "relax.dequantize") == 1
    assert_exact(model, after)


@pytest.mark.parametrize(("transposed", "axis"), [(False, 0), (True, 1)])
def test_scales_along_the_inputs_of_a_matrix_are_refused(transposed, axis, make_model) -> None:
    model = quantized_matrix_product(make_model, transposed=transposed, scales_axis=axis)
    assert f"weight has scales along axis {axis}" in refused(model)


def test_products_of_activations_are_left_alone(make_model) -> None:
    scale = {"s": np.float32(0.05), "z": np.int8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xf"]),
        helper.make_node("MatMul", ["xf", "xf"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "s", "z"], ["y"]),
    ]
    model = make_model(nodes, {"x": [6, 6]}, {"y": [6, 6]}, scale)
    assert "weight is not a constant" in refused(model)
