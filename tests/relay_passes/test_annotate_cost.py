from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import tvm_iovt.zoo
from relay_passes import AnnotateCost, cost_graph, graph_passes, read_costs
from tests.relay_passes.fusion_cases import canonical, relax_module
from tests.relay_passes.partition_cases import random_network
from tvm_iovt.cost_graph import INPUT, KINDS, Unit
from tvm_iovt.errors import ModelError
from tvm_iovt.frontend.load import load_network
from tvm_iovt.types import TensorSpec

IMAGE = (1, 4, 6, 6)
PIXELS = 36
FLOAT = 4


def units(body, *shapes, **options) -> tuple[Unit, ...]:
    return cost_graph(canonical(relax_module(body, *(shapes or (IMAGE,)), **options))).units


def only(body, *shapes, **options) -> Unit:
    (unit,) = units(body, *shapes, **options)
    return unit


@I.ir_module
class Named:
    @R.function
    def main(
        x: R.Tensor((1, 4, 6, 6), "float32"), w: R.Tensor((8, 4, 3, 3), "float32")
    ) -> R.Tensor((1, 8, 4, 4), "float32"):
        with R.dataflow():
            stem = R.nn.conv2d(x, w)
            lv = R.nn.relu(stem)
            lv1 = R.nn.max_pool2d(lv, pool_size=[3, 3], padding=[1, 1, 1, 1])
            gv = R.add(lv1, lv)
            R.output(gv)
        return gv


def test_everything_that_is_known_of_a_unit() -> None:
    graph = cost_graph(Named)
    assert graph.units[0] == Unit(
        index=0,
        name="stem",
        operators=("stem", "relu"),
        kind="conv",
        flops=2 * 8 * 16 * 4 * 9 + 8 * 16,
        bytes_in=FLOAT * (4 * 36 + 8 * 4 * 9),  # the weights are an input here
        bytes_out=FLOAT * 8 * 16,
        bytes_weights=0,
        dtype="float32",
        shape_in=(1, 4, 6, 6),
        shape_out=(1, 8, 4, 4),
        kernel=(3, 3),
        strides=(1, 1),
        groups=1,
    )
    pool = graph.units[1]
    assert (pool.name, pool.kind, pool.kernel) == ("max_pool2d", "pool", (3, 3))
    assert pool.flops == 8 * 16 * 9 + 8 * 16
    assert pool.bytes_in == FLOAT * 8 * 16, "what it reads twice counts once"
    edges = [(e.spec.name, e.producer, e.consumers, e.is_output) for e in graph.edges]
    assert edges == [
        ("x", INPUT, (0,), False),
        ("w", INPUT, (0,), False),
        ("relu", 0, (1,), False),
        ("add", 1, (), True),
    ]


def test_the_annotation_is_read_back_and_changes_nothing_else() -> None:
    after = AnnotateCost()(Named)
    assert read_costs(after) == cost_graph(Named)
    tvm.ir.assert_structural_equal(AnnotateCost()(after), after)
    plain = after["main"].without_attr("tvm_iovt.costs").without_attr("tvm_iovt.outputs")
    tvm.ir.assert_structural_equal(plain, Named["main"])
    assert "tvm_iovt.costs" not in (Named["main"].attrs or {}), "the original was changed"


def test_the_annotation_runs_in_a_sequence() -> None:
    passes = tvm.transform.Sequential([relax.transform.CanonicalizeBindings(), AnnotateCost()])
    assert read_costs(passes(Named)) == cost_graph(Named)


def test_a_module_without_costs() -> None:
    with pytest.raises(ModelError, match="no costs") as caught:
        read_costs(Named)
    assert "AnnotateCost" in caught.value.do
    with pytest.raises(ModelError, match="no Relax function main"):
        AnnotateCost()(tvm.IRModule({"other": Named["main"].with_attr("global_symbol", "other")}))


def test_names_of_the_model() -> None:
    outputs = [TensorSpec(name="scores:0", shape=(1, 8, 4, 4), dtype="float32")]
    inputs = [
        TensorSpec(name="relu", shape=(1, 4, 6, 6), dtype="float32"),
        TensorSpec(name="w", shape=(8, 4, 3, 3), dtype="float32"),
    ]
    graph = cost_graph(Named, inputs, outputs)
    assert [e.spec.name for e in graph.edges] == ["relu", "w", "relu~2", "scores:0"]
    with pytest.raises(ModelError, match="outputs are not those"):
        cost_graph(Named, inputs, [*outputs, *outputs])
    with pytest.raises(ModelError, match="inputs are not those"):
        AnnotateCost(inputs=outputs)(Named)


@pytest.mark.parametrize(
    ("options", "kind", "flops"),
    [
        ({}, "conv", 2 * 8 * PIXELS * 4 * 9),
        ({"size": 1}, "pointwise", 2 * 8 * PIXELS * 4),
        ({"size": (1, 3)}, "conv", 2 * 8 * PIXELS * 4 * 3),
        ({"groups": 4}, "depthwise", 2 * 8 * PIXELS * 9),
        ({"groups": 2}, "grouped", 2 * 8 * PIXELS * 2 * 9),
        ({"stride": 2}, "conv", 2 * 8 * 9 * 4 * 9),
        ({"dilation": 2, "padding": 0}, "conv", 2 * 8 * 4 * 4 * 9),
        ({"bias": True}, "conv", 2 * 8 * PIXELS * 4 * 9),
    ],
)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_convolutions(options, kind: str, flops: int, layout: str) -> None:
    unit = only(lambda net, x: net.conv(x, 4, 8, **options), layout=layout)
    assert (unit.kind, unit.flops) == (kind, flops)
    weights = 8 * 4 // options.get("groups", 1) * np.prod(unit.kernel) + 8 * ("bias" in options)
    assert unit.bytes_weights == FLOAT * weights
    assert unit.bytes_in == FLOAT * 4 * PIXELS


