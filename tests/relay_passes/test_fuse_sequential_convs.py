from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx
from tvm.script import ir as I
from tvm.script import relax as R

from relay_passes import FuseSequentialConvs
from tests.relay_passes.fusion_cases import (
    ADD,
    CONV,
    DENSE,
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
    relax_module,
)

IMAGE = (2, 4, 6, 5)


def assert_composes(body, shape=IMAGE, *, found=(CONV,), **options) -> tvm.IRModule:
    before = relax_module(body, shape, **options)
    after, decisions = fuse(FuseSequentialConvs, before)
    assert sorted(operators(after)) == sorted(found)
    assert all(d.transform == "FuseSequentialConvs" for d in decisions)
    assert any(d.applied for d in decisions)
    assert_same_results(after, before)
    assert_idempotent(FuseSequentialConvs, before)
    return after


def left_alone(body, reason: str, *shapes, time=None, **options) -> None:
    mod = relax_module(body, *(shapes or (IMAGE,)), **options)
    assert_left_alone(FuseSequentialConvs, mod, reason, time)


def the_conv(mod: tvm.IRModule):
    (conv,) = (call for call in calls(mod) if call.op.name == CONV)
    return conv


# What it makes.


def test_expected_module() -> None:
    first = np.float32([[1, 2], [3, 4], [5, 6]]).reshape(3, 2, 1, 1)
    then = np.arange(27, dtype=np.float32).reshape(1, 3, 3, 3)
    bias = np.float32([1, 0, -1]).reshape(1, 3, 1, 1)
    fused = np.einsum("omhw,mi->oihw", then, first[:, :, 0, 0])
    moved = np.einsum("omhw,m->o", then, bias.reshape(-1)).reshape(1, 1, 1, 1)
    f, t, b, k, m = map(relax.const, (first, then, bias, fused, moved))

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 2, 5, 5), "float32")) -> R.Tensor((1, 1, 3, 3), "float32"):
            with R.dataflow():
                c = R.nn.conv2d(x, f)
                d = R.add(c, b)
                y = R.nn.conv2d(d, t)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 2, 5, 5), "float32")) -> R.Tensor((1, 1, 3, 3), "float32"):
            with R.dataflow():
                c = R.nn.conv2d(x, k)
                y = R.add(c, m)
                R.output(y)
            return y

    after, (decision,) = fuse(FuseSequentialConvs, Before)
    assert_equal(after, Expected)
    assert decision.subject == "c, y"
    assert "3x3" in decision.reason


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_1x1_before_3x3_with_its_padding_in_front(layout) -> None:
    def body(net, x):
        return net.conv(net.conv(x, 4, 8, 1, padding=1, bias=True), 8, 6, 3, padding=0)

    conv = the_conv(assert_composes(body, found=(CONV, ADD), layout=layout))
    assert [int(p) for p in conv.attrs.padding] == [1, 1, 1, 1]


def test_padding_between_without_a_bias() -> None:
    assert_composes(lambda net, x: net.conv(net.conv(x, 4, 8, 1), 8, 6, 3))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_padding_between_with_a_bias_differs_along_the_border(layout) -> None:
    def body(net, x):
        return net.conv(net.conv(x, 4, 8, 1, bias=True), 8, 6, 3)

    after = assert_composes(body, found=(CONV, ADD), layout=layout)
    (bias,) = (c.args[1] for c in calls(after) if c.op.name == ADD)
    assert sorted(bias.ty.shape) == [1, 5, 6, 6]


def test_depthwise_before_pointwise() -> None:
    def body(net, x):
        return net.conv(net.conv(x, 4, 8, 3, groups=4), 8, 6, 1)

    conv = the_conv(assert_composes(body))
    assert list(conv.args[1].ty.shape) == [6, 4, 3, 3]


def test_common_groups_stay() -> None:
    def body(net, x):
        return net.conv(net.conv(x, 4, 8, 3, groups=4), 8, 6, 1, groups=2)

    assert the_conv(assert_composes(body)).attrs.groups == 2


def test_strides_multiply() -> None:
    def body(net, x):
        return net.conv(net.conv(x, 4, 4, 3, stride=2, padding=1), 4, 4, 2, stride=2, padding=0)

    conv = the_conv(assert_composes(body, (2, 4, 11, 13)))
    assert [int(s) for s in conv.attrs.strides] == [4, 4]
    assert list(conv.args[1].ty.shape) == [4, 4, 5, 5]


def test_average_pool_behind_and_before() -> None:
    assert_composes(lambda net, x: net.avg_pool(net.conv(x, 4, 6, 3), 2, stride=2))
    assert_composes(lambda net, x: net.conv(net.avg_pool(x, 2, stride=2), 4, 6, 1))


def test_padding_before_and_crop_behind() -> None:
    def padded(net: RelaxNet, x):
        outer = net.call("nn.pad", x, [0, 0, 0, 0, 2, 0, 1, 1])
        return net.conv(outer, 4, 6, 3, padding=0)

    def cropped(net: RelaxNet, x):
        return net.call("strided_slice", net.conv(x, 4, 6, 3), [2, 3], [1, 0], [5, 4])

    conv = the_conv(assert_composes(padded))
    assert [int(p) for p in conv.attrs.padding] == [2, 1, 0, 1]
    assert_composes(cropped)


