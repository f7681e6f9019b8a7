from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

from tvm_iovt.frontend.operator_names import name_operators

WEIGHT = np.random.default_rng(0).standard_normal((4, 4, 3, 3)).astype(np.float32)
CONSTANTS = {
    "w": WEIGHT,
    "wt": np.ascontiguousarray(WEIGHT[:, :, :2, :2]),
    "w1d": np.ascontiguousarray(WEIGHT[:, :, :, 0]),
    "bias": np.ones(4, np.float32),
    "p": np.full(4, 0.5, np.float32),
}


def model(*nodes: onnx.NodeProto, shape=(1, 4, 8, 8)) -> onnx.ModelProto:
    """A chain of nodes from `x` to the output of the last one."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in CONSTANTS.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    return onnx.shape_inference.infer_shapes(made)


def conv(operand: str, result: str, name: str = "", bias: bool = False) -> onnx.NodeProto:
    inputs = [operand, "w", *(["bias"] if bias else [])]
    return helper.make_node("Conv", inputs, [result], name, pads=[1] * 4)


def norm(operand: str, result: str, name: str = "") -> onnx.NodeProto:
    inputs = [operand, "p", "p", "p", "p"]
    return helper.make_node("BatchNormalization", inputs, [result], name)


def imported(*nodes: onnx.NodeProto, shape=(1, 4, 8, 8)) -> tuple[tvm.IRModule, tvm.IRModule]:
    """As imported, and named."""
    source = model(*nodes, shape=shape)
    module = from_onnx(source, keep_params_in_input=False)
    return module, name_operators(module, source)


def bindings(module: tvm.IRModule) -> list[tuple[str, Any]]:
    blocks = module["main"].body.blocks
    return [(b.var.name, b.value) for block in blocks for b in block.bindings]


def names_of(module: tvm.IRModule, op: str) -> list[str]:
    return [
        name
        for name, value in bindings(module)
        if isinstance(value, relax.Call) and value.op == tvm.ir.Op.get(op)
    ]


def test_convs_have_the_names_of_their_nodes() -> None:
    _, named = imported(
        conv("x", "a", "/stem/conv/Conv"),
        helper.make_node("Relu", ["a"], ["r"], "/stem/act/Relu"),
        conv("r", "y", "/head/Conv", bias=True),
        helper.make_node("Relu", ["y"], ["z"], "/act/Relu"),
    )
    assert names_of(named, "relax.nn.conv2d") == ["stem.conv", "head"]


def test_the_tensor_of_a_batch_norm_has_its_name() -> None:
    _, named = imported(
        conv("x", "a", "conv"), norm("a", "b", "norm"), helper.make_node("Relu", ["b"], ["y"])
    )
    (found,) = (
        name
        for name, value in bindings(named)
        if isinstance(value, relax.TupleGetItem) and int(value.index) == 0
    )
    assert found == "norm"


def test_transposed_convs_and_pools() -> None:
    _, named = imported(
        helper.make_node("AveragePool", ["x"], ["a"], "mean", kernel_shape=[2, 2]),
        helper.make_node("ConvTranspose", ["a", "wt"], ["b"], "up"),
        helper.make_node("MaxPool", ["b"], ["c"], "max", kernel_shape=[2, 2]),
        helper.make_node("Relu", ["c"], ["y"]),
    )
    assert names_of(named, "relax.nn.avg_pool2d") == ["mean"]
    assert names_of(named, "relax.nn.conv2d_transpose") == ["up"]
    assert names_of(named, "relax.nn.max_pool2d") == ["max"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conv1", "conv1"),
        ("Conv_12", "Conv_12"),
        ("/Conv", "Conv"),
        ("/conv/Conv", "conv"),
        ("/conv/Conv_3", "conv"),
        ("/stages/stages.0/conv/Conv", "stages.0.conv"),
        ("/net/net.1/net.1.2/Conv", "net.1.2"),
        ("/a/ab/Conv", "a.ab"),
        ("node_conv2d_5", "node_conv2d_5"),
        ("", "out_of_it"),
        ("/", "out_of_it"),
        ("a//b", "a.b"),
    ],
)
def test_labels(name, expected) -> None:
    _, named = imported(
        conv("x", "out_of_it", name), helper.make_node("Relu", ["out_of_it"], ["y"])
    )
    assert names_of(named, "relax.nn.conv2d") == [expected]


def test_kinds_that_do_not_match_one_to_one_keep_their_names() -> None:
    # A Conv on three axes is another operator: which node made which call is not known.
    before, named = imported(
        helper.make_node("Conv", ["x", "w1d"], ["a"], "line", pads=[1, 1]),
        helper.make_node("Relu", ["a"], ["y"]),
        shape=(1, 4, 8),
    )
    assert [name for name, _ in bindings(named)] == [name for name, _ in bindings(before)]


def test_nothing_but_names_changes() -> None:
    before, named = imported(
        conv("x", "a", "first", bias=True),
        norm("a", "b", "norm"),
        conv("b", "c", "second"),
        helper.make_node("Add", ["b", "c"], ["d"], "add"),
        helper.make_node("Relu", ["d"], ["y"]),
    )
    tvm.ir.assert_structural_equal(named, before)
    assert named["main"].attrs["num_input"] == before["main"].attrs["num_input"]
    assert [p.name for p in named["main"].params] == ["x"]


def test_a_model_whose_result_is_the_conv_itself() -> None:
    before, named = imported(conv("x", "y", "only"))
    tvm.ir.assert_structural_equal(named, before)


def test_nodes_whose_short_names_are_the_same_can_be_told_apart() -> None:
    before, named = imported(
        conv("x", "a", "/block/conv/Conv"),
        conv("a", "b", "/block/conv/Conv_1"),
        helper.make_node("Relu", ["b"], ["y"]),
    )
    first, second = names_of(named, "relax.nn.conv2d")
    assert first != second
    assert "block" in first
    tvm.ir.assert_structural_equal(named, before)
    machine = relax.VirtualMachine(tvm.compile(named, "llvm"), tvm.cpu())
    x = np.ones((1, 4, 8, 8), np.float32)
    assert machine["main"](tvm.runtime.tensor(x)).numpy().shape == x.shape