@pytest.mark.parametrize(
    ("body", "kind", "flops"),
    [
        (lambda n, x: n.call("nn.avg_pool2d", x, (3, 3)), "pool", 4 * 16 * 9),
        (lambda n, x: n.call("nn.avg_pool2d", x, (6, 6)), "reduce", 4 * PIXELS),
        (lambda n, x: n.call("nn.adaptive_avg_pool2d", x, (1, 1)), "reduce", 4 * PIXELS),
        (lambda n, x: n.call("nn.adaptive_avg_pool2d", x, (2, 2)), "pool", 4 * PIXELS),
        (lambda n, x: n.call("mean", x, [2, 3]), "reduce", 4 * PIXELS),
        (lambda n, x: n.call("nn.softmax", x, 1), "reduce", 15 * 4 * PIXELS),
        (lambda n, x: n.call("nn.relu", x), "elementwise", 4 * PIXELS),
        (lambda n, x: n.call("sigmoid", x), "elementwise", 8 * 4 * PIXELS),
        (lambda n, x: n.call("permute_dims", x, [0, 2, 3, 1]), "move", 0),
        (lambda n, x: n.call("concat", [x, x], axis=1), "move", 0),
        (lambda n, x: n.call("nn.pad", x, [0, 0, 0, 0, 1, 1, 1, 1]), "move", 0),
        (lambda n, x: n.call("image.resize2d", x, (12, 12), method="nearest_neighbor",
                             layout="NCHW"), "move", 0),
        (lambda n, x: n.call("image.resize2d", x, (12, 12), method="linear", layout="NCHW"),
         "other", 2 * 4 * 144 * 4),
        (lambda n, x: n.call("nn.conv2d_transpose", x, n.const(n.weight(4, 3, 2, 2)),
                             strides=(2, 2)), "transposed", 2 * 4 * PIXELS * 3 * 4),
        (lambda n, x: n.call("sort", x), "other", 0),
    ],
)  # fmt: skip
def test_other_operators(body, kind: str, flops: int) -> None:
    unit = only(body)
    assert (unit.kind, unit.flops) == (kind, flops)
    assert unit.kind in KINDS


def test_products() -> None:
    matrix = np.ones((8, 3))
    unit = only(lambda n, x: n.call("matmul", x, n.const(matrix)), (5, 8))
    assert (unit.kind, unit.flops, unit.bytes_weights) == ("matmul", 2 * 5 * 3 * 8, FLOAT * 24)
    batched = only(lambda n, x, y: n.call("matmul", x, y), (2, 5, 8), (2, 8, 3))
    assert (batched.flops, batched.bytes_weights) == (2 * 2 * 5 * 3 * 8, 0)


def test_a_slice_reads_what_it_writes() -> None:
    unit = only(lambda n, x: n.call("strided_slice", x, [2], [0], [2]))
    assert (unit.kind, unit.bytes_in, unit.bytes_out) == ("move", FLOAT * 48, FLOAT * 48)


def test_shapes_must_be_known() -> None:
    batch = tvm.tirx.Var("batch", "int64")
    with pytest.raises(ModelError, match="without a static shape"):
        cost_graph(relax_module(lambda net, x: net.relu(x), (batch, 4)))


def test_control_flow_is_refused() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(c: R.Tensor((), "bool"), x: R.Tensor((4,), "float32")) -> R.Tensor(
            (4,), "float32"
        ):
            if c:  # noqa: SIM108  # the script's parser knows no other form
                y = R.nn.relu(x)
            else:
                y = x
            return y

    with pytest.raises(ModelError, match="not a sequence of operators"):
        cost_graph(Before)


@pytest.mark.parametrize("seed", range(8))
def test_random_networks(seed: int) -> None:
    mod = random_network(seed)
    graph = cost_graph(mod)
    assert cost_graph(mod) == graph
    names = [unit.name for unit in graph.units]
    assert len(set(names)) == len(names)
    operators = [name for unit in graph.units for name in unit.operators]
    assert len(set(operators)) == len(operators)
    assert {unit.kind for unit in graph.units} <= set(KINDS)
    tensors = [edge.spec.name for edge in graph.edges]
    assert len(set(tensors)) == len(tensors)
    assert sum(edge.is_output for edge in graph.edges) == 3
    for unit in graph.units:
        read = sum(e.nbytes for e in graph.edges if unit.index in e.consumers)
        made = sum(e.nbytes for e in graph.edges if unit.index == e.producer)
        assert unit.bytes_in == read
        assert unit.bytes_out == made
        assert graph.position_after(unit.name) == unit.index + 1


def test_multiply_adds_of_a_model_are_those_of_its_file() -> None:
    network = load_network(Path(tvm_iovt.zoo.__file__).with_name("digits.onnx"), {})
    module = tvm.transform.Sequential(graph_passes(fuse=False))(network.module)
    graph = cost_graph(module, network.inputs, network.outputs)
    expected = sum(operator.flops for operator in network.operators)
    assert sum(unit.flops for unit in graph.units) == expected
    assert [e.spec for e in graph.edges if e.is_output] == list(network.outputs)
    assert [e.spec for e in graph.edges if e.producer == INPUT] == list(network.inputs)
    fused = tvm.transform.Sequential(graph_passes())(network.module)
    assert len(cost_graph(fused).units) < len(graph.units)