def test_crop_in_front_reads_where_it_did() -> None:
    def body(net: RelaxNet, x):
        return net.conv(net.call("strided_slice", x, [2, 3], [2, -4], [6, 100]), 4, 6, 1)

    assert_composes(body)


def test_batch_norm_and_scale_between() -> None:
    def body(net: RelaxNet, x):
        y = net.call("multiply", net.conv_bn(x, 4, 6, 1), net.const(2.0))
        return net.conv(y, 6, 4, 3, padding=0)

    assert_composes(body, found=(CONV, ADD))


def test_two_dense_layers() -> None:
    def body(net: RelaxNet, x):
        y = net.call("matmul", x, net.const(net.weight(7, 5)))
        y = net.add(y, net.const(net.weight(5, 1)[:, 0]))
        return net.call("matmul", y, net.const(net.weight(5, 3)))

    assert_composes(body, (2, 7), found=(DENSE, ADD))


def test_three_convs_become_one() -> None:
    def body(net, x):
        return net.conv(net.conv(net.conv(x, 4, 6, 1), 6, 6, 3), 6, 4, 1)

    assert_composes(body)


def test_imported_convs() -> None:
    def body(net, x):
        y = net.relu(net.conv(net.conv(x, 4, 6, 1, bias=True), 6, 5, 3, bias=True))
        return net.conv(net.avg_pool(y), 5, 3, 1, bias=True)

    model = onnx_model(body, IMAGE)
    after, _ = fuse(FuseSequentialConvs, from_onnx(model, keep_params_in_input=False))
    assert count(after, CONV) == 2
    assert_matches_reference(after, model)


def test_symbolic_batch() -> None:
    n = tvm.tirx.Var("n", "int64")
    body = lambda net, x: net.conv(net.conv(x, 4, 8, 1, bias=True), 8, 6, 3)  # noqa: E731
    assert_composes(body, (n, 4, 6, 5), found=(CONV, ADD))


def test_half_precision_is_rounded_once() -> None:
    def body(net, x):
        return net.conv(net.conv(x, 4, 8, 1), 8, 6, 3)

    before = relax_module(body, IMAGE, dtype="float16")
    after, _ = fuse(FuseSequentialConvs, before)
    first, then = (
        c.args[1].value.numpy().astype(np.float64) for c in calls(before) if c.op.name == CONV
    )
    expected = np.einsum("omhw,mi->oihw", then, first[:, :, 0, 0]).astype(np.float16)
    np.testing.assert_array_equal(the_conv(after).args[1].value.numpy(), expected)


@settings(max_examples=8, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 3)] * 4),
    strides=st.tuples(*[st.integers(1, 2)] * 2),
    padding=st.tuples(*[st.integers(0, 2)] * 4),
    dilation=st.integers(1, 2),
    groups=st.tuples(*[st.sampled_from([1, 2, 4])] * 2),
    layout=st.sampled_from(["NCHW", "NHWC"]),
    seed=st.integers(0, 99),
)
def test_any_two_convs(sizes, strides, padding, dilation, groups, layout, seed) -> None:
    assume(sizes[:2] == (1, 1) or not seed % 2)

    def body(net, x):
        inner = net.conv(
            x, 4, 8, sizes[:2], stride=strides[0], padding=padding, groups=groups[0], bias=True
        )
        # Padding between is for pointwise convolutions only.
        outer = padding if sizes[:2] == (1, 1) else 0
        return net.conv(
            inner, 8, 4, sizes[2:], stride=strides[1], padding=outer, dilation=dilation,
            groups=groups[1],
        )  # fmt: skip

    mod = relax_module(body, (1, 4, 11, 12), layout=layout, dtype="float64", seed=seed)
    after, _ = fuse(FuseSequentialConvs, mod)
    assert count(after, CONV) == 1
    assert_same_results(after, mod, rtol=1e-12)


# What it leaves alone.


def test_several_taps_under_padding() -> None:
    left_alone(
        lambda net, x: net.conv(net.conv(x, 4, 6, 3), 6, 4, 3),
        "pads what the first computes from several pixels",
    )


def test_padded_average_of_several_taps() -> None:
    left_alone(
        lambda net, x: net.avg_pool(net.conv(x, 4, 6, 3), padding=1),
        "pads what the first computes from several pixels",
    )


def test_padding_of_what_was_cropped() -> None:
    def body(net: RelaxNet, x):
        return net.conv(net.call("strided_slice", x, [2], [1], [5]), 4, 6, 3)

    left_alone(body, "cropped")


def test_bias_under_padding_of_an_unknown_image_size() -> None:
    n, h, w = (tvm.tirx.Var(name, "int64") for name in "nhw")
    left_alone(
        lambda net, x: net.conv(net.conv(x, 4, 8, 1, bias=True), 8, 6, 3),
        "the image size is not static",
        (n, 4, h, w),
    )


