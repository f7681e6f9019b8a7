from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from relay_passes import AnnotateCost, PartitionByPlan, read_costs, stage_interfaces, stage_module
from relay_passes.annotate_cost import COSTS
from tests.relay_passes.fusion_cases import canonical, inputs_of, relax_module, run
from tests.relay_passes.partition_cases import (
    IMAGE,
    annotated,
    assert_identical,
    random_network,
    run_each,
    run_stages,
)
from tvm_iovt.cost_graph import INPUT
from tvm_iovt.errors import ModelError, UsageError
from tvm_iovt.types import PartitionPlan, Stage, TensorSpec


@I.ir_module
class Residual:
    @R.function
    def main(
        x: R.Tensor((1, 2, 4, 4), "float32"),
        w: R.Tensor((2, 2, 3, 3), "float32"),
    ) -> R.Tensor((1, 2, 4, 4), "float32"):
        with R.dataflow():
            first = R.nn.conv2d(x, w, padding=1)
            lv = R.nn.relu(first)
            second = R.nn.conv2d(lv, w, padding=1)
            lv1 = R.add(second, lv)
            gv = R.sigmoid(lv1)
            R.output(gv)
        return gv


def test_a_residual_crosses_the_cut() -> None:
    @I.ir_module
    class Expected:
        @R.function
        def main(
            x: R.Tensor((1, 2, 4, 4), "float32"),
            w: R.Tensor((2, 2, 3, 3), "float32"),
        ) -> R.Tensor((1, 2, 4, 4), "float32"):
            cls = Expected
            with R.dataflow():
                relu = cls.stage0(x, w)
                gv = cls.stage1(w, relu)
                R.output(gv)
            return gv

        @R.function
        def stage0(
            x: R.Tensor((1, 2, 4, 4), "float32"),
            w: R.Tensor((2, 2, 3, 3), "float32"),
        ) -> R.Tensor((1, 2, 4, 4), "float32"):
            with R.dataflow():
                first = R.nn.conv2d(x, w, padding=1)
                relu = R.nn.relu(first)
                R.output(relu)
            return relu

        @R.function
        def stage1(
            w: R.Tensor((2, 2, 3, 3), "float32"),
            relu: R.Tensor((1, 2, 4, 4), "float32"),
        ) -> R.Tensor((1, 2, 4, 4), "float32"):
            with R.dataflow():
                second = R.nn.conv2d(relu, w, padding=1)
                lv1 = R.add(second, relu)
                sigmoid = R.sigmoid(lv1)
                R.output(sigmoid)
            return sigmoid

    mod, names = annotated(Residual)
    assert names == ["first", "second"]
    after = PartitionByPlan([["first"], ["second"]])(mod)
    relax.analysis.well_formed(after)
    (stage0, stage1) = stage_interfaces(after)
    assert [spec.name for spec in stage0.inputs] == ["x", "w"]
    assert [str(spec) for spec in stage0.outputs] == ["relu 1x2x4x4 float32"]
    assert [spec.name for spec in stage1.inputs] == ["w", "relu"]
    plain = {
        var: f.without_attr("tvm_iovt.stage") if "stage" in var.name_hint else f
        for var, f in after.functions.items()
    }
    tvm.ir.assert_structural_equal(tvm.IRModule(plain), canonical(Expected))


@pytest.mark.parametrize("seed", range(4))
def test_every_cut_of_random_networks_gives_the_same_bits(seed: int) -> None:
    before = random_network(seed)
    mod, names = annotated(before)
    arrays = inputs_of(before)
    parts = [PartitionByPlan([names[:cut], names[cut:]])(mod) for cut in range(1, len(names))]
    for part in parts:
        relax.analysis.well_formed(part)
    whole, *found = run_each([before, *parts], *arrays)
    assert len(found) >= 5
    for results in found:
        assert_identical(results, whole)


@pytest.mark.parametrize("seed", range(5, 8))
def test_stages_chained_by_hand_give_the_same_bits(seed: int) -> None:
    before = random_network(seed)
    outputs = [
        TensorSpec(name=name, shape=tuple(int(d) for d in field.shape), dtype="float32")
        for name, field in zip("abc", before["main"].ret_ty.fields, strict=True)
    ]
    mod = AnnotateCost(outputs=outputs)(before)
    names = [unit.name for unit in read_costs(mod).units]
    random = np.random.default_rng(seed)
    ends = sorted(random.choice(np.arange(1, len(names)), 2, replace=False))
    cuts = [0, *map(int, ends), len(names)]
    after = PartitionByPlan([names[a:b] for a, b in itertools.pairwise(cuts)])(mod)
    arrays = inputs_of(before)
    found = run_stages(after, dict(zip(["x0", "x1"], arrays, strict=True)))
    assert_identical([found[spec.name] for spec in outputs], run(before, *arrays))


