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

from relay_passes import FuseParallelConvs
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
    refusals,
    relax_module,
    virtual_machine,
)

IMAGE = (2, 4, 6, 5)


def assert_merges(
    body, *shapes, found: tuple[str, ...] = (ADD, CONV), check_idempotence: bool = True, **options
) -> tvm.IRModule:
    before = relax_module(body, *(shapes or (IMAGE,)), **options)
    after, decisions = fuse(FuseParallelConvs, before)
    assert sorted(operators(after)) == sorted(found)
    assert all(d.transform == "FuseParallelConvs" for d in decisions)
    assert any(d.applied for d in decisions)
    assert_same_results(after, before)
    if check_idempotence:
        assert_idempotent(FuseParallelConvs, before)
    return after


def left_alone(body, reason: str, *shapes, time=None, **options) -> None:
    mod = relax_module(body, *(shapes or (IMAGE,)), **options)
    assert_left_alone(FuseParallelConvs, mod, reason, time)


def attributes(mod: tvm.IRModule) -> dict[str, object]:
    (conv,) = (call for call in calls(mod) if call.op.name == CONV)
    weight = conv.args[1].value.numpy().shape
    order = [conv.attrs.kernel_layout.index(axis) for axis in "OIHW"]
    return {
        "weight": tuple(weight[i] for i in order),
        "padding": tuple(int(v) for v in conv.attrs.padding),
        "strides": tuple(int(v) for v in conv.attrs.strides),
        "dilation": tuple(int(v) for v in conv.attrs.dilation),
        "groups": int(conv.attrs.groups),
    }


# What it makes.


def test_expected_module() -> None:
    # A RepVGG block; all numbers are exact in binary.
    w3 = np.arange(36, dtype=np.float32).reshape(2, 2, 3, 3)
    w1 = np.float32([[1, 2], [3, 4]]).reshape(2, 2, 1, 1)
    b1 = np.float32([5, 6]).reshape(1, 2, 1, 1)
    ones, twos, zeros = np.ones(2, np.float32), np.float32([2, 4]), np.zeros(2, np.float32)
    fused = w3.copy()
    fused[:, :, 1, 1] += w1[:, :, 0, 0] + np.diag(twos)
    bias = b1 + ones.reshape(1, 2, 1, 1)
    k3, k1, kb, one, two, zero, k, b = map(
        relax.const, (w3, w1, b1, ones, twos, zeros, fused, bias)
    )

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 2, 4, 4), "float32")) -> R.Tensor((1, 2, 4, 4), "float32"):
            with R.dataflow():
                a = R.nn.conv2d(x, k3, padding=1)
                p = R.nn.conv2d(x, k1)
                q = R.add(p, kb)
                t = R.nn.batch_norm(x, two, one, zero, one, axis=1, epsilon=0.0, training=False)
                i = t[0]
                s = R.add(a, q)
                y = R.add(s, i)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 2, 4, 4), "float32")) -> R.Tensor((1, 2, 4, 4), "float32"):
            with R.dataflow():
                c = R.nn.conv2d(x, k, padding=1)
                y = R.add(c, b)
                R.output(y)
            return y

    after, decisions = fuse(FuseParallelConvs, Before)
    assert_equal(after, Expected)
    (decision,) = decisions
    assert decision.applied
    assert "3 branches" in decision.reason
    assert "3x3" in decision.reason


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_kernels_of_several_sizes_with_groups(layout, groups) -> None:
    def body(net, x):
        return net.sum(
            net.conv_bn(x, 4, 4, 3, groups=groups),
            net.conv_bn(x, 4, 4, 1, groups=groups),
            net.conv(x, 4, 4, (1, 3), groups=groups),
            net.conv(x, 4, 4, (3, 1), bias=True),
            x,
        )

    after = assert_merges(body, layout=layout)
    assert attributes(after)["weight"] == (4, 4, 3, 3), "the branch without groups decides"


