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

from relay_passes import Reparameterize
from tests.relay_passes.fusion_cases import (
    ADD,
    BATCH_NORM,
    CONV,
    Net,
    RelaxNet,
    assert_close,
    assert_equal,
    assert_idempotent,
    assert_matches_reference,
    assert_same_results,
    calls,
    count,
    fuse,
    inputs_of,
    onnx_model,
    operators,
    refusals,
    relax_module,
    run,
)

# Blocks of the families. Each reads `inputs` channels, gives `outputs`, and folds to one conv2d.


def rep_vgg(net: Net, x, inputs: int, outputs: int, stride: int, groups: int):
    terms = [
        net.conv_bn(x, inputs, outputs, 3, stride=stride, groups=groups),
        net.conv_bn(x, inputs, outputs, 1, stride=stride, groups=groups),
    ]
    if stride == 1 and inputs == outputs:
        terms.append(net.bn(x, inputs))
    return net.sum(*terms)


def qa_rep_vgg(net: Net, x, inputs: int, outputs: int, stride: int, groups: int):
    """Batch norm behind the 3x3 and behind the sum; 1x1 and identity have none."""
    terms = [
        net.conv_bn(x, inputs, outputs, 3, stride=stride, groups=groups),
        net.conv(x, inputs, outputs, 1, stride=stride, groups=groups, bias=True),
    ]
    if stride == 1 and inputs == outputs:
        terms.append(x)
    return net.bn(net.sum(*terms), outputs)


def mobile_one(net: Net, x, inputs: int, outputs: int, stride: int, groups: int):
    """Several 3x3, one 1x1, identity."""
    terms = [net.conv_bn(x, inputs, outputs, 3, stride=stride, groups=groups) for _ in range(3)]
    terms.append(net.conv_bn(x, inputs, outputs, 1, stride=stride, groups=groups))
    if stride == 1 and inputs == outputs:
        terms.append(net.bn(x, inputs))
    return net.sum(*terms)


def mobile_one_pointwise(net: Net, x, inputs: int, outputs: int, stride: int, groups: int):
    terms = [net.conv_bn(x, inputs, outputs, 1, stride=stride, groups=groups) for _ in range(2)]
    if stride == 1 and inputs == outputs:
        terms.append(net.bn(x, inputs))
    return net.sum(*terms)


def ac_net(net: Net, x, inputs: int, outputs: int, stride: int, groups: int):
    return net.sum(
        *(
            net.conv_bn(x, inputs, outputs, size, stride=stride, groups=groups)
            for size in ((3, 3), (1, 3), (3, 1))
        )
    )


def dbb(net: Net, x, inputs: int, outputs: int, stride: int, groups: int):
    """3x3; 1x1; 1x1 then 3x3; 1x1 then average: the padding comes before the 1x1."""
    inner = net.conv_bn(x, inputs, inputs, 1, padding=1, groups=groups)
    narrow = net.conv_bn(x, inputs, outputs, 1, padding=1, groups=groups)
    return net.sum(
        net.conv_bn(x, inputs, outputs, 3, stride=stride, groups=groups),
        net.conv_bn(x, inputs, outputs, 1, stride=stride, groups=groups),
        net.conv_bn(inner, inputs, outputs, 3, stride=stride, padding=0, groups=groups),
        net.bn(net.avg_pool(narrow, 3, stride=stride), outputs),
    )


def rep_vit(net: Net, x, inputs: int, outputs: int, stride: int, groups: int):
    """A raw 1x1 and the raw input beside a 3x3, one batch norm behind the sum."""
    terms = [
        net.conv_bn(x, inputs, outputs, 3, stride=stride, groups=groups),
        net.conv(x, inputs, outputs, 1, stride=stride, groups=groups, bias=True),
    ]
    if stride == 1 and inputs == outputs:
        terms.insert(1, x)
    return net.bn(net.sum(*terms), outputs)


def uni_rep_lk(net: Net, x, inputs: int, outputs: int, stride: int, groups: int):
    """A 7x7 and dilated kernels that span no more."""
    return net.sum(
        *(
            net.conv_bn(x, inputs, outputs, size, stride=stride, dilation=dilation, groups=groups)
            for size, dilation in ((7, 1), (5, 1), (3, 2), (3, 3))
        )
    )


