import math

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tvm_iovt.frontend.costs import is_unknown, operator_costs, parameter_count, totals

FLOAT = TensorProto.FLOAT


def model(nodes, inputs, constants=None, *, outputs=None, opset=17, domains=()):
    """A model from nodes, `{name: shape}` of inputs and `{name: array}` of initializers."""
    constants = constants or {}
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            helper.make_tensor_value_info(
                name, *(spec if isinstance(spec, tuple) else (FLOAT, spec))
            )
            for name, spec in inputs.items()
        ],
        [helper.make_empty_tensor_value_info(name) for name in outputs or nodes[-1].output],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets)


def cost(op, inputs, constants=None, *, names=None, opset=17, **attributes):
    """The cost of a graph of one node."""
    arguments = names or [*inputs, *(constants or {})]
    node = helper.make_node(op, arguments, ["y"], **attributes)
    (only,) = operator_costs(model([node], inputs, constants, opset=opset))
    return only


def weights(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def test_conv_with_stride_padding_and_bias():
    found = cost(
        "Conv",
        {"x": [1, 3, 224, 224]},
        {"w": weights(32, 3, 3, 3), "b": weights(32)},
        strides=[2, 2],
        pads=[1, 1, 1, 1],
    )
    assert found.shape_out == (1, 32, 112, 112)
    assert found.flops == 2 * 112 * 112 * 32 * 3 * 3 * 3
    assert found.bytes_in == 4 * 3 * 224 * 224
    assert found.bytes_out == 4 * 32 * 112 * 112
    assert found.bytes_weights == 4 * (32 * 3 * 3 * 3 + 32)
    assert (found.op, found.name, found.dtype, found.index) == ("Conv", "y", "float32", 0)


def test_conv_with_groups():
    found = cost("Conv", {"x": [2, 8, 10, 10]}, {"w": weights(16, 2, 1, 1)}, group=4)
    assert found.flops == 2 * (2 * 16 * 10 * 10) * 2


def test_depthwise_conv_with_dilation():
    found = cost(
        "Conv", {"x": [1, 8, 10, 10]}, {"w": weights(8, 1, 3, 3)}, group=8, dilations=[2, 2]
    )
    assert found.shape_out == (1, 8, 6, 6)
    assert found.flops == 2 * (8 * 6 * 6) * 9


def test_conv_transpose():
    found = cost(
        "ConvTranspose", {"x": [1, 24, 80, 80]}, {"w": weights(24, 6, 2, 2)}, strides=[2, 2]
    )
    assert found.shape_out == (1, 6, 160, 160)
    assert found.flops == 2 * (24 * 80 * 80) * 6 * 2 * 2


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm(transposed):
    shape = [5, 4] if transposed else [4, 5]
    found = cost("Gemm", {"a": shape}, {"b": weights(5, 7), "c": weights(7)}, transA=transposed)
    assert found.flops == 2 * 4 * 5 * 7
    assert found.bytes_weights == 4 * (5 * 7 + 7)


def test_matmul_broadcasts_batches():
    found = cost("MatMul", {"a": [8, 1, 4, 5], "b": [3, 5, 7]})
    assert found.shape_out == (8, 3, 4, 7)
    assert found.flops == 2 * (8 * 3 * 4 * 7) * 5
    assert found.bytes_in == 4 * (8 * 4 * 5 + 3 * 5 * 7)
    assert found.bytes_weights == 0


def test_matmul_of_vectors():
    found = cost("MatMul", {"a": [6], "b": [6]})
    assert found.shape_out == ()
    assert not is_unknown(found)
    assert found.flops == 12


def test_pools():
    window = {"kernel_shape": [3, 3], "strides": [2, 2]}
    assert cost("MaxPool", {"x": [1, 4, 9, 9]}, **window).flops == 4 * 4 * 4 * 9
    assert cost("AveragePool", {"x": [1, 4, 9, 9]}, **window).flops == 4 * 4 * 4 * 9
    assert cost("GlobalAveragePool", {"x": [1, 4, 9, 9]}).flops == 4 * 81


@pytest.mark.parametrize(
    ("op", "flops"),
    [("Relu", 1), ("Sqrt", 4), ("Exp", 8), ("Sigmoid", 8), ("Tanh", 8), ("HardSigmoid", 4)],
)
def test_element_wise(op, flops):
    found = cost(op, {"x": [2, 3]})
    assert found.flops == 6 * flops
    assert (found.bytes_in, found.bytes_out) == (24, 24)


def test_binary_operators_count_their_output():
    found = cost("Add", {"a": [4, 1], "b": [1, 5]})
    assert found.flops == 20
    assert found.bytes_in == 4 * 9
    assert cost("Div", {"a": [4, 5]}, {"b": weights(5)}).flops == 4 * 20


def test_a_tensor_that_is_read_twice_moves_once():
    found = cost("Mul", {"a": [10]}, names=["a", "a"])
    assert found.bytes_in == 40


def test_optional_inputs_may_be_missing():
    found = cost("Clip", {"x": [10]}, {"high": np.float32(6)}, names=["x", "", "high"])
    assert found.flops == 20
    assert found.bytes_weights == 4


def test_variadic_sum():
    assert cost("Sum", {"a": [10], "b": [10], "c": [10]}).flops == 20


def test_normalizations():
    channel = weights(4)
    found = cost(
        "BatchNormalization",
        {"x": [1, 4, 5, 5]},
        {"scale": channel, "bias": channel, "mean": channel, "var": channel},
    )
    assert found.flops == 2 * 100
    assert cost("Softmax", {"x": [2, 10]}).flops == 20 * 15
    norm = cost("LayerNormalization", {"x": [2, 10]}, {"scale": weights(10), "bias": weights(10)})
    assert norm.flops == 20 * 7


def test_reductions_count_their_input():
    found = cost("ReduceMean", {"x": [2, 10]}, axes=[1])
    assert found.flops == 20
    assert found.shape_out == (2, 1)
    assert cost("ReduceL2", {"x": [2, 10]}, axes=[1]).flops == 40
    assert cost("ArgMax", {"x": [2, 10]}, axis=1).dtype == "float32"


@pytest.mark.parametrize(("mode", "flops"), [("nearest", 0), ("linear", 8), ("cubic", 32)])
def test_resize_of_two_axes(mode, flops):
    found = cost(
        "Resize",
        {"x": [1, 2, 4, 4]},
        {"scales": np.array([1, 1, 2, 2], np.float32)},
        names=["x", "", "scales"],
        mode=mode,
    )
    assert found.shape_out == (1, 2, 8, 8)
    assert found.flops == flops * 2 * 64


def test_moves_have_traffic_and_no_work():
    found = cost("Transpose", {"x": [4, 5]}, perm=[1, 0])
    assert (found.flops, found.bytes_in, found.bytes_out) == (0, 80, 80)


def test_views_cost_nothing():
    found = cost("Reshape", {"x": [4, 5]}, {"shape": np.array([2, 10])})
    assert (found.flops, found.bytes_in, found.bytes_out, found.bytes_weights) == (0, 0, 0, 0)
    assert found.shape_out == (2, 10)
    assert not is_unknown(found)


def test_gather_reads_only_the_rows_it_takes():
    found = cost(
        "Gather", {"i": (TensorProto.INT64, [3])}, {"table": weights(1000, 8)}, names=["table", "i"]
    )
    assert found.bytes_weights == found.bytes_out == 4 * 3 * 8
    assert found.bytes_in == 8 * 3


def test_quantized_graph():
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["wq", "s", "z"], ["wd"]),
        helper.make_node("Conv", ["xd", "wd"], ["y"]),
    ]
    constants = {
        "s": np.float32(0.1),
        "z": np.int8(0),
        "wq": weights(2, 3, 1, 1, dtype=np.int8),
    }
    quantize, dequantize, folded, conv = operator_costs(
        model(nodes, {"x": [1, 3, 4, 4]}, constants)
    )
    assert quantize.flops == 5 * 48
    assert (quantize.bytes_in, quantize.bytes_out, quantize.dtype) == (4 * 48, 48, "float32")
    assert dequantize.flops == 2 * 48
    assert (dequantize.bytes_in, dequantize.bytes_out) == (48, 4 * 48)
    # Weights are dequantized by the compiler, and are float32 when the network runs.
    assert (folded.flops, folded.bytes_out) == (0, 0)
    assert conv.bytes_weights == 4 * 6