def test_depthwise_branches_stay_depthwise() -> None:
    def body(net, x):
        return net.sum(net.conv_bn(x, 4, 4, 3, groups=4), net.conv_bn(x, 4, 4, 1, groups=4), x)

    assert attributes(assert_merges(body))["groups"] == 4


def test_stride_two_takes_no_identity() -> None:
    def body(net, x):
        return net.sum(net.conv_bn(x, 4, 6, 3, stride=2), net.conv_bn(x, 4, 6, 1, stride=2))

    found = attributes(assert_merges(body))
    assert (found["strides"], found["padding"]) == ((2, 2), (1, 1, 1, 1))


def test_average_pool_with_its_padding() -> None:
    def body(net, x):
        return net.sum(net.conv(x, 4, 4, 3), net.avg_pool(x, padding=1))

    assert_merges(body, found=(CONV,))


def test_chain_of_1x1_and_3x3_with_the_padding_before() -> None:
    def body(net, x):
        inner = net.conv_bn(x, 4, 8, 1, padding=1)
        return net.sum(net.conv_bn(x, 4, 6, 3), net.conv_bn(inner, 8, 6, 3, padding=0))

    assert attributes(assert_merges(body))["weight"] == (6, 4, 3, 3)


def test_chain_with_the_padding_between_gives_a_bias_along_the_border() -> None:
    def body(net, x):
        inner = net.conv_bn(x, 4, 8, 1)
        return net.sum(net.conv_bn(x, 4, 6, 3), net.conv_bn(inner, 8, 6, 3))

    after = assert_merges(body)
    (bias,) = (c.args[1] for c in calls(after) if c.op.name == ADD)
    assert list(bias.ty.shape) == [1, 6, 6, 5]


def test_branch_on_the_cropped_input() -> None:
    def body(net: RelaxNet, x):
        inner = net.call("strided_slice", x, [2, 3], [1, 1], [5, 4])
        return net.sum(net.conv_bn(x, 4, 6, 3, padding=0), net.conv_bn(inner, 4, 6, 1))

    found = attributes(assert_merges(body))
    assert (found["weight"], found["padding"]) == ((6, 4, 3, 3), (0, 0, 0, 0))


@pytest.mark.parametrize(
    ("begin", "end"), [([-5, 1], [-1, 4]), ([1, -4], [5, 100]), ([-100, 0], [4, -2])]
)
def test_slices_count_from_the_end_and_stop_at_the_border(begin, end) -> None:
    def body(net: RelaxNet, x):
        inner = net.call("strided_slice", x, [2, 3], begin, end)
        hw = [int(size) for size in inner.ty.shape][2:]
        # A kernel that gives the same size wherever it reads.
        whole = net.conv(x, 4, 6, (7 - hw[0], 6 - hw[1]), padding=0)
        return net.sum(whole, net.conv(inner, 4, 6, 1))

    assert_merges(body, found=(CONV,))


def test_branch_on_the_padded_input() -> None:
    def body(net: RelaxNet, x):
        outer = net.call("nn.pad", x, [0, 0, 0, 0, 1, 2, 0, 1])
        inner = net.conv(outer, 4, 6, (4, 2), padding=0)
        return net.sum(net.conv(x, 4, 6, 3), inner)

    assert_merges(body, found=(CONV,))


def test_dilation_is_kept() -> None:
    def body(net, x):
        return net.sum(net.conv(x, 4, 4, 3, dilation=2), net.conv(x, 4, 4, 1))

    found = attributes(assert_merges(body, found=(CONV,)))
    assert (found["weight"][2:], found["dilation"]) == ((3, 3), (2, 2))


def test_differences_and_negatives() -> None:
    def body(net: RelaxNet, x):
        a, b = net.conv_bn(x, 4, 4, 3), net.conv_bn(x, 4, 4, 1)
        c = net.call("negative", net.conv(x, 4, 4, 1, bias=True))
        difference = net.call("subtract", a, net.call("subtract", b, x))
        return net.call("subtract", difference, c)

    assert_merges(body)


def test_identity_minus_conv() -> None:
    def body(net: RelaxNet, x):
        return net.call("subtract", x, net.conv(x, 4, 4, 3))

    assert_merges(body, found=(CONV,))