@pytest.mark.parametrize("seed", [10, 11])
def test_a_stage_for_each_unit(seed: int) -> None:
    before = random_network(seed)
    mod, names = annotated(before)
    after = PartitionByPlan([[name] for name in names])(mod)
    arrays = inputs_of(before)
    assert_identical(run(after, *arrays), run(before, *arrays))
    for interface, unit in zip(stage_interfaces(after), read_costs(mod).units, strict=True):
        assert interface.units == (unit.name,)
        # What a unit is said to move is what its stage takes and gives.
        assert sum(spec.nbytes for spec in interface.inputs) >= unit.bytes_in
        assert sum(spec.nbytes for spec in interface.outputs) >= unit.bytes_out


def test_what_crosses_is_what_the_cost_graph_says() -> None:
    mod, names = annotated(random_network(3))
    graph = read_costs(mod)
    for cut in range(1, len(names)):
        first, second = stage_interfaces(PartitionByPlan([names[:cut], names[cut:]])(mod))
        between = {
            edge.spec.name
            for edge in graph.edges
            if edge.producer in range(cut) and any(c >= cut for c in edge.consumers)
        }
        made = {spec.name for spec in first.outputs}
        assert {s.name for s in second.inputs} & made == between
        others = {spec.name for spec in second.inputs} - made
        assert others <= {edge.spec.name for edge in graph.edges if edge.producer == INPUT}


def test_one_stage_is_the_network() -> None:
    before = random_network(1)
    mod, names = annotated(before)
    arrays = inputs_of(before)
    made = [PartitionByPlan(stages)(mod) for stages in ([names], [()], _plan([()]))]
    for after in made:
        (interface,) = stage_interfaces(after)
        assert interface.units == tuple(names)
    alone = stage_module(made[0], 0).module
    # Its main is again a network that can be cut.
    again, units = annotated(alone)
    assert len(units) == len(names)
    cut = PartitionByPlan([units[:2], units[2:]])(again)
    whole, *found = run_each([before, *made, alone, cut], *arrays)
    for results in found:
        assert_identical(results, whole)


def test_units_of_a_stage_may_be_named_in_any_order() -> None:
    mod, names = annotated(random_network(2))
    forward = PartitionByPlan([names[:3], names[3:]])(mod)
    backward = PartitionByPlan([names[2::-1], names[:2:-1]])(mod)
    tvm.ir.assert_structural_equal(forward, backward)


def test_parallel_branches_need_not_be_neighbours() -> None:
    def body(net, x):
        left = net.relu(net.conv(net.relu(net.conv(x, 4, 4)), 4, 4))
        right = net.relu(net.conv(x, 4, 4))
        return net.call("concat", [left, right], axis=1)

    before = relax_module(body, IMAGE)
    mod, names = annotated(before)
    # The right branch first, though it comes last.
    after = PartitionByPlan([[names[2]], [names[0], names[1]], [names[3]]])(mod)
    last = stage_interfaces(after)[2]
    assert len(last.inputs) == 2
    arrays = inputs_of(before)
    assert_identical(run(after, *arrays), run(before, *arrays))


def test_tir_functions_follow_the_stage_that_calls_them() -> None:
    @I.ir_module(s_tir=True)
    class Before:
        @T.prim_func(private=True, s_tir=True)
        def twice(a: T.Buffer((4,), "float32"), b: T.Buffer((4,), "float32")):
            for i in range(4):
                with T.sblock("twice"):
                    v = T.axis.spatial(4, i)
                    b[v] = a[v] * T.float32(2)

        @R.function
        def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            cls = Before
            with R.dataflow():
                doubled = R.call_tir(cls.twice, (x,), out_ty=R.Tensor((4,), "float32"))
                gv = R.nn.softmax(doubled)
                R.output(gv)
            return gv

    mod, names = annotated(Before)
    assert names == ["doubled", "softmax"]
    assert read_costs(mod).units[0].flops == 4
    after = PartitionByPlan([["doubled"], ["softmax"]])(mod)
    assert [len(stage_module(after, i).module.functions) for i in range(2)] == [2, 1]
    x = np.arange(4, dtype=np.float32)
    assert_identical(run(after, x), run(Before, x))
    assert_identical([run_stages(after, {"x": x})["softmax"]], run(Before, x))


