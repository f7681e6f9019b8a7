from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx
from tvm.script import ir as I
from tvm.script import relax as R

from relay_passes import FuseBatchNorm
from tests.relay_passes.fusion_cases import (
    ADD,
    BATCH_NORM,
    CONV,
    DENSE,
    TRANSPOSED,
    OnnxNet,
    RelaxNet,
    assert_equal,
    assert_idempotent,
    assert_left_alone,
    assert_matches_reference,
    assert_same_results,
    calls,
    count,
    fuse,
    onnx_model,
    operators,
    refusals,
    relax_module,
)

IMAGE = (2, 4, 6, 5)


def imported(body, shape=IMAGE, seed=0):
    model = onnx_model(body, shape, seed)
    return model, from_onnx(model, keep_params_in_input=False)


def assert_folds(body, shape=IMAGE, *, found: list[str], seed: int = 0) -> tvm.IRModule:
    """An ONNX body folds to these operators and still computes what ONNX Runtime does."""
    model, before = imported(body, shape, seed)
    after, decisions = fuse(FuseBatchNorm, before)
    assert sorted(operators(after)) == sorted(found)
    assert all(d.transform == "FuseBatchNorm" for d in decisions)
    assert any(d.applied for d in decisions)
    assert_matches_reference(after, model)
    assert_idempotent(FuseBatchNorm, before)
    return after


# What it makes.


def test_expected_module() -> None:
    # Numbers that are exact in binary: variance + epsilon is 4.
    weight = np.arange(1, 9, dtype=np.float32).reshape(2, 4, 1, 1)
    bias = np.float32([1, -2]).reshape(1, 2, 1, 1)
    gamma, beta = np.float32([4, -1]), np.float32([0.5, 3])
    mean, variance = np.float32([2, -4]), np.float32([3.75, 3.75])
    factor = gamma / 2
    fused = weight * factor.reshape(-1, 1, 1, 1)
    shift = (beta + (bias.reshape(-1) - mean) * factor).reshape(1, 2, 1, 1)
    w, b, g, be, m, v = map(relax.const, (weight, bias, gamma, beta, mean, variance))
    fused_w, fused_b = relax.const(fused), relax.const(shift.astype(np.float32))

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 4, 3, 3), "float32")) -> R.Tensor((1, 2, 3, 3), "float32"):
            with R.dataflow():
                c = R.nn.conv2d(x, w)
                s = R.add(c, b)
                t = R.nn.batch_norm(s, g, be, m, v, axis=1, epsilon=0.25, training=False)
                y = t[0]
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 4, 3, 3), "float32")) -> R.Tensor((1, 2, 3, 3), "float32"):
            with R.dataflow():
                c = R.nn.conv2d(x, fused_w)
                y = R.add(c, fused_b)
                R.output(y)
            return y

    after, decisions = fuse(FuseBatchNorm, Before)
    assert_equal(after, Expected)
    assert [d.applied for d in decisions if "folded into c" in d.reason]


@pytest.mark.parametrize("bias", [False, True])
def test_conv_and_batch_norm(bias) -> None:
    def body(net, x):
        return net.bn(net.conv(x, 4, 6, bias=bias, stride=2), 6)

    assert_folds(body, found=[CONV, ADD])


def test_statistics_that_cancel_leave_no_bias() -> None:
    def body(net, x):
        parameters = [np.ones(4), np.zeros(4), np.zeros(4), np.ones(4)]
        return net.bn_of(net.conv(x, 4, 4), parameters)

    assert_folds(body, found=[CONV])