def test_foreign_terms_keep_their_signs() -> None:
    def body(net: RelaxNet, x, other, more):
        first = net.call("subtract", net.conv(x, 4, 4, 3), other)
        second = net.call("subtract", more, net.conv(x, 4, 4, 1))
        return net.call("subtract", first, second)

    assert_merges(body, IMAGE, IMAGE, IMAGE, found=(CONV, "relax.subtract", "relax.subtract"))


def test_the_order_of_the_additions_does_not_matter() -> None:
    def body(net, x, other):
        a, b, c = (net.conv(x, 4, 4, k) for k in (3, 1, 1))
        return net.add(net.add(net.add(a, other), net.add(x, b)), c)

    assert_merges(body, IMAGE, IMAGE, found=(ADD, CONV))


def test_residual_after_an_activation_stays() -> None:
    def body(net, x):
        y = net.relu(net.sum(net.conv_bn(x, 4, 4, 3), net.conv_bn(x, 4, 4, 1), x))
        return net.add(net.relu(net.conv_bn(y, 4, 4, 3)), x)

    before = relax_module(body, IMAGE)
    after, _ = fuse(FuseParallelConvs, before)
    assert count(after, CONV) == 2
    assert_same_results(after, before)


def test_convs_with_their_batch_norms_folded_by_the_exporter() -> None:
    # What the dynamo exporter of PyTorch leaves: Conv with a bias, then Add.
    def body(net, x):
        y = net.sum(net.conv(x, 4, 4, bias=True), net.conv(x, 4, 4, 1, bias=True), x)
        return net.relu(y)

    model = onnx_model(body, IMAGE)
    after, _ = fuse(FuseParallelConvs, from_onnx(model, keep_params_in_input=False))
    assert (count(after, CONV), count(after, ADD)) == (1, 1)
    assert_matches_reference(after, model)


def test_dense_branches() -> None:
    def body(net: RelaxNet, x):
        a, b = (net.call("matmul", x, net.const(net.weight(6, 6))) for _ in range(2))
        return net.sum(net.add(a, net.const(np.ones(6))), b, x)

    before = relax_module(body, (3, 6))
    after, _ = fuse(FuseParallelConvs, before)
    assert_same_results(after, before)
    assert count(after, DENSE) == 1


def test_weights_that_share_a_constant_may_merge() -> None:
    def body(net: RelaxNet, x):
        weight = net.const(net.weight(4, 4, 1, 1))
        return net.add(*(net.call("nn.conv2d", x, weight) for _ in range(2)))

    assert_merges(body, found=(CONV,))


def test_symbolic_batch() -> None:
    n = tvm.tirx.Var("n", "int64")

    def body(net, x):
        return net.sum(net.conv_bn(x, 4, 4, 3), net.conv_bn(x, 4, 4, 1), x)

    assert_merges(body, (n, 4, 6, 5))


def test_symbolic_image() -> None:
    n, h, w = (tvm.tirx.Var(name, "int64") for name in "nhw")

    def body(net, x):
        return net.sum(net.conv_bn(x, 4, 4, 3, stride=2), net.conv_bn(x, 4, 4, 1, stride=2))

    before = relax_module(body, (n, 4, h, w))
    after, _ = fuse(FuseParallelConvs, before)
    assert count(after, CONV) == 1
    arrays = np.random.default_rng(0).standard_normal((1, 4, 7, 6)).astype(np.float32)
    machine = [virtual_machine(m)["main"] for m in (before, after)]
    expected, found = (m(tvm.runtime.tensor(arrays)).numpy() for m in machine)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("dataflow", [True, False])