def test_results_that_no_operator_computes() -> None:
    """An input, a view of one, a constant, and one tensor twice."""

    def body(net, x):
        made = net.relu(net.conv(x, 4, 4))
        last = net.conv(made, 4, 4)
        constant = net.call("reshape", net.const(np.arange(4.0)), (2, 2))
        last = net.call(
            "reshape", net.call("nn.softmax", net.call("reshape", last, (4, 36)), 1), IMAGE
        )
        return [made, last, x, net.call("reshape", x, (4, 36)), constant, made]

    before = relax_module(body, IMAGE)
    mod, names = annotated(before)
    after = PartitionByPlan([names[:1], names[1:]])(mod)
    (array,) = inputs_of(before)
    whole = run(before, array)
    assert_identical(run(after, array), whole)
    values = run_stages(after, {"x0": array})
    outputs = [edge.spec.name for edge in read_costs(mod).edges if edge.is_output]
    assert len(outputs) == 6
    for name in outputs:
        assert any(np.array_equal(values[name], result) for result in whole)


def test_the_model_s_names_reach_the_stages() -> None:
    mod = AnnotateCost(
        inputs=[
            TensorSpec(name="camera:0", shape=(1, 2, 4, 4), dtype="float32"),
            TensorSpec(name="weights", shape=(2, 2, 3, 3), dtype="float32"),
        ],
        outputs=[TensorSpec(name="scores/0", shape=(1, 2, 4, 4), dtype="float32")],
    )(Residual)
    after = PartitionByPlan([["first"], ["second"]])(mod)
    first, second = stage_interfaces(after)
    assert [spec.name for spec in first.inputs] == ["camera:0", "weights"]
    assert [spec.name for spec in second.outputs] == ["scores/0"]
    arrays = inputs_of(Residual)
    values = run_stages(after, dict(zip(["camera:0", "weights"], arrays, strict=True)))
    assert_identical([values["scores/0"]], run(Residual, *arrays))


@pytest.mark.parametrize(
    ("stages", "what", "seen"),
    [
        ([["first"], ["secnd"]], "does not have: 'secnd'", "first, second"),
        ([["first", "second"], ["first"]], "twice: 'first'", "stage 0 and in stage 1"),
        ([["first"]], "leaves out 1 of the network's 2 units", "second"),
        ([["first", "second"], []], "Stage 1 of the plan has no units", ""),
        ([["second"], ["first"]], "cannot run in this order", "second reads it, but first"),
        ([[], []], "has no units", ""),
    ],
)
def test_plans_that_are_no_partition(stages, what: str, seen: str) -> None:
    mod, _ = annotated(Residual)
    with pytest.raises(UsageError) as caught:
        PartitionByPlan(stages)(mod)
    assert what in caught.value.what
    assert seen in caught.value.seen
    assert caught.value.exit_code == 2


def test_a_circle_between_stages_is_refused() -> None:
    def body(net, x):
        return net.conv(net.conv(net.conv(x, 4, 4), 4, 4), 4, 4)

    mod, names = annotated(relax_module(body, IMAGE))
    with pytest.raises(UsageError, match="cannot run in this order"):
        PartitionByPlan([[names[0], names[2]], [names[1]]])(mod)


def test_the_annotation_must_be_there_and_fit() -> None:
    with pytest.raises(ModelError, match="no costs"):
        PartitionByPlan([["first"], ["second"]])(Residual)
    mod, _ = annotated(Residual)
    other, _ = annotated(random_network(0))
    stale = tvm.IRModule(
        {var: f.with_attr(COSTS, other["main"].attrs[COSTS]) for var, f in mod.functions.items()}
    )
    with pytest.raises(ModelError, match="not the one that its costs are of"):
        PartitionByPlan([["first"], ["second"]])(stale)
    costs = json.loads(str(mod["main"].attrs[COSTS]))
    costs["units"][0]["flops"] += 1
    changed = mod["main"].with_attr(COSTS, json.dumps(costs))
    with pytest.raises(ModelError, match="not the one that its costs are of"):
        PartitionByPlan([["first"], ["second"]])(tvm.IRModule({"main": changed}))


def test_stages_that_are_not_there() -> None:
    mod, names = annotated(Residual)
    with pytest.raises(ModelError, match="no stage 0") as caught:
        stage_module(mod, 0)
    assert "not partitioned" in caught.value.seen
    assert stage_interfaces(mod) == ()
    after = PartitionByPlan([names])(mod)
    with pytest.raises(ModelError, match="no stage 1"):
        stage_module(after, 1)
    with pytest.raises(ModelError, match="not a sequence of operators"):
        AnnotateCost()(after)


def test_dead_code_is_no_stage() -> None:
    def body(net, x):
        net.conv(x, 4, 4)
        return net.conv(x, 4, 4)

    mod, names = annotated(relax_module(body, IMAGE))
    with pytest.raises(ModelError, match="Nothing reads what stage 0 computes"):
        PartitionByPlan([names[:1], names[1:]])(mod)


def _plan(stages) -> PartitionPlan:
    return PartitionPlan(
        stages=tuple(
            Stage(index=i, target="host", units=tuple(units), inputs=(), outputs=())
            for i, units in enumerate(stages)
        ),
        objective="cuts",
        reason="",
    )
