from __future__ import annotations

import numpy as np
import onnx
import pytest
import tvm
from onnx import helper
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from relay_passes import RestoreClip
from tests.relay_passes.fusion_cases import virtual_machine
from tvm_iovt.types import Decision


def clip_model(make_model, low: float | None, high: float | None, opset: int = 17):
    names = ["x", "lo" if low is not None else "", "hi" if high is not None else ""]
    bounds = {"lo": low, "hi": high}
    constants = {k: np.float32(v) for k, v in bounds.items() if v is not None}
    node = helper.make_node("Clip", names, ["y"], "clip")
    return make_model([node], {"x": [2, 3]}, {"y": [2, 3]}, constants, opset=opset)


def operators(mod: tvm.IRModule) -> list[str]:
    found: list[str] = []

    def visit(expr) -> None:
        if isinstance(expr, relax.Call):
            found.append(expr.op.name)

    relax.analysis.post_order_visit(mod["main"], visit)
    return found


def run(mod: tvm.IRModule, *arrays: np.ndarray) -> np.ndarray:
    machine = virtual_machine(mod)
    return machine["main"](*[tvm.runtime.tensor(a) for a in arrays]).numpy()


X = np.array([[-2.0, -1.0, 0.0], [3.0, 6.0, 9.0]], np.float32)


def test_two_sided_clip_becomes_one_operator(make_model) -> None:
    @I.ir_module
    class Expected:
        @R.function
        def main(  # TVMScript
            x: R.Tensor((2, 3), "float32"),
        ) -> R.Tensor((2, 3), "float32"):
            R.func_attr({"num_input": 1})
            with R.dataflow():
                gv = R.clip(x, T.float32(0), T.float32(6))
                R.output(gv)
            return gv

    after = RestoreClip()(from_onnx(clip_model(make_model, 0.0, 6.0)))
    assert operators(after) == ["relax.clip"]
    assert len(after.functions) == 1, "the importer's functions should be gone"
    tvm.ir.assert_structural_equal(canonical(after), canonical(Expected))


def canonical(mod: tvm.IRModule) -> tvm.IRModule:
    sequence = [relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination()]
    return tvm.transform.Sequential(sequence)(mod)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 6.0, ["relax.clip"]),
        (-1.5, 2.0, ["relax.clip"]),
        (0.0, None, ["relax.nn.relu"]),
        (-1.0, None, ["relax.maximum"]),
        (None, 6.0, ["relax.minimum"]),
        (0.0, np.inf, ["relax.nn.relu"]),
        (-np.inf, 6.0, ["relax.minimum"]),
        (np.nan, 6.0, ["relax.minimum"]),
        (0.0, np.nan, ["relax.nn.relu"]),
        (-np.inf, np.inf, []),
    ],
)
def test_operators_and_numerics(make_model, low, high, expected) -> None:
    before = from_onnx(clip_model(make_model, low, high))
    after = RestoreClip()(before)
    assert operators(after) == expected
    if not expected:
        return  # the input itself: there is no kernel to compile
    np.testing.assert_array_equal(run(after, X), run(before, X))


def test_attribute_form_of_old_opsets(make_model) -> None:
    node = helper.make_node("Clip", ["x"], ["y"], min=0.0, max=6.0)
    model = make_model([node], {"x": [2, 3]}, {"y": [2, 3]}, opset=9)
    after = RestoreClip()(from_onnx(model))
    np.testing.assert_array_equal(run(after, X), np.clip(X, 0, 6))


def test_bounds_in_the_wrong_order_keep_their_meaning(make_model) -> None:
    decisions: list[Decision] = []
    before = from_onnx(clip_model(make_model, 5.0, 1.0))
    after = RestoreClip(decisions.append)(before)
    assert "relax.clip" not in operators(after)
    np.testing.assert_array_equal(run(after, X), np.minimum(np.maximum(X, 5), 1))
    assert any("above upper" in d.reason and not d.applied for d in decisions)


def test_bound_from_the_graph_is_refused_with_a_reason(make_model) -> None:
    node = helper.make_node("Clip", ["x", "lo"], ["y"])
    model = make_model([node], {"x": [2, 3], "lo": []}, {"y": [2, 3]})
    decisions: list[Decision] = []
    before = from_onnx(model)
    after = RestoreClip(decisions.append)(before)
    assert [(d.applied, d.reason) for d in decisions] == [
        (False, "its lower bound is not a constant")
    ]
    low = np.float32(0.5).reshape(())
    np.testing.assert_array_equal(run(after, X, np.asarray(low)), np.maximum(X, 0.5))


def test_every_clip_of_a_chain_is_restored(make_model) -> None:
    nodes = [
        helper.make_node("Clip", ["x", "lo", "hi"], ["a"]),
        helper.make_node("Mul", ["a", "a"], ["b"]),
        helper.make_node("Clip", ["b", "lo", "hi"], ["y"]),
    ]
    constants = {"lo": np.float32(0), "hi": np.float32(4)}
    before = from_onnx(make_model(nodes, {"x": [2, 3]}, {"y": [2, 3]}, constants))
    after = RestoreClip()(before)
    assert operators(after).count("relax.clip") == 2
    np.testing.assert_array_equal(run(after, X), run(before, X))


def test_idempotent(make_model) -> None:
    once = RestoreClip()(from_onnx(clip_model(make_model, 0.0, 6.0)))
    tvm.ir.assert_structural_equal(RestoreClip()(once), once)


def test_other_tir_calls_are_left_alone(make_model) -> None:
    node = onnx.helper.make_node("Max", ["x", "z"], ["y"])
    before = from_onnx(make_model([node], {"x": [2, 3], "z": [2, 3]}, {"y": [2, 3]}))
    tvm.ir.assert_structural_equal(canonical(RestoreClip()(before)), canonical(before))