def test_functions_with_and_without_dataflow_blocks(dataflow) -> None:
    def body(net, x):
        return net.sum(net.conv_bn(x, 4, 4, 3), net.conv_bn(x, 4, 4, 1), x)

    relax.analysis.well_formed(assert_merges(body, dataflow=dataflow))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_types(dtype) -> None:
    def body(net, x):
        return net.sum(net.conv(x, 4, 4, 3), net.conv(x, 4, 4, 1), x)

    before = relax_module(body, IMAGE, dtype=dtype)
    after, _ = fuse(FuseParallelConvs, before)
    (weight,) = (c.args[1] for c in calls(after) if c.op.name == CONV)
    assert str(weight.ty.dtype) == dtype
    assert_same_results(after, before, rtol={"float16": 5e-3, "float64": 1e-12}[dtype])


def test_two_inputs_with_branches_each() -> None:
    def body(net, x, z):
        return net.sum(*(net.conv(v, 4, 4, k) for k in (3, 1) for v in (x, z)))

    before = relax_module(body, IMAGE, IMAGE)
    # One input a time: the sum of what is left over is looked at in the next round.
    after = before
    for _ in range(2):
        after, _ = fuse(FuseParallelConvs, after)
    assert sorted(operators(after)) == [ADD, CONV, CONV]
    assert_same_results(after, before)


@st.composite
def branches(draw):
    """Kernels that keep the size, with their padding anywhere."""
    found = []
    for _ in range(draw(st.integers(2, 4))):
        size = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
        dilation = draw(st.integers(1, 2))
        total = [(k - 1) * dilation for k in size]
        before = [draw(st.integers(0, t)) for t in total]
        after = [t - b for t, b in zip(total, before, strict=True)]
        groups = draw(st.sampled_from([1, 2, 4]))
        found.append((size, dilation, (*before, *after), groups, draw(st.booleans())))
    return found


@settings(max_examples=8, deadline=None)
@given(
    branches(),
    st.booleans(),
    st.sampled_from([(5, 7), (4, 4)]),
    st.sampled_from(["NCHW", "NHWC"]),
    st.integers(0, 99),
)
def test_any_branches(parts, identity, hw, layout, seed) -> None:
    def body(net, x):
        terms = [x] if identity else []
        for size, dilation, padding, groups, normed in parts:
            c = net.conv(x, 4, 4, size, dilation=dilation, padding=padding, groups=groups)
            terms.append(net.bn(c, 4) if normed else c)
        return net.sum(*terms)

    mod = relax_module(body, (1, 4, *hw), layout=layout, dtype="float64", seed=seed)
    after, _ = fuse(FuseParallelConvs, mod)
    assert count(after, CONV) == 1
    assert_same_results(after, mod, rtol=1e-7)  # TVM takes epsilon as float32


# What it leaves alone.


def test_branch_with_another_consumer() -> None:
    def body(net, x):
        c = net.conv(x, 4, 4, 3)
        return net.add(c, net.conv(x, 4, 4, 1)), net.relu(c)

    left_alone(body, "has another consumer")


def test_branch_that_is_also_a_result() -> None:
    def body(net, x):
        c = net.conv(x, 4, 4, 3)
        return net.add(c, net.conv(x, 4, 4, 1)), c

    left_alone(body, "has another consumer")


def test_only_the_shared_branch_stays_apart() -> None:
    def body(net, x):
        c = net.conv(x, 4, 4, 3)
        return net.sum(c, net.conv(x, 4, 4, 1), x), c

    before = relax_module(body, IMAGE)
    after, decisions = fuse(FuseParallelConvs, before)
    assert count(after, CONV) == 2
    assert any("has another consumer" in reason for reason in refusals(decisions))
    assert_same_results(after, before)


def test_non_linearity_on_a_branch() -> None:
    def body(net, x):
        return net.add(net.conv(x, 4, 4, 3), net.relu(net.conv(x, 4, 4, 1)))

    left_alone(body, "nn.relu lies between")


def test_attention_on_a_branch() -> None:
    def body(net: RelaxNet, x):
        gate = net.call("sigmoid", net.conv(x, 4, 4, 1))
        gated = net.call("multiply", net.conv(x, 4, 4, 1), gate)
        return net.add(net.conv(x, 4, 4, 3), gated)

    left_alone(body, "multiply of two tensors")