def test_depthwise_and_grouped() -> None:
    def body(net, x):
        x = net.relu(net.conv_bn(x, 4, 8, groups=4))
        return net.conv_bn(x, 8, 6, 1, groups=2)

    assert_folds(body, found=[CONV, ADD, "relax.nn.relu", CONV, ADD])


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_transposed_conv_and_batch_norm(groups, bias) -> None:
    def body(net, x):
        weight = net.constant(net.weight(4, 6 // groups, 3, 2))
        inputs = [x, weight, *([net.constant(net.weight(6, 1)[:, 0])] if bias else [])]
        y = net.node("ConvTranspose", *inputs, strides=[2, 2], pads=[1, 0, 0, 0], group=groups)
        return net.bn(y, 6)

    assert_folds(body, found=[TRANSPOSED, ADD])


@pytest.mark.parametrize("transposed", [False, True])
def test_dense_and_batch_norm(transposed) -> None:
    def body(net, x):
        shape = (6, 7) if transposed else (7, 6)
        matrix, bias = net.constant(net.weight(*shape)), net.constant(net.weight(6, 1)[:, 0])
        return net.bn(net.node("Gemm", x, matrix, bias, transB=int(transposed)), 6)

    assert_folds(body, (3, 7), found=[DENSE, ADD])


def test_batch_norm_before_dense() -> None:
    def body(net, x):
        matrix = net.constant(net.weight(7, 6))
        return net.node("MatMul", net.bn(x, 7), matrix)

    assert_folds(body, (3, 7), found=[DENSE, ADD])


def test_batch_norm_before_an_unpadded_conv() -> None:
    after = assert_folds(
        lambda net, x: net.conv(net.bn(x, 4), 4, 6, padding=0, groups=2), found=[CONV, ADD]
    )
    (bias,) = (c.args[1] for c in calls(after) if c.op.name == ADD)
    assert list(bias.ty.shape) == [1, 6, 1, 1]


def test_batch_norm_before_a_padded_conv_gives_a_bias_that_differs_along_the_border() -> None:
    after = assert_folds(lambda net, x: net.conv(net.bn(x, 4), 4, 6), found=[CONV, ADD])
    (bias,) = (c.args[1] for c in calls(after) if c.op.name == ADD)
    assert list(bias.ty.shape) == [1, 6, 6, 5]


def test_batch_norm_on_both_sides() -> None:
    def body(net, x):
        return net.bn(net.conv(net.bn(x, 4), 4, 6, bias=True), 6)

    _, before = imported(body)
    once = FuseBatchNorm()(before)
    assert count(once, BATCH_NORM) == 0
    assert_same_results(once, before)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_scales_and_shifts_in_place_of_a_batch_norm(layout) -> None:
    def body(net: RelaxNet, x):
        y = net.conv(x, 4, 6)
        y = net.call("multiply", y, net.channels(np.arange(1, 7)))
        y = net.call("subtract", net.channels(np.arange(6)), y)
        y = net.call("divide", y, net.const(2.0))
        y = net.call("negative", y)
        y = net.call("subtract", y, net.channels(np.ones(6)))
        return net.call("multiply", net.channels(np.full(6, 0.25)), y)

    before = relax_module(body, IMAGE, layout=layout)
    after, _ = fuse(FuseBatchNorm, before)
    assert sorted(operators(after)) == [ADD, CONV]
    assert_same_results(after, before)
    assert_idempotent(FuseBatchNorm, before)


def test_shift_of_each_pixel_is_merged_with_the_bias() -> None:
    def body(net: RelaxNet, x):
        y = net.bn(net.conv(x, 4, 6), 6)
        return net.add(y, net.const(net.random.standard_normal((1, 6, 6, 5))))

    before = relax_module(body, IMAGE)
    after, _ = fuse(FuseBatchNorm, before)
    assert sorted(operators(after)) == [ADD, CONV]
    assert_same_results(after, before)


@pytest.mark.parametrize("dataflow", [True, False])
def test_functions_with_and_without_dataflow_blocks(dataflow) -> None:
    before = relax_module(lambda net, x: net.conv_bn(x, 4, 6), IMAGE, dataflow=dataflow)
    after, _ = fuse(FuseBatchNorm, before)
    assert sorted(operators(after)) == [ADD, CONV]
    relax.analysis.well_formed(after)
    assert_same_results(after, before)


def test_every_function_is_folded() -> None:
    before = relax_module(lambda net, x: net.conv_bn(x, 4, 6), IMAGE)
    other = relax_module(lambda net, x: net.conv_bn(x, 4, 2, 1), IMAGE, seed=1)
    before.update_func(
        relax.GlobalVar("second"), other["main"].with_attr("global_symbol", "second")
    )
    after, decisions = fuse(FuseBatchNorm, before)
    assert len([d for d in decisions if d.applied]) == 2
    for function in ("main", "second"):
        assert sorted(operators(after, function)) == [ADD, CONV]


def test_symbolic_batch() -> None:
    def body(net, x):
        return net.relu(net.conv_bn(net.bn(x, 4), 4, 6))

    _, before = imported(body, ("batch", 4, 6, 5))
    after, _ = fuse(FuseBatchNorm, before)
    assert count(after, BATCH_NORM) == 0
    assert_same_results(after, before, batch=3)


def test_center_and_scale_flags() -> None:
    def body(net: RelaxNet, x):
        y = net.bn_of(net.conv(x, 4, 6), net.norm(6), center=False)
        return net.bn_of(net.relu(y), net.norm(6), scale=False)

    def foldable(net: RelaxNet, x):
        y = net.conv(net.relu(net.conv(x, 4, 6, 1)), 6, 6, 1)
        y = net.bn_of(y, net.norm(6), center=False)
        return net.bn_of(y, net.norm(6), scale=False)

    before = relax_module(foldable, IMAGE)
    after, _ = fuse(FuseBatchNorm, before)
    assert count(after, BATCH_NORM) == 0
    assert_same_results(after, before)
    # The second one follows a ReLU.
    partly, _ = fuse(FuseBatchNorm, relax_module(body, IMAGE))
    assert count(partly, BATCH_NORM) == 1


@settings(max_examples=8, deadline=None)
@given(
    inputs=st.sampled_from([1, 2, 6]),
    outputs=st.sampled_from([1, 3, 6]),
    size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 2),
    padding=st.tuples(*[st.integers(0, 2)] * 4),
    bias=st.booleans(),
    before=st.booleans(),
    layout=st.sampled_from(["NCHW", "NHWC"]),
    seed=st.integers(0, 99),
)
def test_any_conv(inputs, outputs, size, stride, padding, bias, before, layout, seed) -> None:
    def body(net, x):
        x = net.bn(x, inputs) if before else x
        x = net.conv(x, inputs, outputs, size, stride=stride, padding=padding, bias=bias)
        return net.bn(x, outputs)

    mod = relax_module(body, (1, inputs, 7, 5), layout=layout, dtype="float64", seed=seed)
    after, _ = fuse(FuseBatchNorm, mod)
    assert count(after, BATCH_NORM) == 0
    assert_same_results(after, mod, rtol=1e-7)  # TVM takes epsilon as float32


# What it leaves alone.


def norm_of(body):
    """A ReLU after the batch norm keeps it from what follows."""
    return relax_module(lambda net, *xs: net.relu(body(net, *xs)), IMAGE)


def test_conv_read_twice() -> None:
    def body(net, x):
        c = net.conv(x, 4, 6)
        return net.bn(c, 6), net.relu(c)

    assert_left_alone(FuseBatchNorm, relax_module(body, IMAGE), "has another consumer")


def test_conv_that_is_also_a_result() -> None:
    def body(net, x):
        c = net.conv(x, 4, 6)
        return net.bn(c, 6), c

    assert_left_alone(FuseBatchNorm, relax_module(body, IMAGE), "has another consumer")


def test_non_linearity_between() -> None:
    mod = norm_of(lambda net, x: net.bn(net.relu(net.conv(x, 4, 6)), 6))
    assert_left_alone(FuseBatchNorm, mod, "nn.relu lies between")


def test_batch_norm_of_the_input() -> None:
    mod = norm_of(lambda net, x: net.bn(x, 4))
    assert_left_alone(FuseBatchNorm, mod, "it is an input of the graph")


def training(net, x):
    return net.bn_of(x, net.norm(6), training=True)


def other_axis(net, x):
    return net.bn_of(x, net.norm(5), axis=3)


def parameters_of_the_graph(net, x):
    gamma = net.call("sum", x, axis=[0, 2, 3])
    _, *rest = map(net.const, net.norm(6))
    normed = net.call("nn.batch_norm", x, gamma, *rest, axis=1, training=False)
    return net.emit(relax.TupleGetItem(normed, 0))


@pytest.mark.parametrize(
    ("norm", "reason"),
    [
        (training, "training mode"),
        (other_axis, "normalises axis 3"),
        (parameters_of_the_graph, "parameters are not constants"),
    ],
)
def test_batch_norm_that_is_no_constant_scale(norm, reason) -> None:
    def body(net, x):
        return net.conv(norm(net, net.conv(x, 4, 6)), 6, 2, padding=0)

    assert_left_alone(FuseBatchNorm, relax_module(body, IMAGE), reason)


def test_negative_axis_is_counted_from_the_end() -> None:
    def body(net, x):
        return net.bn_of(net.conv(x, 4, 6), net.norm(6), axis=-3)

    after, _ = fuse(FuseBatchNorm, relax_module(body, IMAGE))
    assert count(after, BATCH_NORM) == 0


@pytest.mark.parametrize(
    ("parameter", "value", "reason"), [(0, np.nan, "NaN"), (1, np.inf, "NaN"), (3, -1, "variance")]
)
def test_batch_norm_that_has_no_meaning(parameter, value, reason) -> None:
    def body(net, x):
        parameters = net.norm(6)
        parameters[parameter][2] = value
        return net.bn_of(net.conv(x, 4, 6), parameters)

    assert_left_alone(FuseBatchNorm, relax_module(body, IMAGE), reason)


def test_variance_of_zero_without_epsilon() -> None:
    def body(net, x):
        parameters = net.norm(6)
        parameters[3][0] = 0
        return net.bn_of(net.conv(x, 4, 6), parameters, epsilon=0.0)

    assert_left_alone(FuseBatchNorm, relax_module(body, IMAGE), "variance of zero")


def test_division_by_zero() -> None:
    def body(net, x):
        y = net.call("divide", net.conv(x, 4, 6), net.channels([1, 1, 0, 1, 1, 1]))
        return net.bn(y, 6)

    assert_left_alone(FuseBatchNorm, relax_module(body, IMAGE), "NaN or infinity")


def test_weight_with_nan() -> None:
    def body(net, x):
        weight = net.weight(6, 4, 1, 1)
        weight[0, 0] = np.nan
        return net.bn(net.conv_of(x, weight, None, 1, (0,) * 4, 1, 1), 6)

    assert_left_alone(FuseBatchNorm, relax_module(body, IMAGE), "NaN or infinity")


def test_weight_that_is_an_input() -> None:
    def body(net: RelaxNet, x, weight):
        return net.bn(net.call("nn.conv2d", x, weight), 6)

    mod = relax_module(body, IMAGE, (6, 4, 1, 1))
    assert_left_alone(FuseBatchNorm, mod, "is an input of the graph")


def test_weight_that_is_computed() -> None:
    def body(net: RelaxNet, x, weight):
        return net.bn(net.call("nn.conv2d", x, net.call("exp", weight)), 6)

    mod = relax_module(body, IMAGE, (6, 4, 1, 1))
    assert_left_alone(FuseBatchNorm, mod, "is computed in the graph")


def test_weight_that_is_quantized() -> None:
    def body(net: RelaxNet, x):
        weight = relax.const(np.ones((6, 4, 1, 1), np.int8))
        scales = relax.const(np.full(6, 0.5, np.float32))
        zeros = relax.const(np.zeros(6, np.int8))
        floats = net.call("dequantize", weight, scales, zeros, axis=0)
        return net.bn(net.call("nn.conv2d", x, floats), 6)

    mod = relax_module(body, IMAGE)
    assert_left_alone(FuseBatchNorm, mod, "is quantized")


def test_types_that_mix() -> None:
    def body(net: RelaxNet, x):
        c = net.call("nn.conv2d", x, net.const(net.weight(6, 4, 1, 1)), out_dtype="float32")
        parameters = [relax.const(p.astype(np.float32)) for p in net.norm(6)]
        normed = net.call("nn.batch_norm", c, *parameters, axis=1, training=False)
        return net.emit(relax.TupleGetItem(normed, 0))

    mod = relax_module(body, IMAGE, dtype="float16")
    assert_left_alone(FuseBatchNorm, mod, "mixes float16 and float32")


def test_weights_that_overflow_their_type() -> None:
    def body(net: RelaxNet, x):
        parameters = net.norm(6)
        parameters[0][:] = 60000
        parameters[3][:] = 1e-4
        return net.bn_of(net.conv(x, 4, 6), parameters)

    mod = relax_module(body, IMAGE, dtype="float16")
    assert_left_alone(FuseBatchNorm, mod, "overflow float16")


def test_bias_that_overflows_its_type() -> None:
    def body(net: RelaxNet, x):
        weight = np.full((6, 4, 1, 1), 1e-3)
        parameters = [np.full(6, 1e3), np.zeros(6), np.full(6, 1e3), np.full(6, 1e-3)]
        return net.bn_of(net.conv_of(x, weight, None, 1, (0,) * 4, 1, 1), parameters)

    mod = relax_module(body, IMAGE, dtype="float16")
    assert_left_alone(FuseBatchNorm, mod, "overflow float16")


@pytest.mark.parametrize("op", ["multiply", "divide"])
def test_factor_of_each_pixel(op) -> None:
    def body(net: RelaxNet, x):
        return net.bn(net.call(op, net.conv(x, 4, 6), net.const(np.full((1, 1, 6, 5), 2.0))), 6)

    assert_left_alone(FuseBatchNorm, relax_module(body, IMAGE), "a constant for each pixel")


def test_constant_of_each_image_in_the_batch() -> None:
    def body(net: RelaxNet, x):
        return net.bn(net.add(net.conv(x, 4, 6), net.const(np.ones((2, 6, 1, 1)))), 6)

    assert_left_alone(FuseBatchNorm, relax_module(body, IMAGE), "a constant for each pixel")


def test_constant_divided_by_a_tensor() -> None:
    def body(net: RelaxNet, x):
        return net.bn(net.call("divide", net.const(1.0), net.conv(x, 4, 6)), 6)

    assert_left_alone(FuseBatchNorm, relax_module(body, IMAGE), "a constant divided by a tensor")


def test_constant_that_broadcasts_the_image() -> None:
    def body(net: RelaxNet, x):
        c = net.conv(x, 4, 1)
        return net.bn(net.call("multiply", c, net.channels(np.arange(1, 7))), 6)

    assert_left_alone(FuseBatchNorm, relax_module(body, IMAGE), "broadcasts the image")


def test_attention_between() -> None:
    def body(net: RelaxNet, x):
        c = net.conv(x, 4, 6)
        gate = net.call("sigmoid", net.conv(x, 4, 6, 1))
        return net.bn(net.call("multiply", c, gate), 6)

    assert_left_alone(FuseBatchNorm, relax_module(body, IMAGE), "multiply of two tensors")


def test_sum_between() -> None:
    def body(net, x, other):
        return net.bn(net.add(net.conv(x, 4, 4), other), 4)

    assert_left_alone(FuseBatchNorm, relax_module(body, IMAGE, IMAGE), "a sum lies between")


def test_batch_norm_before_a_transposed_conv() -> None:
    def body(net: RelaxNet, x):
        weight = net.const(net.weight(4, 6, 2, 2))
        return net.call("nn.conv2d_transpose", net.bn(net.relu(x), 4), weight)

    mod = relax_module(body, IMAGE)
    assert_left_alone(FuseBatchNorm, mod, "stands before a transposed convolution")


def test_padded_bias_of_an_unknown_image_size() -> None:
    n, h, w = (tvm.tirx.Var(name, "int64") for name in "nhw")
    mod = relax_module(lambda net, x: net.conv(net.bn(x, 4), 4, 6), (n, 4, h, w))
    assert_left_alone(FuseBatchNorm, mod, "the image size is not static")


def test_layouts_that_mix() -> None:
    def body(net: RelaxNet, x):
        y = net.conv_bn(x, 4, 4)
        y = net.call("permute_dims", net.relu(y), axes=[0, 2, 3, 1])
        weight = net.const(net.weight(3, 3, 4, 4))
        y = net.call("nn.conv2d", y, weight, data_layout="NHWC", kernel_layout="HWIO")
        return net.bn_of(y, net.norm(4), axis=3)

    before = relax_module(body, IMAGE)
    after, _ = fuse(FuseBatchNorm, before)
    assert count(after, BATCH_NORM) == 0
    assert_same_results(after, before)


def test_blocked_layout() -> None:
    def body(net: RelaxNet, x):
        weight = net.const(np.ones((6, 4, 1, 1, 1, 1)))
        return net.call("nn.conv2d", x, weight, data_layout="NCHW1c", kernel_layout="OIHW1i1o")

    assert_untouched(relax_module(body, (1, 4, 5, 5, 1)))


def test_three_axes() -> None:
    def body(net: RelaxNet, x):
        return net.bn_of(net.call("nn.conv1d", x, net.const(net.weight(6, 4, 1))), net.norm(6))

    assert_untouched(relax_module(body, (1, 4, 7)))


def test_operators_that_give_no_tensor_are_left_alone() -> None:
    def body(net: RelaxNet, x):
        c = net.conv(x, 4, 4)
        return net.call("reshape", net.relu(c), net.call("shape_of", c))

    assert_untouched(relax_module(body, IMAGE))


def test_tensors_of_unknown_size() -> None:
    weight = relax.const(np.ones((4, 4, 1, 1), np.float32))
    scale = relax.const(np.ones((1, 4, 1, 1), np.float32))

    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor(ndim=4, dtype="float32")) -> R.Tensor(ndim=4, dtype="float32"):
            with R.dataflow():
                c = R.nn.conv2d(x, weight)
                y = R.multiply(c, scale)
                R.output(y)
            return y

    assert_untouched(Module)


