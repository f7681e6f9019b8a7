from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper

from tvm_iovt.errors import ModelError
from tvm_iovt.frontend.load import load_network
from tvm_iovt.frontend.operators import unsupported_operators


def test_all_unsupported_operators_are_listed_with_their_nodes(make_model, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Celu", ["x"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "fine"),
        helper.make_node("Celu", ["b"], ["c"], "second"),
        helper.make_node("Fancy", ["c"], ["y"], "third", domain="com.example"),
    ]
    model = make_model(nodes, {"x": [1, 4]}, {"y": [1, 4]})
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    assert [u.node for u in unsupported_operators(model)] == ["first", "second", "third"]
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path))
    with pytest.raises(ModelError) as caught:
        load_network(path, {})
    assert "Celu (2): first, second" in str(caught.value)
    assert "com.example.Fancy (1): third" in str(caught.value)
    assert caught.value.exit_code == 3


def test_unnamed_nodes_are_known_by_their_output(make_model) -> None:
    model = make_model([helper.make_node("Celu", ["x"], ["y"])], {"x": [1]}, {"y": [1]})
    assert unsupported_operators(model)[0].node == "y"


def test_control_flow_is_found_with_what_is_inside(make_model) -> None:
    branch = helper.make_graph(
        [helper.make_node("Celu", ["x"], ["b"], "inside")],
        "branch",
        [],
        [helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, [1])],
    )
    node = helper.make_node("If", ["x"], ["y"], "choice", then_branch=branch, else_branch=branch)
    found = unsupported_operators(make_model([node], {"x": [1]}, {"y": [1]}))
    assert [u.node for u in found] == ["choice", "inside", "inside"]


def test_importer_failure_names_the_node(make_model, tmp_path: Path) -> None:
    # A cubic resize of six dimensions passes the ONNX checker, not the importer.
    import numpy as np

    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "fine"),
        helper.make_node("Resize", ["r", "", "s"], ["y"], "guilty", mode="cubic", antialias=1),
    ]
    model = make_model(
        nodes,
        {"x": [1, 1, 1, 1, 4, 4]},
        {"y": [1, 1, 1, 1, 4, 4]},
        {"s": np.ones(6, dtype=np.float32)},
        opset=18,
    )
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path))
    with pytest.raises(ModelError) as caught:
        load_network(path, {})
    assert "guilty (Resize)" in str(caught.value)