def test_max_pool_on_a_branch() -> None:
    def body(net: RelaxNet, x):
        pooled = net.call("nn.max_pool2d", x, pool_size=(3, 3), padding=1)
        return net.add(net.conv(x, 4, 4, 3), net.conv(pooled, 4, 4, 1))

    left_alone(body, "nn.max_pool2d lies between")


def test_average_that_leaves_its_padding_out() -> None:
    def body(net: RelaxNet, x):
        pooled = net.call("nn.avg_pool2d", x, pool_size=(3, 3), padding=1)
        return net.add(net.conv(x, 4, 4, 3), pooled)

    left_alone(body, "count_include_pad")


def test_average_over_incomplete_windows() -> None:
    def body(net: RelaxNet, x):
        pooled = net.call(
            "nn.avg_pool2d", x, pool_size=(3, 3), strides=(2, 2), ceil_mode=True,
            count_include_pad=True,
        )  # fmt: skip
        return net.add(net.conv(x, 4, 4, (3, 3), stride=2, padding=(1, 0, 0, 0)), pooled)

    left_alone(body, "ceil_mode", (1, 4, 6, 5))


def test_complete_windows_do_not_care_for_ceil_mode() -> None:
    def body(net: RelaxNet, x):
        pooled = net.call("nn.avg_pool2d", x, pool_size=(3, 3), strides=(2, 2), ceil_mode=True)
        return net.add(net.conv(x, 4, 4, 3, stride=2, padding=0), pooled)

    assert_merges(body, (1, 4, 7, 5), found=(CONV,))


def test_dilated_average() -> None:
    def body(net: RelaxNet, x):
        pooled = net.call("nn.avg_pool2d", x, pool_size=(2, 2), dilation=(2, 2))
        return net.add(net.conv(x, 4, 4, 3, padding=0), pooled)

    left_alone(body, "dilated")


def test_shapes_that_broadcast() -> None:
    def body(net, x):
        return net.add(net.conv(x, 4, 4, 3), net.conv(x, 4, 1, 1))

    left_alone(body, "different shapes")


def test_strides_that_differ() -> None:
    # Sizes agree all the same: 1x1 at stride 2, and the 3x3 of the cropped corner at stride 1.
    def body(net, x):
        a = net.conv(x, 4, 4, 1, stride=2)
        return net.add(a, net.conv(x, 4, 4, (4, 3), padding=0))

    left_alone(body, "strides differ")


def test_weights_with_nan_on_one_branch() -> None:
    def body(net, x):
        weight = net.weight(4, 4, 1, 1)
        weight[0, 0] = np.nan
        return net.add(net.conv(x, 4, 4, 3), net.conv_of(x, weight, None, 1, (0,) * 4, 1, 1))

    left_alone(body, "NaN or infinity")


def test_weight_that_is_an_input() -> None:
    def body(net: RelaxNet, x, weight):
        return net.add(net.conv(x, 4, 4, 3), net.call("nn.conv2d", x, weight))

    left_alone(body, "is an input of the graph", IMAGE, (4, 4, 1, 1))


def test_weight_that_is_quantized() -> None:
    def body(net: RelaxNet, x):
        weight = relax.const(np.ones((4, 4, 1, 1), np.int8))
        scales = relax.const(np.full(4, 0.5, np.float32))
        zeros = relax.const(np.zeros(4, np.int8))
        floats = net.call("dequantize", weight, scales, zeros, axis=0)
        return net.add(net.conv(x, 4, 4, 3), net.call("nn.conv2d", x, floats))

    left_alone(body, "is quantized")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"training": True}, "training mode"),
        ({"axis": 3}, "normalises axis 3"),
    ],
)
def test_batch_norm_on_a_branch_that_is_no_constant_scale(change, reason) -> None:
    def body(net: RelaxNet, x):
        size = 5 if "axis" in change else 4
        normed = net.bn_of(net.conv(x, 4, 4, 1), net.norm(size), **change)
        return net.add(net.conv(x, 4, 4, 3), normed)

    left_alone(body, reason)