def test_integer_convolution():
    found = cost(
        "ConvInteger",
        {"x": (TensorProto.UINT8, [1, 3, 4, 4])},
        {"w": weights(2, 3, 1, 1, dtype=np.uint8)},
    )
    assert found.flops == 2 * (2 * 16) * 3
    assert (found.dtype, found.bytes_in, found.bytes_out) == ("uint8", 48, 4 * 32)


def test_four_bit_weights_take_half_a_byte():
    packed = helper.make_tensor("w", TensorProto.INT4, [4, 5], [1] * 20)
    nodes = [
        helper.make_node("Cast", ["w"], ["f"], to=FLOAT),
        helper.make_node("Relu", ["x"], ["y"]),
    ]
    made = model(nodes, {"x": [1]}, opset=21, outputs=["f", "y"])
    made.graph.initializer.append(packed)
    costs = operator_costs(made)
    assert [found.flops for found in costs] == [0, 1]
    gather = helper.make_node("Gather", ["w", "i"], ["y"])
    made = model([gather], {"i": (TensorProto.INT64, [4])}, opset=21)
    made.graph.initializer.append(packed)
    assert operator_costs(made)[0].bytes_weights == 10


def test_shape_arithmetic_is_folded():
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], axis=0),
        helper.make_node("Constant", [], ["rest"], value=numpy_helper.from_array(np.array([-1]))),
        helper.make_node("Concat", ["batch", "rest"], ["new"], axis=0),
        helper.make_node("Reshape", ["x", "new"], ["y"]),
    ]
    costs = operator_costs(model(nodes, {"x": [2, 3, 4]}, {"zero": np.array([0])}))
    assert [found.op for found in costs] == ["Shape", "Gather", "Concat", "Reshape"]
    assert [found.index for found in costs] == [0, 1, 3, 4]
    assert not any(map(is_unknown, costs))
    assert sum(found.bytes_in + found.bytes_out for found in costs) == 0
    assert costs[-1].shape_out == (2, 12)