FAMILIES = [
    rep_vgg, qa_rep_vgg, mobile_one, mobile_one_pointwise, ac_net, dbb, rep_vit, uni_rep_lk,
]  # fmt: skip
families = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)


def network(family, inputs=4, outputs=6, depthwise=False):
    """A block at stride 2, one that keeps its shape, and activations between."""

    def body(net: Net, x):
        first = family(net, x, inputs, outputs, 2, 1)
        groups = outputs if depthwise else 2
        return net.relu(family(net, net.relu(first), outputs, outputs, 1, groups))

    return body


@families
@pytest.mark.parametrize("depthwise", [False, True])
def test_each_block_of_an_onnx_model_is_one_conv(family, depthwise) -> None:
    model = onnx_model(network(family, depthwise=depthwise), (2, 4, 9, 7))
    before = from_onnx(model, keep_params_in_input=False)
    after, decisions = fuse(Reparameterize, before)
    found = sorted(operators(after))
    assert found == sorted([CONV, ADD, "relax.nn.relu"] * 2)
    assert not refusals(decisions)
    assert_matches_reference(after, model)
    # A second time there is nothing to do.
    again, more = fuse(Reparameterize, after)
    assert not [d for d in more if d.applied]
    assert_equal(again, after)


@families
def test_each_block_of_an_nhwc_module_is_one_conv(family) -> None:
    before = relax_module(network(family), (1, 4, 7, 8), layout="NHWC")
    after, _ = fuse(Reparameterize, before)
    assert count(after, CONV) == 2
    assert count(after, BATCH_NORM) == 0
    assert_same_results(after, before)


def test_modules_that_tvm_has_brought_to_nhwc() -> None:
    before = relax_module(network(rep_vgg), (1, 4, 7, 8))
    wanted = {"relax.nn.conv2d": ["NHWC", "OHWI"]}
    converted = relax.transform.ConvertLayout(wanted)(before)
    after, _ = fuse(Reparameterize, converted)
    assert count(after, BATCH_NORM) == 0
    assert count(after, CONV) < count(converted, CONV)
    assert_same_results(after, before)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_weights_of_small_types_are_rounded_once(dtype, layout) -> None:
    # The weights of both modules hold the same numbers, so that float64 tells the exact result.
    before = relax_module(one_block, (1, 4, 5, 5), dtype=dtype, layout=layout)
    after, _ = fuse(Reparameterize, before)
    assert sorted(operators(after)) == [ADD, CONV]
    exact = dict(zip((CONV, ADD), exact_block(before), strict=True))
    for call in calls(after):
        constant = call.args[1]
        assert str(constant.ty.dtype) == dtype
        found = constant.value.numpy()
        expected = exact[call.op.name].astype(found.dtype)
        if call.op.name == ADD:
            found, expected = found.reshape(-1), expected.reshape(-1)
        elif layout == "NHWC":
            expected = expected.transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(found, expected)


def one_block(net: RelaxNet, x):
    """Batch norm's factor is exact in float64 and in float32: variance + epsilon is 4."""
    parameters = [net.norm(4)[0], net.norm(4)[1], net.norm(4)[2], np.full(4, 3.75)]
    c = net.bn_of(net.conv(x, 4, 4, 3), parameters, epsilon=0.25)
    return net.sum(c, net.conv(x, 4, 4, 1), x)


def exact_block(mod: tvm.IRModule) -> tuple[np.ndarray, np.ndarray]:
    (norm,) = (c for c in calls(mod) if c.op.name == BATCH_NORM)
    gamma, beta, mean, variance = (a.value.numpy().astype(np.float64) for a in norm.args[1:5])
    large, small = (c for c in calls(mod) if c.op.name == CONV)
    order = [large.attrs.kernel_layout.index(axis) for axis in "OIHW"]
    w3, w1 = (c.args[1].value.numpy().astype(np.float64).transpose(order) for c in (large, small))
    factor = gamma / np.sqrt(variance + 0.25)
    kernel = w3 * factor[:, None, None, None]
    kernel[:, :, 1, 1] += w1[:, :, 0, 0] + np.eye(4)
    return kernel, beta - mean * factor