def test_batch_norm_with_parameters_from_the_graph() -> None:
    def body(net: RelaxNet, x, gamma):
        _, *rest = map(net.const, net.norm(4))
        inner = net.conv(x, 4, 4, 1)
        normed = net.call("nn.batch_norm", inner, gamma, *rest, axis=1, training=False)
        return net.add(net.conv(x, 4, 4, 3), net.emit(relax.TupleGetItem(normed, 0)))

    left_alone(body, "parameters are not constants", IMAGE, (4,))


def test_variance_of_zero_without_epsilon() -> None:
    def body(net, x):
        parameters = [np.ones(4), np.zeros(4), np.zeros(4), np.zeros(4)]
        normed = net.bn_of(net.conv(x, 4, 4, 1), parameters, epsilon=0.0)
        return net.add(net.conv(x, 4, 4, 3), normed)

    left_alone(body, "variance of zero")


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"pad_value": 1.0}, "other values than zero"),
        ({"pad_mode": "reflect"}, "other values than zero"),
    ],
)
def test_padding_with_other_values(attributes, reason) -> None:
    def body(net: RelaxNet, x):
        padded = net.call("nn.pad", x, [0, 0, 0, 0, 1, 1, 1, 1], **attributes)
        return net.add(net.conv(x, 4, 4, 1), net.conv(padded, 4, 4, 3, padding=0))

    left_alone(body, reason)


def test_padding_of_channels() -> None:
    def body(net: RelaxNet, x):
        padded = net.call("nn.pad", x, [0, 0, 1, 0, 0, 0, 0, 0])
        return net.add(net.conv(x, 4, 4, 1), net.conv(padded, 5, 4, 1))

    left_alone(body, "batch or channels")


@pytest.mark.parametrize(
    ("axes", "begin", "end", "strides", "conv", "reason"),
    [
        ([2], [0], [6], [2], {"size": (4, 1), "padding": 0}, "strided_slice along H"),
        ([1], [1], [3], [1], {"size": 1}, "strided_slice along C"),
    ],
)
def test_slices_that_are_no_crop(axes, begin, end, strides, conv, reason) -> None:
    def body(net: RelaxNet, x):
        part = net.call("strided_slice", x, axes, begin, end, strides)
        channels = int(part.ty.shape[1])
        return net.add(net.conv(x, 4, 4, **conv), net.conv(part, channels, 4, 1))

    left_alone(body, reason)


def test_factor_of_each_pixel() -> None:
    def body(net: RelaxNet, x):
        scaled = net.call("multiply", net.conv(x, 4, 4, 1), net.const(np.ones((1, 1, 6, 5))))
        return net.add(net.conv(x, 4, 4, 3), scaled)

    left_alone(body, "a constant for each pixel")


def test_several_taps_under_padding() -> None:
    def body(net, x):
        inner = net.conv(x, 4, 4, 3)
        return net.add(net.conv(x, 4, 4, 3), net.conv(inner, 4, 4, 3))

    left_alone(body, "pads what the first computes from several pixels")


def test_transposed_conv_on_a_branch() -> None:
    def body(net: RelaxNet, x):
        weight = net.const(net.weight(4, 4, 1, 1))
        return net.add(net.conv(x, 4, 4, 3), net.call("nn.conv2d_transpose", x, weight))

    left_alone(body, "transposed")


def test_fused_weights_that_overflow() -> None:
    def body(net, x):
        weight = np.full((4, 4, 1, 1), 60000.0)
        return net.add(*(net.conv_of(x, weight, None, 1, (0,) * 4, 1, 1) for _ in range(2)))

    left_alone(body, "overflow float16", dtype="float16")


def test_types_that_mix() -> None:
    def body(net: RelaxNet, x):
        half = net.call("astype", x, "float16")
        weight = relax.const(net.weight(4, 4, 1, 1).astype(np.float16))
        inner = net.call("nn.conv2d", half, weight, out_dtype="float32")
        return net.add(net.conv(x, 4, 4, 3), inner)

    left_alone(body, "mixes float16 and float32")