def assert_untouched(mod: tvm.IRModule) -> None:
    after, decisions = fuse(FuseBatchNorm, mod)
    assert not [d for d in decisions if d.applied]
    assert_equal(after, mod)


# What `time` decides.


def roofline(flops: int, nbytes: int) -> float:
    return max(flops / 1e10, nbytes / 1e10) + 1e-6


def only_traffic(_flops: int, nbytes: int) -> float:
    return nbytes / 1e10


def test_shared_weight_is_kept_under_a_cost_model() -> None:
    def body(net: RelaxNet, x):
        weight = net.const(net.weight(4, 4, 1, 1))
        first = net.bn(net.call("nn.conv2d", x, weight), 4)
        return net.bn(net.call("nn.conv2d", net.relu(first), weight), 4)

    mod = relax_module(body, IMAGE)
    assert_left_alone(FuseBatchNorm, mod, "is shared with another operator", roofline)
    after, _ = fuse(FuseBatchNorm, mod)
    assert count(after, BATCH_NORM) == 0
    assert_same_results(after, mod)


def test_bias_map_that_costs_more_than_the_batch_norm() -> None:
    # Many output channels: the map is much larger than the image that is normalised, and the
    # normalisation is part of the operator before.
    def body(net, x):
        return net.conv(net.bn(net.relu(x), 1), 1, 64)

    mod = relax_module(body, (1, 1, 16, 16))
    assert_left_alone(FuseBatchNorm, mod, "costs more than it saves", only_traffic)
    after, _ = fuse(FuseBatchNorm, mod)
    assert count(after, BATCH_NORM) == 0
    assert_same_results(after, mod)