@pytest.mark.parametrize("family", [rep_vgg, rep_vit])
def test_half_precision_runs_as_before(family) -> None:
    # TVM cannot compile every unfused module of this type: its float32 twin tells the results.
    before, twin = (
        relax_module(network(family), (1, 4, 7, 8), dtype=dtype) for dtype in ("float16", "float32")
    )
    after, _ = fuse(Reparameterize, before)
    assert count(after, CONV) == 2
    (x,) = inputs_of(before)
    assert_close(run(after, x), run(twin, x.astype(np.float32)), rtol=2e-2)


@settings(max_examples=6, deadline=None)
@given(
    family=st.sampled_from(FAMILIES),
    channels=st.sampled_from([(3, 5), (6, 6), (17, 17), (2, 8), (1, 1)]),
    hw=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    stride=st.integers(1, 2),
    grouped=st.booleans(),
    layout=st.sampled_from(["NCHW", "NHWC"]),
    seed=st.integers(0, 999),
)
def test_any_block(family, channels, hw, stride, grouped, layout, seed) -> None:
    inputs, outputs = channels
    groups = np.gcd(inputs, outputs) if grouped else 1

    def body(net, x):
        return family(net, x, inputs, outputs, stride, int(groups))

    before = relax_module(body, (1, inputs, *hw), layout=layout, dtype="float64", seed=seed)
    after, _ = fuse(Reparameterize, before)
    assert sorted(operators(after)) == [ADD, CONV]
    assert_same_results(after, before, rtol=1e-7)  # TVM takes epsilon as float32


@pytest.mark.parametrize("family", [rep_vgg, dbb])
def test_symbolic_batch(family) -> None:
    model = onnx_model(network(family), ("batch", 4, 7, 7))
    after, _ = fuse(Reparameterize, from_onnx(model, keep_params_in_input=False))
    assert count(after, CONV) == 2
    assert_matches_reference(after, model, batch=3)


# What it makes of parts.


def test_expected_module() -> None:
    # QARepVGG: the batch norm behind the sum waits for the branches.
    w3 = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3) + 1
    w1 = np.full((1, 1, 1, 1), 2, np.float32)
    two, three, zero = (np.full(1, v, np.float32) for v in (2, 3, 0))
    variance = np.full(1, 3.75, np.float32)
    fused = w3.copy()
    fused[0, 0, 1, 1] += 3
    k3, k1, g, b, m, v, k, s = map(
        relax.const, (w3, w1, two, three, zero, variance, fused, three.reshape(1, 1, 1, 1))
    )

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 1, 4, 4), "float32")) -> R.Tensor((1, 1, 4, 4), "float32"):
            with R.dataflow():
                a = R.nn.conv2d(x, k3, padding=1)
                p = R.nn.conv2d(x, k1)
                q = R.add(x, p)
                r = R.add(q, a)
                t = R.nn.batch_norm(r, g, b, m, v, axis=1, epsilon=0.25, training=False)
                n = t[0]
                y = R.nn.relu(n)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 1, 4, 4), "float32")) -> R.Tensor((1, 1, 4, 4), "float32"):
            with R.dataflow():
                c = R.nn.conv2d(x, k, padding=1)
                n = R.add(c, s)
                y = R.nn.relu(n)
                R.output(y)
            return y

    after, decisions = fuse(Reparameterize, Before)
    assert_equal(after, Expected)
    assert [d.transform for d in decisions if d.applied] == ["FuseParallelConvs", "FuseBatchNorm"]


def test_cropped_branch_and_scales_in_place_of_batch_norms() -> None:
    # HyperRepVGG: one number a branch.
    def body(net: RelaxNet, x):
        inner = net.call("strided_slice", x, [2, 3], [1, 1], [-1, -1])
        large = net.call("multiply", net.conv(x, 4, 4, 3, padding=0), net.const(0.5))
        small = net.call("multiply", net.const(2.0), net.conv(inner, 4, 4, 1))
        scaled = net.call("divide", inner, net.channels([1, 2, 3, 4]))
        return net.call("subtract", net.add(large, small), scaled)

    before = relax_module(body, (1, 4, 7, 7))
    after, _ = fuse(Reparameterize, before)
    assert operators(after) == [CONV]
    assert_same_results(after, before)


def test_nested_blocks() -> None:
    # Branches within a branch, and a residual around everything.
    def body(net: RelaxNet, x):
        inner = net.bn(net.add(net.conv_bn(x, 4, 4, 1), net.bn(x, 4)), 4)
        outer = net.sum(net.conv_bn(inner, 4, 4, 3), net.conv(x, 4, 4, 3), x)
        return net.relu(outer)

    before = relax_module(body, (1, 4, 6, 6))
    after, _ = fuse(Reparameterize, before)
    assert count(after, CONV) == 1
    assert_same_results(after, before)


