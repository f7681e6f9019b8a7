from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from relay_passes import (
    AnnotateCost,
    PartitionByPlan,
    SplitConvolution,
    cost_graph,
    read_costs,
    stage_interfaces,
)
from tests.relay_passes.fusion_cases import (
    CONV,
    assert_equal,
    calls,
    canonical,
    count,
    inputs_of,
    relax_module,
    run,
)
from tests.relay_passes.partition_cases import annotated, assert_identical, run_each, run_stages
from tvm_iovt.errors import UsageError
from tvm_iovt.types import Decision

IMAGE = (1, 4, 9, 7)


def split(mod, name, axis, sizes) -> tuple[tvm.IRModule, list[Decision]]:
    decisions: list[Decision] = []
    after = SplitConvolution(name, axis, sizes, decisions.append)(mod)
    relax.analysis.well_formed(after)
    return after, decisions


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor((1, 2, 8, 5), "float32"), w: R.Tensor((4, 2, 3, 3), "float32")
    ) -> R.Tensor((1, 4, 8, 5), "float32"):
        with R.dataflow():
            c = R.nn.conv2d(x, w, padding=[1, 1, 1, 1])
            gv = R.nn.relu(c)
            R.output(gv)
        return gv


def test_rows_read_their_halo() -> None:
    @I.ir_module
    class Expected:
        @R.function
        def main(
            x: R.Tensor((1, 2, 8, 5), "float32"), w: R.Tensor((4, 2, 3, 3), "float32")
        ) -> R.Tensor((1, 4, 8, 5), "float32"):
            with R.dataflow():
                in0 = R.strided_slice(x, axes=[2], begin=[0], end=[6])
                c0 = R.nn.conv2d(in0, w, padding=[1, 1, 0, 1])
                r0 = R.nn.relu(c0)
                in1 = R.strided_slice(x, axes=[2], begin=[4], end=[8])
                c1 = R.nn.conv2d(in1, w, padding=[0, 1, 1, 1])
                r1 = R.nn.relu(c1)
                gv = R.concat((r0, r1), axis=2)
                R.output(gv)
            return gv

    after, decisions = split(Before, "c", "rows", (5, 3))
    assert_equal(after, Expected)
    assert decisions == [
        Decision(transform="SplitConvolution", subject="c", applied=True, reason="rows 5 + 3")
    ]
    units = cost_graph(after).units
    assert [u.name for u in units] == ["c.in0", "c.0", "c.in1", "c.1", "c.joined"]
    assert sum(u.flops for u in units) == sum(u.flops for u in cost_graph(Before).units)


def test_channels_divide_the_weights() -> None:
    def body(net, x):
        return net.relu(net.conv(x, 4, 6, bias=True))

    before = relax_module(body, IMAGE)
    after, _ = split(before, "conv2d", "channels", (4, 2))
    weights = [call.args[1].value.numpy() for call in calls(after) if call.op.name == CONV]
    whole = next(call for call in calls(before) if call.op.name == CONV).args[1].value.numpy()
    assert_identical(weights, [whole[:4], whole[4:]])
    assert count(after, "relax.strided_slice") == 0
    assert count(after, "relax.nn.relu") == 2