def test_first_conv_with_another_consumer() -> None:
    def body(net, x):
        c = net.conv(x, 4, 6, 1)
        return net.conv(c, 6, 4, 1), net.relu(c)

    left_alone(body, "has another consumer")


def test_first_conv_that_is_also_a_result() -> None:
    def body(net, x):
        c = net.conv(x, 4, 6, 1)
        return net.conv(c, 6, 4, 1), c

    left_alone(body, "has another consumer")


def test_weights_with_nan() -> None:
    def body(net, x):
        weight = net.weight(4, 4, 1, 1)
        weight[1, 1] = np.nan
        return net.conv(net.conv_of(x, weight, None, 1, (0,) * 4, 1, 1), 4, 4, 1)

    left_alone(body, "NaN or infinity")


def test_fused_weights_that_overflow() -> None:
    def body(net, x):
        weight = np.full((4, 4, 1, 1), 6000.0)
        inner = net.conv_of(x, weight, None, 1, (0,) * 4, 1, 1)
        return net.conv_of(inner, weight, None, 1, (0,) * 4, 1, 1)

    left_alone(body, "overflow float16", dtype="float16")


@pytest.mark.parametrize(
    "between",
    [
        lambda net, x: net.relu(x),
        lambda net, x: net.call("nn.max_pool2d", x, pool_size=(2, 2)),
        lambda net, x: net.call("multiply", x, net.call("sigmoid", x)),
        lambda net, x: net.call("multiply", x, net.const(np.ones((1, 1, 6, 5)))),
        lambda net, x: net.call("divide", net.const(1.0), x),
        lambda net, x: net.call("nn.avg_pool2d", x, pool_size=(3, 3), padding=1),
        lambda net, x: net.call("nn.avg_pool2d", x, pool_size=(2, 2), dilation=(2, 2)),
        lambda net, x: net.call("nn.pad", x, [0, 0, 0, 0, 1, 1, 1, 1], pad_value=1.0),
        lambda net, x: net.call("strided_slice", x, [2], [0], [6], [2]),
        lambda net, x: net.bn_of(x, net.norm(4), training=True),
    ],
    ids=[
        "non-linearity", "max pool", "attention", "factor of each pixel", "division by the tensor",
        "average without padding", "dilated average", "padding with ones", "slice with step",
        "training mode",
    ],
)  # fmt: skip
def test_convs_with_something_else_between(between) -> None:
    mod = relax_module(lambda net, x: net.conv(between(net, net.conv(x, 4, 4, 1)), 4, 4, 1), IMAGE)
    after, decisions = fuse(FuseSequentialConvs, mod)
    assert not [d for d in decisions if d.applied]
    assert_equal(after, mod)


def test_weight_that_is_an_input() -> None:
    def body(net: RelaxNet, x, weight):
        return net.conv(net.call("nn.conv2d", x, weight), 4, 4, 1)

    mod = relax_module(body, IMAGE, (4, 4, 1, 1))
    after, decisions = fuse(FuseSequentialConvs, mod)
    assert not [d for d in decisions if d.applied]
    assert_equal(after, mod)


# What `time` decides.


def compute_only(flops: int, _nbytes: int) -> float:
    return flops / 1e10


def test_depthwise_before_pointwise_costs_more() -> None:
    def body(net, x):
        return net.conv(net.conv(x, 32, 32, 3, groups=32), 32, 32, 1)

    left_alone(body, "costs more than it saves", (1, 32, 8, 8), time=compute_only)


def test_narrow_middle_costs_less_apart() -> None:
    def body(net, x):
        return net.conv(net.conv(x, 32, 2, 1), 2, 32, 1)

    left_alone(body, "costs more than it saves", (1, 32, 8, 8), time=compute_only)


def test_a_large_kernel_is_estimated_before_it_is_made() -> None:
    # As one convolution: 2048 * 2048 * 49 * 8 bytes.
    def body(net, x):
        return net.conv(net.conv(x, 2048, 2048, 7, groups=2048), 2048, 2048, 1)

    left_alone(body, "costs more than it saves", (1, 2048, 2, 2), time=compute_only)


def test_wide_middle_is_worth_it() -> None:
    def body(net, x):
        return net.conv(net.conv(x, 4, 64, 1), 64, 4, 1)

    after, _ = fuse(FuseSequentialConvs, relax_module(body, IMAGE), compute_only)
    assert count(after, CONV) == 1


def test_shared_weight_is_kept_under_a_cost_model() -> None:
    def body(net: RelaxNet, x):
        weight = net.const(net.weight(4, 4, 1, 1))
        first = net.conv(net.call("nn.conv2d", x, weight), 4, 4, 1)
        return net.call("nn.conv2d", net.relu(first), weight)

    left_alone(body, "is shared with another operator", time=compute_only)
    mod = relax_module(body, IMAGE)
    after, _ = fuse(FuseSequentialConvs, mod)
    assert count(after, CONV) == 2