def test_two_inputs_with_branches_each() -> None:
    def body(net, x, z):
        return net.sum(*(net.conv_bn(v, 4, 4, k) for k in (3, 1) for v in (x, z)))

    before = relax_module(body, (1, 4, 5, 5), (1, 4, 5, 5))
    after, _ = fuse(Reparameterize, before)
    assert count(after, CONV) == 2
    assert_same_results(after, before)
    assert_idempotent(Reparameterize, before)


def test_transposed_and_dense_layers_take_their_batch_norms() -> None:
    def body(net, x):
        weight = net.constant(net.weight(4, 3, 2, 2))
        y = net.relu(net.bn(net.node("ConvTranspose", x, weight, strides=[2, 2], group=2), 6))
        y = net.node("Flatten", net.node("GlobalAveragePool", y))
        matrix = net.constant(net.weight(5, 6))
        return net.bn(net.node("Gemm", y, matrix, transB=1), 5)

    model = onnx_model(body, (2, 4, 5, 4))
    after, _ = fuse(Reparameterize, from_onnx(model, keep_params_in_input=False))
    assert count(after, BATCH_NORM) == 0
    assert_matches_reference(after, model)


@pytest.mark.parametrize("dataflow", [True, False])
def test_functions_with_and_without_dataflow_blocks(dataflow) -> None:
    before = relax_module(network(rep_vgg), (1, 4, 7, 7), dataflow=dataflow)
    after, _ = fuse(Reparameterize, before)
    assert count(after, CONV) == 2
    relax.analysis.well_formed(after)
    assert_same_results(after, before)


def test_every_function_is_fused_and_results_stay_apart() -> None:
    def two_results(net, x):
        y = rep_vgg(net, x, 4, 4, 1, 1)
        return net.relu(y), y

    mod = relax_module(two_results, (1, 4, 5, 5))
    other = relax_module(network(rep_vgg), (1, 4, 7, 7))
    mod.update_func(relax.GlobalVar("other"), other["main"].with_attr("global_symbol", "other"))
    after, _ = fuse(Reparameterize, mod)
    assert (count(after, CONV), operators(after, "other").count(CONV)) == (1, 2)
    x = inputs_of(mod)[0]
    assert_close(run(after, x), run(mod, x))


def test_refusals_are_said_once_everything_else_is_done() -> None:
    def body(net: RelaxNet, x):
        y = net.relu(rep_vgg(net, x, 4, 4, 1, 1))
        return net.add(net.conv(y, 4, 4, 3), net.relu(net.conv(y, 4, 4, 1)))

    after, decisions = fuse(Reparameterize, relax_module(body, (1, 4, 6, 6)))
    assert count(after, CONV) == 3
    (reason,) = refusals(decisions)
    assert "nn.relu lies between" in reason
    assert not decisions[-1].applied


def test_networks_without_anything_to_fuse_are_the_same_object() -> None:
    def body(net, x):
        return net.relu(net.conv(net.relu(net.conv(x, 4, 4, 3, bias=True)), 4, 4, 1))

    mod = relax_module(body, (1, 4, 6, 6))
    after, decisions = fuse(Reparameterize, mod)
    assert after.same_as(mod)
    assert not decisions


# What `time` decides.


def roofline(flops: int, nbytes: int) -> float:
    return max(flops / 1e10, nbytes / 1e10) + 1e-6


@families
def test_every_family_is_worth_it(family) -> None:
    before = relax_module(network(family), (1, 4, 16, 16))
    after, _ = fuse(Reparameterize, before, roofline)
    assert count(after, CONV) == 2


def test_separable_convs_are_not_worth_it() -> None:
    def body(net, x):
        return net.conv_bn(net.conv_bn(x, 32, 32, 3, groups=32), 32, 32, 1)

    before = relax_module(body, (1, 32, 16, 16))
    after, decisions = fuse(Reparameterize, before, roofline)
    assert (count(after, CONV), count(after, BATCH_NORM)) == (2, 0)
    assert any("costs more than it saves" in reason for reason in refusals(decisions))
    assert_same_results(after, before)