def test_folding_behind_a_conv_costs_nothing() -> None:
    mod = relax_module(lambda net, x: net.conv_bn(x, 4, 6), IMAGE)
    after, _ = fuse(FuseBatchNorm, mod, roofline)
    assert count(after, BATCH_NORM) == 0


def test_without_anything_to_fold_the_module_is_the_same_object() -> None:
    mod = relax_module(lambda net, x: net.relu(net.conv(x, 4, 6, bias=True)), IMAGE)
    after, decisions = fuse(FuseBatchNorm, mod)
    assert after.same_as(mod)
    assert not refusals(decisions)


def test_onnx_names_the_epsilon_as_it_was_written() -> None:
    # With the smallest variances, float32's 9.9999997e-06 would show.
    def body(net: OnnxNet, x):
        parameters = [np.ones(4), np.zeros(4), np.zeros(4), np.zeros(4)]
        c = net.conv(x, 4, 4, 1)
        return net.node("BatchNormalization", c, *map(net.constant, parameters), epsilon=1e-5)

    model, before = imported(body)
    after = FuseBatchNorm()(before)
    weights = next(c for c in calls(after) if c.op.name == CONV).args[1].value.numpy()
    (original,) = (
        onnx_weight
        for onnx_weight in map(tvm_array, model.graph.initializer)
        if onnx_weight.ndim == 4
    )
    expected = (original.astype(np.float64) / np.sqrt(1e-5)).astype(np.float32)
    np.testing.assert_array_equal(weights, expected)


def tvm_array(tensor) -> np.ndarray:
    import onnx

    return onnx.numpy_helper.to_array(tensor)
