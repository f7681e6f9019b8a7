"""Every operator that is read, in front of or behind a convolution."""

import numpy as np
import onnx
import pytest
from onnx import helper

C = 4


def after(build):
    """A convolution, then the operator."""

    def whole(n):
        return build(n, n.conv("x", C, C, 3, bias=True))

    return whole


AFTER = {
    "batch norm": lambda n, y: n.bn(y, C),
    "batch norm with an epsilon": lambda n, y: n.bn(y, C, epsilon=0.1),
    "add a channel": lambda n, y: n.node("Add", y, n.constant(n.numbers(1, C, 1, 1))),
    "add from the left": lambda n, y: n.node("Add", n.constant(n.numbers(C, 1, 1)), y),
    "add a scalar": lambda n, y: n.node("Add", y, n.constant(np.float32(3))),
    "subtract": lambda n, y: n.node("Sub", y, n.constant(n.numbers(C, 1, 1))),
    "subtract from": lambda n, y: n.node("Sub", n.constant(n.numbers(C, 1, 1)), y),
    "multiply": lambda n, y: n.node("Mul", y, n.constant(n.numbers(C, 1, 1))),
    "divide": lambda n, y: n.node("Div", y, n.constant(n.numbers(C, 1, 1))),
    "negate": lambda n, y: n.node("Neg", y),
    "sum with a constant": lambda n, y: n.node("Sum", y, n.constant(n.numbers(C, 1, 1))),
    "identity": lambda n, y: n.bn(n.node("Identity", y), C),
    "average pool": lambda n, y: n.node("AveragePool", y, kernel_shape=[2, 2], strides=[2, 2]),
    "average pool of padding": lambda n, y: n.node(
        "AveragePool", n.conv(y, C, C, 1), kernel_shape=[3, 3], count_include_pad=1
    ),
    "average pool, ceil mode without a rest": lambda n, y: n.node(
        "AveragePool", y, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1
    ),
    "slice": lambda n, y: n.node("Slice", y, *(n.constant(v) for v in ([1, -5], [-1, 7], [2, 3]))),
    "slice with steps": lambda n, y: n.node(
        "Slice", y, *(n.constant(v) for v in ([2], [2**31 - 1], [-1], [1]))
    ),
}


@pytest.mark.parametrize("name", AFTER)
def test_behind_a_convolution(net, fuse, name):
    n = net()
    outcome = fuse(n.model(n.node("Relu", after(AFTER[name])(n))))
    assert outcome.counts == {"Conv": 1, "Relu": 1}


BEFORE = {
    "batch norm": lambda n: n.bn("x", C),
    "scale": lambda n: n.node("Mul", "x", n.constant(n.numbers(C, 1, 1))),
    "negate": lambda n: n.node("Neg", "x"),
    "pad": lambda n: n.node("Pad", "x", n.constant([0, 0, 1, 2, 0, 0, 0, 1])),
    "pad by an explicit zero": lambda n: n.node(
        "Pad", "x", n.constant([0, 0, 1, 2, 0, 0, 0, 1]), n.constant(np.float32(0))
    ),
    "average pool": lambda n: n.node("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2]),
    "slice": lambda n: n.node("Slice", "x", *(n.constant(v) for v in ([1], [7], [2]))),
}


@pytest.mark.parametrize("name", BEFORE)
def test_before_a_convolution_that_does_not_pad(net, fuse, name):
    n = net()
    y = n.conv(BEFORE[name](n), C, 5, 3, pads=[0] * 4)
    assert fuse(n.model(n.node("Relu", y))).counts == {"Conv": 1, "Relu": 1}


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [2, 3])
def test_auto_pad(net, fuse, auto_pad, stride, size):
    n = net()
    y = n.conv("x", C, C, size, auto_pad=auto_pad, strides=[stride, stride])
    assert fuse(n.model(n.bn(y, C), (1, C, 9, 8))).counts == {"Conv": 1}


def test_same_padding_without_a_stride_needs_no_sizes(net, fuse):
    n = net()
    y = n.bn(n.conv("x", C, C, 3, auto_pad="SAME_UPPER"), C)
    outcome = fuse(n.model(y, ["N", C, "H", "W"]), shape=(2, C, 7, 9))
    assert outcome.counts == {"Conv": 1}


def test_conv_without_any_attribute(net, fuse):
    n = net()
    weight = n.constant(n.numbers(C, C, 3, 3))
    assert fuse(n.model(n.bn(n.node("Conv", "x", weight), C))).counts == {"Conv": 1}


def pad_node(n, opset):
    widths, axes = [0, 0, 1, 2, 0, 0, 2, 1], [2, 3]
    if opset < 11:
        return n.node("Pad", "x", pads=widths)
    if opset < 18:
        return n.node("Pad", "x", n.constant(widths))
    return n.node("Pad", "x", n.constant([1, 2, 2, 1]), "", n.constant(axes))


@pytest.mark.parametrize("opset", [7, 10, 11, 13, 17, 18, 21])
def test_pad_of_every_opset(net, fuse, opset):
    n = net()
    y = n.bn(n.conv(pad_node(n, opset), C, C, 3, pads=[0] * 4), C)
    outcome = fuse(n.model(y, opset=opset))
    assert outcome.counts == {"Conv": 1}
    (node,) = outcome.model.graph.node
    assert helper.get_attribute_value(next(a for a in node.attribute if a.name == "pads")) == [
        1,
        2,
        2,
        1,
    ]


