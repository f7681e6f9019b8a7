"""What must not be fused: the reason is told, and the model stays as it is, byte by byte."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tvm_iovt.fusion.linear_graph import Blocked
from tvm_iovt.onnx_fusion.onnx_graph import OnnxGraph

C = 4


def blocked(model, value):
    found = OnnxGraph(model).operator(value)
    assert isinstance(found, Blocked), found
    return found.reason


def test_a_non_linear_operator_between(net, refuse):
    n = net()
    y = n.bn(n.node("Relu", n.conv("x", C, C)), C)
    assert "Relu lies between" in refuse(n.model(y))


def test_batch_norm_of_an_input(net, refuse):
    n = net()
    assert "it is an input of the graph" in refuse(n.model(n.bn("x", C)))


def test_batch_norm_in_training_mode(net, refuse):
    n = net()
    parameters = [n.constant(np.ones(C, np.float32)) for _ in range(4)]
    y = n.conv("x", C, C)
    n.nodes.append(
        helper.make_node(
            "BatchNormalization", [y, *parameters], ["y", "m", "v"], "bn", training_mode=1
        )
    )
    model = n.model("y")
    refuse(model)
    assert blocked(model, "y") == "bn is in training mode"


def test_batch_norm_with_the_statistics_of_old_opsets(net):
    n = net()
    parameters = [n.constant(np.ones(C, np.float32)) for _ in range(4)]
    y = n.conv("x", C, C)
    n.nodes.append(helper.make_node("BatchNormalization", [y, *parameters], ["y", "m", "v"], "bn"))
    assert blocked(n.model("y", opset=9), "y") == "bn is in training mode"


def test_batch_norm_with_computed_parameters(net, refuse):
    n = net()
    parameters = [n.constant(np.ones(C, np.float32)) for _ in range(3)]
    computed = n.node("Abs", n.constant(np.ones(C, np.float32)))
    y = n.node("BatchNormalization", n.conv("x", C, C), parameters[0], *parameters[1:], computed)
    assert f"a parameter of {y} is computed in the graph" in refuse_reason(n, y, refuse)


def refuse_reason(n, y, refuse):
    model = n.model(y)
    refuse(model)
    return blocked(model, y)


def test_another_consumer(net, refuse):
    n = net()
    y = n.conv("x", C, C)
    z = n.bn(y, C)
    model = n.model(n.node("Mul", n.node("Relu", y), z))
    assert f"the input of {z} has another consumer" in refuse(model)


def test_an_output_of_the_graph_counts_as_a_consumer(net, refuse):
    n = net()
    y = n.conv("x", C, C)
    z = n.bn(y, C)
    assert "has another consumer" in refuse(n.model([y, z]))
    n = net()
    y = n.conv("x", C, C)
    same = n.node("Identity", y)
    assert "has another consumer" in refuse(n.model([n.bn(y, C), same]))


def if_node(n, value):
    """An If whose bodies read a value from outside."""
    bodies = []
    for op in ("Relu", "Neg"):
        output = helper.make_tensor_value_info(f"inner_{op}", TensorProto.FLOAT, None)
        node = helper.make_node(op, [value], [f"inner_{op}"])
        bodies.append(helper.make_graph([node], op, [], [output]))
    return n.node("If", n.constant(np.array(True)), then_branch=bodies[0], else_branch=bodies[1])


def test_a_subgraph_counts_as_a_consumer(net, fuse):
    n = net()
    y = n.conv("x", C, C)
    z = n.bn(y, C)
    model = n.model([z, if_node(n, y)])
    outcome = fuse(model, check=False)
    assert "has another consumer" in outcome.refusals
    assert outcome.model == model


def test_a_weight_that_is_an_input(net, refuse):
    n = net()
    y = n.bn(n.node("Conv", "x", "w", name="conv"), C)
    model = n.model(y, extra_inputs={"w": (C, C, 3, 3)})
    assert "the weight of conv is an input of the graph" in refuse(model)


def test_an_initializer_that_is_also_an_input_can_be_fed(net, refuse):
    n = net()
    weight = n.constant(n.numbers(C, C, 3, 3), "w")
    y = n.bn(n.node("Conv", "x", weight, name="conv"), C)
    model = n.model(y, extra_inputs={"w": (C, C, 3, 3)})
    assert "the weight of conv is an input of the graph" in refuse(model)


def test_a_quantized_weight(net, refuse):
    n = net()
    weight = n.node(
        "DequantizeLinear",
        n.constant(n.random.integers(-99, 99, (C, C, 3, 3), dtype=np.int8)),
        n.constant(np.float32(0.01)),
    )
    y = n.bn(n.node("Conv", "x", weight, name="conv"), C)
    assert "the weight of conv is quantized" in refuse(n.model(y))


def test_a_computed_weight(net, refuse):
    n = net()
    weight = n.node("Abs", n.constant(n.numbers(C, C, 3, 3)))
    y = n.bn(n.node("Conv", "x", weight, name="conv"), C)
    assert "the weight of conv is computed in the graph" in refuse(n.model(y))


def test_a_computed_bias(net, refuse):
    n = net()
    bias = n.node("Abs", n.constant(n.numbers(C)))
    y = n.bn(n.node("Conv", "x", n.constant(n.numbers(C, C, 3, 3)), bias, name="conv"), C)
    assert "the bias of conv is computed in the graph" in refuse(n.model(y))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(net, refuse, value):
    n = net()
    weight = n.numbers(C, C, 1, 1)
    weight[0] = value
    y = n.node("Conv", "x", n.constant(weight), name="conv")
    reason = refuse(n.model(n.node("Relu", n.bn(y, C))), check=False)
    assert "NaN or infinity" in reason


def test_division_by_zero(net, refuse):
    n = net()
    y = n.node("Div", n.conv("x", C, C), n.constant(np.zeros((C, 1, 1), np.float32)))
    assert "NaN or infinity" in refuse(n.model(n.bn(y, C)), check=False)


def test_half_weights_that_overflow(net, refuse):
    n = net(dtype=np.float16)
    y = n.conv("x", C, C, 1)
    factor = n.constant(np.full((C, 1, 1), 6e4, np.float16))
    y = n.node("Mul", n.node("Mul", y, factor), factor)
    assert "the fused weights overflow float16" in refuse(n.model(y), check=False)


def test_shared_weights_stay_shared(net, fuse, refuse):
    def model():
        n = net()
        weight = n.constant(n.numbers(C, C, 3, 3))
        one = n.bn(n.node("Conv", "x", weight, name="a"), C)
        two = n.bn(n.node("Conv", "x", n.node("Identity", weight), name="b"), C)
        return n.model(n.node("Mul", one, two))

    free = lambda flops, nbytes: 0.0  # noqa: E731
    assert "the weight of a is shared with another operator" in refuse(model(), free)
    # Asked for whatever is exact, each gets its own.
    assert fuse(model()).counts == {"Conv": 2, "Mul": 1}


def test_padding_left_out_of_the_average(net, refuse):
    n = net()
    pool = n.node("AveragePool", n.conv("x", C, C), kernel_shape=[3, 3], pads=[1] * 4)
    model = n.model(pool)
    refuse(model)
    assert "count_include_pad" in blocked(model, pool)


def test_incomplete_windows(net, refuse):
    n = net()
    pool = n.node(
        "AveragePool", n.conv("x", C, C), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1
    )
    model = n.model(pool, (1, C, 7, 7))
    refuse(model)
    assert "ceil_mode" in blocked(model, pool)


def test_same_padding_of_unknown_sizes(net, refuse):
    n = net()
    y = n.bn(n.conv("x", C, C, 3, auto_pad="SAME_UPPER", strides=[2, 2]), C)
    model = n.model(y, ["N", C, "H", "W"])
    assert "SAME_UPPER padding needs a static image size" in refuse(model, shape=(1, C, 8, 8))


PADS = {
    "other values than zero": lambda n: n.node(
        "Pad", "x", n.constant([0, 0, 1, 1, 0, 0, 1, 1]), n.constant(np.float32(1))
    ),
    "other values": lambda n: n.node(
        "Pad", "x", n.constant([0, 0, 1, 1, 0, 0, 1, 1]), mode="reflect"
    ),
    "batch or channels": lambda n: n.node("Pad", "x", n.constant([0, 0, 0, 0, 0, 1, 1, 1])),
    "computed widths": lambda n: n.node(
        "Pad", "x", n.node("Abs", n.constant([0, 0, 1, 1, 0, 0, 1, 1]))
    ),
}


@pytest.mark.parametrize("reason", PADS)
def test_pads(net, refuse, reason):
    n = net()
    y = PADS[reason](n)
    channels = 5 if "channels" in reason else C
    model = n.model(n.conv(y, channels, C, pads=[0] * 4))
    refuse(model)
    assert reason in blocked(model, y)


SLICES = {
    "along C": ([0], [2], [1]),
    "along H": ([0], [8], [2], [2]),
    "computed bounds": None,
}


@pytest.mark.parametrize("reason", SLICES)
def test_slices(net, refuse, reason):
    n = net()
    bounds = SLICES[reason]
    if bounds is None:
        y = n.node("Slice", "x", n.node("Abs", n.constant([1])), n.constant([7]), n.constant([2]))
    else:
        y = n.node("Slice", "x", *map(n.constant, bounds))
    model = n.model(n.conv(y, 2 if "C" in reason else C, C, pads=[0] * 4))
    refuse(model)
    assert reason in blocked(model, y)


def test_a_slice_that_depends_on_an_unknown_size(net, refuse):
    n = net()
    y = n.node("Slice", "x", *map(n.constant, ([1], [7], [2])))
    model = n.model(n.conv(y, C, C, pads=[0] * 4), ["N", C, "H", "W"])
    refuse(model, shape=(1, C, 8, 8))
    assert "size is not static" in blocked(model, y)


def test_a_padded_bias_of_unknown_size(net, refuse):
    n = net()
    model = n.model(n.conv(n.bn("x", C), C, C, 3), ["N", C, "H", "W"])
    assert "the image size is not static" in refuse(model, shape=(1, C, 8, 8))


def test_a_factor_for_each_pixel(net, refuse):
    n = net()
    y = n.node("Mul", n.conv("x", C, C), n.constant(n.numbers(C, 8, 8)))
    model = n.model(y)
    refuse(model)
    assert blocked(model, y) == "Mul has a constant for each pixel"


def test_a_constant_that_broadcasts_the_image(net, refuse):
    n = net()
    y = n.node("Add", n.conv("x", C, 1), n.constant(n.numbers(3, 1, 1)))
    model = n.model(y)
    refuse(model)
    assert blocked(model, y) == "Add broadcasts the image"


def test_a_number_divided_by_a_tensor(net, refuse):
    n = net()
    y = n.node("Div", n.constant(np.float32(1)), n.conv("x", C, C))
    assert "divided by a tensor" in refuse_reason(n, y, refuse)


def test_products_of_tensors(net, refuse):
    n = net()
    y = n.node("Mul", n.conv("x", C, C), n.conv("x", C, C))
    assert refuse_reason(n, y, refuse) == "Mul of two tensors lies between"


def test_branches_of_different_strides(net, refuse):
    n = net()
    small = n.conv("x", C, C, 3, strides=[8, 8], name="small")
    model = n.model(n.add(n.conv("x", C, C, 3), small))
    assert "the operands have different shapes" in refuse(model)


def test_a_dense_layer_that_transposes_its_operand(net, refuse):
    n = net()
    y = n.node("Gemm", "x", n.constant(n.numbers(3, 5)), transA=1, name="dense")
    model = n.model(n.bn(y, 5), (3, 7))
    assert "transposes its operand" in refuse(model)


def test_a_dense_bias_of_every_row(net, refuse):
    n = net()
    y = n.node("Gemm", "x", n.constant(n.numbers(7, 5)), n.constant(n.numbers(3, 5)))
    assert "differs from row to row" in refuse(n.model(n.bn(y, 5), (3, 7)))


def test_products_of_more_than_two_axes(net, refuse):
    n = net()
    y = n.node("MatMul", "x", n.constant(n.numbers(7, 5)))
    model = n.model(n.node("Mul", y, n.constant(n.numbers(5))), (2, 3, 7))
    refuse(model)
    assert "on 3 axes" in blocked(model, y)


def test_convolutions_of_other_ranks(net, refuse):
    n = net()
    y = n.node("Conv", "x", n.constant(n.numbers(C, C, 3)))
    model = n.model(n.bn(y, C), (1, C, 9))
    refuse(model)
    assert "Conv on 3 axes lies between" in blocked(model, y)


def test_integers(net, refuse):
    n = net()
    y = n.node("Cast", "x", to=TensorProto.INT32)
    y = n.node("Add", y, n.constant(np.int32(1)))
    model = n.model(n.node("Cast", y, to=TensorProto.FLOAT))
    refuse(model)
    assert blocked(model, y) == "Add gives int32"


def test_operators_of_others(net):
    n = net()
    y = n.node("Conv", "x", n.constant(n.numbers(C, C, 3, 3)), domain="com.example")
    assert blocked(n.model(y), y) == "com.example.Conv lies between"


def test_fusion_that_costs_more_than_it_saves(net, refuse):
    n = net()
    y = n.conv(n.conv("x", C, 1, 1), 1, C, 1)
    time = lambda flops, nbytes: float(flops)  # noqa: E731
    assert "costs more than it saves" in refuse(n.model(y), time)


def test_bfloat16_is_rounded_once(net):
    from tvm_iovt.onnx_fusion.fuse_model import fuse_onnx

    n = net()
    weight = n.numbers(C, C, 1, 1).astype(ml_dtypes.bfloat16)
    factor = n.numbers(C, 1, 1).astype(ml_dtypes.bfloat16)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Mul", ["c", "f"], ["y"], "mul"),
    ]
    constants = [
        TensorProto(
            name=name,
            data_type=TensorProto.BFLOAT16,
            dims=value.shape,
            raw_data=value.tobytes(),
        )
        for name, value in {"w": weight, "f": factor}.items()
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.BFLOAT16, [1, C, 4, 4]) for name in "xy"
    ]
    graph = helper.make_graph(nodes, "half", values[:1], values[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])
    fused = fuse_onnx(model, time=None)
    onnx.checker.check_model(fused, full_check=True)
    (tensor,) = fused.graph.initializer
    assert tensor.data_type == TensorProto.BFLOAT16
    exact = weight.astype(np.float64) * factor.astype(np.float64).reshape(-1, 1, 1, 1)
    found = numpy_helper.to_array(tensor).astype(np.float64)
    np.testing.assert_array_equal(found, exact.astype(ml_dtypes.bfloat16).astype(np.float64))