def test_random_numbers_are_not_folded():
    found = cost("RandomNormalLike", {}, {"like": weights(4)})
    assert is_unknown(found)


def test_unknown_shapes_are_flagged():
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="dynamic"),
        helper.make_node("Relu", ["z"], ["b"], name="static"),
    ]
    made = model(nodes, {"x": ["N", 3], "z": [1, 3]}, outputs=["a", "b"])
    dynamic, static = operator_costs(made)
    assert is_unknown(dynamic)
    assert (dynamic.flops, dynamic.bytes_in, dynamic.shape_out) == (0, 0, ())
    assert not is_unknown(static)
    assert totals((dynamic, static), made).unknown == 1


def test_operators_without_a_formula_are_flagged():
    node = helper.make_node("Fancy", ["x"], ["y"], domain="com.example")
    made = model([node], {"x": [1, 3]}, domains=["com.example"])
    (found,) = operator_costs(made)
    assert is_unknown(found)
    assert found.op == "com.example.Fancy"


def test_shapes_of_a_wrong_rank_are_flagged():
    node = helper.make_node("Gemm", ["a", "b"], ["y"])
    made = model([node], {"a": [3], "b": [2, 3]})
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", FLOAT, [1, 4]))
    assert is_unknown(operator_costs(made)[0])


def test_totals():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(weights(4, 5))),
        helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(np.array([1, -1]))),
        helper.make_node("Reshape", ["r", "s"], ["f"]),
        helper.make_node("MatMul", ["f", "k"], ["y"]),
    ]
    made = model(nodes, {"x": [1, 3, 1, 1]}, {"w": weights(4, 3, 1, 1)})
    costs = operator_costs(made)
    found = totals(costs, made)
    assert costs[0].name == "conv"
    assert found.operators == 4
    assert found.unknown == 0
    assert found.macs == 12 + 20
    assert found.flops == 2 * 32 + 4
    assert found.parameters == parameter_count(made) == 12 + 20
    assert found.bytes == 4 * ((3 + 12 + 4) + (4 + 4) + (4 + 20 + 5))


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3),
    groups=st.integers(1, 3),
    channels=st.integers(1, 4),
    filters=st.integers(1, 4),
    size=st.integers(5, 9),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
)
def test_conv_flops_are_those_of_the_loop_nest(
    batch, groups, channels, filters, size, kernel, stride
):
    found = cost(
        "Conv",
        {"x": [batch, groups * channels, size, size]},
        {"w": weights(groups * filters, channels, kernel, kernel)},
        group=groups,
        strides=[stride, stride],
    )
    out = (size - kernel) // stride + 1
    assert found.shape_out == (batch, groups * filters, out, out)
    assert found.flops == 2 * batch * groups * filters * out * out * channels * kernel * kernel
    assert found.bytes_out == 4 * math.prod(found.shape_out)


def test_model_is_not_changed():
    node = helper.make_node("Relu", ["x"], ["y"])
    made = model([node], {"x": [1, 3]})
    before = onnx.ModelProto()
    before.CopyFrom(made)
    operator_costs(made)
    assert made == before