def test_slice_of_old_opsets(net, fuse):
    n = net()
    cropped = n.node("Slice", "x", starts=[1, 2], ends=[7, 100000], axes=[2, 3])
    y = n.conv(cropped, C, C, 3, pads=[0] * 4)
    assert fuse(n.model(y, opset=9)).counts == {"Conv": 1}


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_behind_a_transposed_convolution(net, fuse, group, bias):
    n = net()
    operands = ["x", n.constant(n.numbers(C, 6 // group, 3, 3))]
    if bias:
        operands.append(n.constant(n.numbers(6)))
    y = n.node("ConvTranspose", *operands, group=group, strides=[2, 2], output_padding=[1, 1])
    y = n.bn(n.node("Mul", y, n.constant(n.numbers(6, 1, 1))), 6)
    outcome = fuse(n.model(y))
    assert outcome.counts == {"ConvTranspose": 1}


def test_before_a_transposed_convolution(net, refuse):
    n = net()
    y = n.node("ConvTranspose", n.bn("x", C), n.constant(n.numbers(C, 6, 3, 3)))
    assert "stands before a transposed convolution" in refuse(n.model(y))


@pytest.mark.parametrize("attributes", [{}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0}])
@pytest.mark.parametrize("bias", [None, (), (5,), (1, 5), (1,)])
def test_dense_layers(net, fuse, attributes, bias):
    n = net()
    shape = (5, 7) if attributes.get("transB") else (7, 5)
    operands = ["x", n.constant(n.numbers(*shape))]
    if bias is not None:
        operands.append(n.constant(n.numbers(*bias)))
    y = n.bn(n.node("Gemm", *operands, **attributes), 5)
    outcome = fuse(n.model(y, (3, 7)))
    assert outcome.counts == {"Gemm": 1}


@pytest.mark.parametrize("opset", [9, 17])
def test_matmul_becomes_gemm(net, fuse, opset):
    n = net()
    y = n.node("MatMul", "x", n.constant(n.numbers(7, 5)))
    y = n.node("Mul", y, n.constant(n.numbers(5)))
    y = n.node("MatMul", y, n.constant(n.numbers(5, 2)))
    outcome = fuse(n.model(y, ["N", 7], opset=opset), shape=(3, 7))
    assert outcome.counts == {"Gemm": 1}


def test_matmul_with_a_bias_behind(net, fuse):
    n = net()
    y = n.node("MatMul", "x", n.constant(n.numbers(7, 5)))
    y = n.node("Add", y, n.constant(n.numbers(5)))
    assert fuse(n.model(y, (3, 7))).counts == {"Gemm": 1}


def test_a_transposed_weight(net, fuse):
    """As torch exports a Linear without constant folding."""
    n = net()
    weight = n.node("Transpose", n.constant(n.numbers(5, 7)), perm=[1, 0])
    y = n.bn(n.node("MatMul", "x", weight), 5)
    outcome = fuse(n.model(y, (3, 7)))
    assert outcome.counts == {"Gemm": 1}
    assert len(outcome.model.graph.initializer) == 2


def test_constants_of_nodes(net, fuse):
    n = net()
    tensor = onnx.numpy_helper.from_array(n.numbers(C, C, 3, 3))
    weight = n.node("Identity", n.node("Constant", value=tensor))
    factor = n.node("Constant", value_floats=[1.0, 2.0, 3.0, 4.0])
    factor = n.node("Unsqueeze", factor, n.constant([1, 2]))
    y = n.node("Mul", n.node("Conv", "x", weight), factor)
    y = n.node("Add", y, n.node("Constant", value_float=2.0))
    bias = n.node("Reshape", n.constant(n.numbers(C)), n.constant([1, -1, 1, 1]))
    outcome = fuse(n.model(n.node("Add", y, bias)))
    assert outcome.counts == {"Conv": 1}
    assert {t.name.split("/")[0] for t in outcome.model.graph.initializer} == {
        "constant_0",
        "constant_0_bias",
    }


def test_a_padded_bias_becomes_a_map(net, fuse):
    n = net()
    outcome = fuse(n.model(n.node("Relu", n.conv(n.bn("x", C), C, C, 3))))
    assert [node.op_type for node in outcome.model.graph.node] == ["Conv", "Add", "Relu"]
    (bias_map,) = (t for t in outcome.model.graph.initializer if t.name.endswith("_map"))
    assert list(bias_map.dims) == [1, C, 8, 8]


def test_a_map_is_folded_into_what_follows(net, fuse):
    n = net()
    inner = n.bn(n.conv(n.bn("x", C), C, C, 3), C)
    outcome = fuse(n.model(n.node("Relu", n.conv(inner, C, 6, 1, bias=True))))
    assert outcome.counts == {"Conv": 1, "Add": 1, "Relu": 1}


@pytest.mark.parametrize("shape", [(C, 8, 8), (1, C, 8, 1), (1, 1, 8, 8), (8, 8), (8,)])
def test_a_map_behind_a_convolution_stays(net, refuse, shape):
    n = net()
    refuse(n.model(n.node("Add", n.conv("x", C, C, 3), n.constant(n.numbers(*shape)))))


def test_a_map_behind_a_convolution_takes_the_batch_norm(net, fuse):
    n = net()
    y = n.node("Add", n.conv("x", C, C, 3), n.constant(n.numbers(C, 8, 8)))
    assert fuse(n.model(n.bn(y, C))).counts == {"Conv": 1, "Add": 1}
    n = net()
    y = n.node("ConvTranspose", "x", n.constant(n.numbers(C, C, 1, 1)))
    y = n.node("Add", y, n.constant(n.numbers(C, 8, 8)))
    assert fuse(n.model(n.bn(y, C))).counts == {"ConvTranspose": 1, "Add": 1}