CONVOLUTIONS = {
    "plain": {},
    "wide kernel": {"size": (5, 3)},
    "strided": {"stride": 2},
    "dilated": {"dilation": 2},
    "uneven padding": {"padding": (2, 0, 1, 3)},
    "no padding": {"padding": 0},
    "pointwise": {"size": 1},
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_the_same_bits(case: str) -> None:
    """With a bias, a residual, an activation of two paths, and a consumer behind."""

    def body(net, x):
        c = net.conv(x, 4, 6, bias=True, **CONVOLUTIONS[case])
        rows, columns = (int(c.ty.shape[axis]) for axis in (2, 3))
        residual = net.const(net.weight(1, 6, rows, columns))
        c = net.add(c, residual)
        c = net.call("multiply", c, net.call("sigmoid", c))
        return net.conv(c, 6, 2)

    before = relax_module(body, IMAGE)
    rows = int(next(call for call in calls(before) if call.op.name == CONV).ty.shape[2])
    parts = [
        split(before, "conv2d", axis, sizes)
        for axis, sizes in (
            ("rows", (1, rows - 1)),
            ("rows", (2, 1, rows - 3)),
            ("channels", (1, 5)),
            ("channels", (2, 3, 1)),
        )
    ]
    assert [d.reason for _, decisions in parts for d in decisions if not d.applied] == []
    (x,) = inputs_of(before)
    whole, *found = run_each([before, *(mod for mod, _ in parts)], x)
    for results in found:
        assert_identical(results, whole)


@pytest.mark.parametrize(
    ("inputs", "outputs", "groups", "sizes", "fine"),
    [
        (4, 4, 4, (1, 3), True),
        (4, 8, 4, (2, 6), True),
        (4, 8, 4, (3, 5), False),
        (4, 8, 2, (4, 4), True),
        (4, 8, 2, (2, 6), False),
    ],
)
def test_groups_stay_whole(inputs: int, outputs: int, groups: int, sizes, fine: bool) -> None:
    def body(net, x):
        return net.relu(net.conv(x, inputs, outputs, groups=groups, bias=True))

    before = relax_module(body, IMAGE)
    after, (decision,) = split(before, "conv2d", "channels", sizes)
    assert decision.applied == fine
    if not fine:
        assert "groups" in decision.reason
        assert_equal(after, before)
        return
    (x,) = inputs_of(before)
    assert_identical(run(after, x), run(before, x))
    # Each part reads its own channels only.
    assert count(after, "relax.strided_slice") == 2
    rows, _ = split(before, "conv2d", "rows", (4, 5))
    assert_identical(run(rows, x), run(before, x))


def quantized() -> tvm.IRModule:
    """Integers in and out, with scales for each channel."""

    def body(net, x):
        scale = relax.const(np.float32([0.5, 0.25, 0.125, 1]))
        zero = relax.const(np.zeros(4, np.int8))
        q = net.call("quantize", x, scale, zero, 1, "int8")
        wide = net.call("dequantize", q, scale, zero, 1, "float32")
        c = net.conv(wide, 4, 4, bias=True)
        return net.call("quantize", c, scale, zero, 1, "int8")

    return relax_module(body, IMAGE)


@pytest.mark.parametrize(
    ("axis", "sizes"), [("rows", (4, 5)), ("channels", (1, 3)), ("channels", (2, 2))]
)
def test_conversions_are_divided_too(axis: str, sizes) -> None:
    before = quantized()
    name = cost_graph(before).units[1].name
    after, (decision,) = split(before, name, axis, sizes)
    assert decision.applied
    (x,) = inputs_of(before)
    assert_identical(run(after, x), run(before, x))
    # A part reads integers.
    costs = cost_graph(after)
    parts = [unit for unit in costs.units if unit.kind == "conv"]
    assert len(parts) == 2
    dtypes = {e.spec.dtype for e in costs.edges if {p.index for p in parts} & {*e.consumers}}
    assert dtypes == {"int8"}


@pytest.mark.parametrize(
    ("unit", "axis", "sizes", "reason"),
    [
        (0, "rows", (4, 4), "9 rows, not 4 + 4 = 8"),
        (0, "channels", (3, 4), "4 channels, not 3 + 4 = 7"),
        (1, "rows", (1, 3), "no convolution but nn.max_pool2d"),
        (2, "channels", (2, 2), "no convolution but nn.conv2d_transpose"),
        (3, "rows", (1, 13), "lie in the padding alone"),
    ],
)
def test_what_stays_whole(unit: int, axis: str, sizes, reason: str) -> None:
    def body(net, x):
        x = net.conv(x, 4, 4)
        x = net.call("nn.max_pool2d", x, (2, 2), (2, 2))
        x = net.call("nn.conv2d_transpose", x, net.const(net.weight(4, 4, 3, 3)), strides=(2, 2))
        return net.conv(x, 4, 4, padding=(4, 0, 3, 0))

    before = relax_module(body, IMAGE)
    after, (decision,) = split(before, cost_graph(before).units[unit].name, axis, sizes)
    assert not decision.applied
    assert reason in decision.reason
    assert after.same_as(before)


def test_other_layouts_stay_whole() -> None:
    before = relax_module(lambda net, x: net.conv(x, 4, 4), IMAGE, layout="NHWC")
    after, (decision,) = split(before, "conv2d", "rows", (4, 5))
    assert "layouts NHWC and HWIO" in decision.reason
    assert after.same_as(before)


def test_an_unfolded_batch_norm_stays_whole() -> None:
    before = relax_module(lambda net, x: net.conv_bn(x, 4, 4), IMAGE)
    _, (decision,) = split(before, cost_graph(before).units[0].name, "rows", (4, 5))
    assert "batch_norm of whole images" in decision.reason


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("c", "columns", (2, 3)), "cannot be split along that axis"),
        (("c", "rows", (8,)), "at least two parts"),
        (("c", "rows", (8, 0)), "none of them empty"),
    ],
)
def test_wrong_arguments(arguments, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        SplitConvolution(*arguments)
    assert what in caught.value.what


def test_an_unknown_convolution_is_an_error() -> None:
    with pytest.raises(UsageError, match="no convolution 'conv'") as caught:
        SplitConvolution("conv", "rows", (4, 4))(Before)
    assert "nearest names: c" in caught.value.seen


def test_parts_can_be_split_again() -> None:
    once, _ = split(Before, "c", "rows", (5, 3))
    twice, (decision,) = split(once, "c.0", "channels", (3, 1))
    assert decision.applied
    arrays = inputs_of(Before)
    assert_identical(run(twice, *arrays), run(Before, *arrays))


@pytest.mark.parametrize(("axis", "sizes"), [("rows", (5, 4)), ("channels", (4, 2))])
def test_parts_on_two_stages_read_one_image(axis: str, sizes) -> None:
    def body(net, x):
        return net.conv(net.relu(net.conv(net.relu(net.conv(x, 4, 4)), 4, 6, bias=True)), 6, 2)

    before = canonical(relax_module(body, IMAGE))
    middle = cost_graph(before).units[1].name
    after, _ = split(before, middle, axis, sizes)
    mod, names = annotated(after)
    halves = [[n for n in names if n in (f"{middle}.in{i}", f"{middle}.{i}")] for i in range(2)]
    rest = names[names.index(f"{middle}.joined") :]
    stages = PartitionByPlan([names[:1], *halves, rest])(mod)
    first, left, right, last = stage_interfaces(stages)
    # Neither half waits for the other one.
    assert left.inputs == right.inputs == first.outputs
    assert set(last.inputs) == {*left.outputs, *right.outputs}
    (x,) = inputs_of(before)
    whole = run(before, x)
    assert_identical(run(stages, x), whole)
    values = run_stages(stages, {"x0": x})
    assert_identical([values[spec.name] for spec in last.outputs], whole)


def test_only_the_rows_that_are_needed_cross() -> None:
    after, _ = split(Before, "c", "rows", (5, 3))
    mod = AnnotateCost()(after)
    slices = [edge for edge in read_costs(mod).edges if edge.spec.name.startswith("c.in")]
    assert [edge.spec.shape for edge in slices] == [(1, 2, 6, 5), (1, 2, 4, 5)]


def test_an_annotation_does_not_outlive_the_split() -> None:
    mod, _ = annotated(Before)
    after, _ = split(mod, "c", "rows", (5, 3))
    assert "tvm_iovt.costs" not in after["main"].attrs
