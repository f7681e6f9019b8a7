"""What a fusion leaves alone, and what it takes along."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from tvm_iovt.onnx_fusion.fuse_model import fuse_onnx
from tvm_iovt.roofline import assumed_ceilings
from tvm_iovt.targets import load

C = 4


def repvgg(n, x="x"):
    return n.add(n.conv_bn(x, C, C, 3), n.conv_bn(x, C, C, 1), n.bn(x, C))


def test_names_metadata_and_opsets_stay(net, fuse):
    n = net()
    model = n.model(n.node("Relu", repvgg(n)))
    model.producer_name, model.doc_string = "tests", "notes"
    helper.set_model_props(model, {"preprocess": "digits"})
    model.graph.doc_string = "a graph"
    fused = fuse(model).model
    for field in ("producer_name", "doc_string", "ir_version", "opset_import", "metadata_props"):
        assert getattr(fused, field) == getattr(model, field), field
    for field in ("input", "output", "doc_string", "name"):
        assert getattr(fused.graph, field) == getattr(model.graph, field), field


def test_other_nodes_stay_in_place(net, fuse):
    n = net()
    one = n.node("Relu", "x")
    two = n.node("Sigmoid", one)
    y = repvgg(n, one)
    three = n.node("Relu", y, name="last")
    model = n.model(n.node("Mul", three, two))
    fused = fuse(model).model
    assert [node.op_type for node in fused.graph.node] == ["Relu", "Sigmoid", "Conv", "Relu", "Mul"]
    kept = {node.name: node for node in model.graph.node}
    for node in fused.graph.node:
        if node.op_type != "Conv":
            assert node.SerializeToString() == kept[node.name].SerializeToString()
    (conv,) = (node for node in fused.graph.node if node.op_type == "Conv")
    assert conv.output[0] == y
    assert conv.name in kept


def test_what_was_unused_before_stays(net, fuse):
    n = net()
    n.constant(n.numbers(3), "unread")
    n.node("Constant", value_float=1.0, name="dead")
    outcome = fuse(n.model(repvgg(n)))
    assert "unread" in {tensor.name for tensor in outcome.model.graph.initializer}
    assert outcome.counts == {"Constant": 1, "Conv": 1}


def test_constants_with_other_readers_stay(net, fuse):
    n = net()
    shared = n.constant(n.numbers(C, 1, 1), "shared")
    y = n.node("Mul", n.conv("x", C, C), shared)
    outcome = fuse(n.model(n.node("Mul", n.node("Relu", y), shared)))
    assert "shared" in {tensor.name for tensor in outcome.model.graph.initializer}
    assert outcome.counts == {"Conv": 1, "Relu": 1, "Mul": 1}


def test_a_constant_that_is_an_output_stays(net, fuse):
    n = net()
    shared = n.constant(n.numbers(C, 1, 1), "shared")
    outcome = fuse(n.model([n.node("Mul", n.conv("x", C, C), shared), shared]))
    assert outcome.counts == {"Conv": 1}


def test_weights_keep_their_names_as_far_as_they_are_free(net, fuse):
    n = net()
    weight = n.constant(n.numbers(C, C, 3, 3), "stem.weight")
    bias = n.constant(n.numbers(C), "stem.offset")
    y = n.bn(n.node("Conv", "x", weight, bias, name="stem", pads=[1] * 4), C)
    fused = fuse(n.model(y)).model
    assert {t.name for t in fused.graph.initializer} == {"stem.weight", "stem.offset"}
    assert fused.graph.node[0].name == "stem"

    n = net()
    weight = n.constant(n.numbers(C, C, 3, 3), "stem.weight")
    n.constant(n.numbers(1), "stem.bias")
    y = n.bn(n.node("Conv", "x", weight, pads=[1] * 4), C)
    other = n.node("Relu", n.node("Conv", "x", weight, pads=[1] * 4))
    fused = fuse(n.model(n.node("Mul", y, other))).model
    names = {t.name for t in fused.graph.initializer}
    assert names == {"stem.weight", "stem.weight_1", "stem.bias", "stem.bias_1"}


def test_names_inside_of_bodies_are_not_taken(net, fuse):
    n = net()
    y = n.bn(n.node("Conv", "x", n.constant(n.numbers(C, C, 1, 1), "stem.weight")), C)
    bodies = []
    for op in ("Relu", "Neg"):
        nodes = [
            helper.make_node(op, [y], ["stem.bias"]),
            helper.make_node("Abs", ["stem.bias"], [f"inner_{op}"]),
        ]
        output = helper.make_tensor_value_info(f"inner_{op}", TensorProto.FLOAT, None)
        bodies.append(helper.make_graph(nodes, op, [], [output]))
    condition = n.constant(np.array(True))
    z = n.node("If", condition, then_branch=bodies[0], else_branch=bodies[1])
    fused = fuse(n.model([z]), check=False).model
    assert {t.name for t in fused.graph.initializer} == {condition, "stem.weight", "stem.bias_1"}


def test_open_axes_stay_open(net, fuse):
    n = net()
    model = n.model(n.node("Relu", repvgg(n)), ["N", C, "H", "W"])
    outcome = fuse(model, shape=(3, C, 6, 7))
    assert outcome.counts == {"Conv": 1, "Relu": 1}
    dims = outcome.model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["N", C, "H", "W"]


def test_recorded_shapes_of_what_is_gone_go_too(net, fuse):
    n = net()
    model = onnx.shape_inference.infer_shapes(n.model(n.node("Relu", repvgg(n))))
    fused = fuse(model).model
    assert len(model.graph.value_info) == 7
    assert [value.name for value in fused.graph.value_info] == [fused.graph.node[0].output[0]]


def test_initializers_listed_as_inputs_of_old_files(net, fuse):
    n = net()
    y = n.node("Relu", repvgg(n))
    shapes = {name: value.shape for name, value in n.constants.items()}
    model = n.model(y, extra_inputs=shapes, ir_version=3, opset=8)
    outcome = fuse(model)
    assert outcome.counts == {"Conv": 1, "Relu": 1}
    graph = outcome.model.graph
    assert [v.name for v in graph.input] == ["x", *(t.name for t in graph.initializer)]


def test_behind_an_operator_that_onnx_does_not_know(net):
    n = net()
    y = n.node("Relu", repvgg(n, n.node("Strange", "x", domain="com.example")))
    model = n.model(y)
    fused = fuse_onnx(model, time=None)
    assert [node.op_type for node in fused.graph.node] == ["Strange", "Conv", "Relu"]


def test_half_precision(net, fuse):
    n = net(dtype=np.float16)
    outcome = fuse(n.model(n.node("Tanh", repvgg(n))), tolerance=2e-2)
    assert outcome.counts == {"Conv": 1, "Tanh": 1}
    types = {tensor.data_type for tensor in outcome.model.graph.initializer}
    assert types == {TensorProto.FLOAT16}


def test_double_precision(net, fuse):
    n = net(dtype=np.float64)
    y = n.node("Gemm", "x", n.constant(n.numbers(7, 5)), n.constant(n.numbers(5)))
    y = n.node("Mul", y, n.constant(n.numbers(5)))
    outcome = fuse(n.model(y, (3, 7)), tolerance=1e-13)
    assert outcome.counts == {"Gemm": 1}
    types = {tensor.data_type for tensor in outcome.model.graph.initializer}
    assert types == {TensorProto.DOUBLE}


def test_fusion_by_estimated_time(net, fuse):
    n = net()
    outcome = fuse(n.model(n.node("Relu", repvgg(n))), assumed_ceilings(load("host")).time_s)
    assert outcome.counts == {"Conv": 1, "Relu": 1}


def test_decisions_name_operators(net, fuse):
    n = net()
    y = n.bn(n.conv("x", C, C, 3, name="stem"), C, name="norm")
    (decision,) = fuse(n.model(y)).decisions
    assert decision.transform == "FuseBatchNorm"
    assert decision.applied
    assert "norm" in decision.subject
    assert "stem" in decision.reason


def test_nodes_without_names(net, fuse):
    n = net()
    y = n.node("Relu", repvgg(n))
    for node in n.nodes:
        node.name = ""
    assert fuse(n.model(y)).counts == {"Conv": 1, "Relu": 1}


def test_a_model_of_functions(net, fuse):
    n = net()
    y = n.node("Twice", repvgg(n), domain="com.example")
    model = n.model(y, out_shape=[2, C, 8, 8])
    body = helper.make_node("Add", ["a", "a"], ["b"])
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(
        helper.make_function("com.example", "Twice", ["a"], ["b"], [body], opsets)
    )
    assert fuse(model).counts == {"Conv": 1, "Twice": 1}


def test_identity_nodes_are_looked_through(net, fuse):
    n = net()
    same = n.node("Identity", "x")
    branches = (
        n.conv_bn(n.node("Identity", same), C, C, 3),
        n.node("Identity", n.conv_bn(same, C, C, 1)),
        n.bn("x", C),
        n.node("Identity", "x"),
    )
    assert fuse(n.model(n.node("Relu", n.add(*branches)))).counts == {"Conv": 1, "Relu": 1}


def test_identity_nodes_that_others_read_stay(net, fuse):
    n = net()
    same = n.node("Identity", "x")
    other = n.node("Relu", same)
    outcome = fuse(n.model(n.node("Mul", n.conv_bn(same, C, C, 3), other)))
    assert outcome.counts == {"Identity": 1, "Conv": 1, "Relu": 1, "Mul": 1}


def test_a_branch_added_twice(net, fuse):
    n = net()
    y = n.conv("x", C, C, 3)
    assert fuse(n.model(n.add(y, y))).counts == {"Conv": 1, "Add": 1}
    n = net()
    assert fuse(n.model(n.add(n.conv("x", C, C, 3), "x", "x"))).counts == {"Conv": 1}


def test_the_result_may_be_an_output_and_be_read(net, fuse):
    n = net()
    y = repvgg(n)
    assert fuse(n.model([y, n.node("Relu", y)])).counts == {"Conv": 1, "Relu": 1}


def test_an_absent_bias_written_as_an_empty_name(net, fuse):
    n = net()
    y = n.node("Conv", "x", n.constant(n.numbers(C, C, 1, 1)), "")
    assert fuse(n.model(n.bn(y, C))).counts == {"Conv": 1}


def test_small_numbers_may_be_stored_one_by_one(net, fuse):
    """`float_data`, as some exporters write it."""
    n = net()
    model = n.model(n.bn(n.conv("x", C, C), C))
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        stored = helper.make_tensor(tensor.name, TensorProto.FLOAT, values.shape, values.ravel())
        tensor.CopyFrom(stored)
    assert fuse(model).counts == {"Conv": 1}


def test_a_fused_block_next_to_a_loop(net, fuse):
    """The body reads the block's input: it is neither fused nor in the way."""
    n = net()
    y = repvgg(n)
    state = helper.make_tensor_value_info("state", TensorProto.FLOAT, None)
    inputs = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        state,
    ]
    outputs = [
        helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
        helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
    ]
    nodes = [
        helper.make_node("Identity", ["go"], ["go_on"]),
        helper.make_node("Add", ["state", "x"], ["next"]),
    ]
    body = helper.make_graph(nodes, "body", inputs, outputs)
    z = n.node("Loop", n.constant(np.int64(3)), n.constant(np.array(True)), y, body=body)
    outcome = fuse(n.model(z, out_shape=[2, C, 8, 8]))
    assert outcome.counts == {"Conv": 1, "Loop": 1}