def test_unrelated_sums_are_no_near_misses() -> None:
    def body(net, x, z):
        return net.add(net.relu(net.conv(x, 4, 4, 3)), z)

    mod = relax_module(body, IMAGE, IMAGE)
    after, decisions = fuse(FuseParallelConvs, mod)
    assert not decisions
    assert after.same_as(mod)


def test_three_axes() -> None:
    def body(net: RelaxNet, x):
        return net.add(*(net.call("nn.conv1d", x, net.const(net.weight(4, 4, 1))) for _ in "ab"))

    mod = relax_module(body, (1, 4, 7))
    after, decisions = fuse(FuseParallelConvs, mod)
    assert not [d for d in decisions if d.applied]
    assert_equal(after, mod)


def test_sizes_that_may_differ() -> None:
    # (h - 1) // 2 + 1 rows and (h - 7) // 2 + 1: TVM cannot tell, so nobody may assume.
    h, w = (tvm.tirx.Var(name, "int64") for name in "hw")

    def body(net, x):
        return net.add(net.conv(x, 4, 4, 3, stride=2), net.conv(x, 4, 4, 7, stride=2, padding=0))

    left_alone(body, "different shapes", (1, 4, h, w))


def test_layouts_that_mix() -> None:
    def body(net: RelaxNet, x):
        turned = net.call("permute_dims", x, axes=[0, 2, 3, 1])
        weight = net.const(net.weight(1, 1, 4, 4))
        c = net.call("nn.conv2d", turned, weight, data_layout="NHWC", kernel_layout="HWIO")
        return net.add(net.conv(x, 4, 4, 3), net.call("permute_dims", c, axes=[0, 3, 1, 2]))

    left_alone(body, "permute_dims lies between")


# What `time` decides.


def roofline(flops: int, nbytes: int) -> float:
    return max(flops / 1e10, nbytes / 1e10) + 1e-6


def test_shared_weight_is_kept_under_a_cost_model() -> None:
    def body(net: RelaxNet, x, z):
        weight = net.const(net.weight(4, 4, 1, 1))
        first = net.add(net.conv(x, 4, 4, 3), net.call("nn.conv2d", x, weight))
        return first, net.call("nn.conv2d", z, weight)

    left_alone(body, "is shared with another operator", IMAGE, IMAGE, time=roofline)
    mod = relax_module(body, IMAGE, IMAGE)
    after, _ = fuse(FuseParallelConvs, mod)
    assert count(after, CONV) == 2


def test_branch_that_costs_more_stays_apart() -> None:
    # Without a price on starting operators, a pointwise branch into a large depthwise kernel makes
    # it dense: many times the work.
    def body(net, x):
        return net.add(net.conv(x, 16, 16, 7, groups=16), net.conv(x, 16, 16, 1))

    mod = relax_module(body, (1, 16, 12, 12))
    assert_left_alone(
        FuseParallelConvs, mod, "costs more than it saves", lambda flops, nbytes: flops * 1e-9
    )
    after, _ = fuse(FuseParallelConvs, mod)
    assert count(after, CONV) == 1
    assert_same_results(after, mod)


def test_the_branches_worth_it_merge_without_the_one_that_is_not() -> None:
    def body(net, x):
        return net.sum(
            net.conv(x, 16, 16, 5, groups=16),
            net.conv(x, 16, 16, 1),
            net.conv(x, 16, 16, 3, groups=16),
        )

    before = relax_module(body, (1, 16, 12, 12))
    after, decisions = fuse(FuseParallelConvs, before, roofline)
    assert count(after, CONV) == 2
    assert any("costs more than it saves" in reason for reason in refusals(decisions))
    assert_same_results(after, before)


def test_repvgg_is_worth_it() -> None:
    def body(net, x):
        return net.sum(net.conv_bn(x, 4, 4, 3), net.conv_bn(x, 4, 4, 1), net.bn(x, 4))

    after, _ = fuse(FuseParallelConvs, relax_module(body, IMAGE), roofline)
    assert count(after, CONV) == 1
