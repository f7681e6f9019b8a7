from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
import tvm
from onnx import helper
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx
from tvm.script import ir as I
from tvm.script import relax as R

from relay_passes import RestorePad
from tests.relay_passes.fusion_cases import virtual_machine
from tvm_iovt.types import Decision

X = np.arange(1, 1 + 2 * 3 * 4, dtype=np.float32).reshape(1, 2, 3, 4)


def pad_model(
    make_model: Callable[..., onnx.ModelProto],
    widths: Sequence[int],
    *,
    value: float | None = None,
    mode: str = "constant",
    opset: int = 17,
) -> onnx.ModelProto:
    constants = {"widths": np.asarray(widths, np.int64)}
    names = ["x", "widths"]
    if value is not None:
        constants["value"] = np.float32(value)
        names.append("value")
    shape = [s + a + b for s, a, b in zip(X.shape, widths[:4], widths[4:], strict=True)]
    node = helper.make_node("Pad", names, ["y"], mode=mode)
    return make_model([node], {"x": list(X.shape)}, {"y": shape}, constants, opset=opset)


def canonical(mod: tvm.IRModule) -> tvm.IRModule:
    sequence = [relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination()]
    return tvm.transform.Sequential(sequence)(mod)


def run(mod: tvm.IRModule) -> np.ndarray:
    machine = virtual_machine(mod)
    return machine["main"](tvm.runtime.tensor(X)).numpy()


def test_zeros_around_an_image_become_one_operator(make_model) -> None:
    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 2, 3, 4), "float32")) -> R.Tensor((1, 2, 4, 7), "float32"):
            R.func_attr({"num_input": 1})
            with R.dataflow():
                gv = R.nn.pad(x, [0, 0, 0, 0, 0, 1, 2, 1])
                R.output(gv)
            return gv

    before = from_onnx(pad_model(make_model, [0, 0, 0, 2, 0, 0, 1, 1]))
    after = RestorePad()(before)
    tvm.ir.assert_structural_equal(canonical(after), canonical(Expected))
    np.testing.assert_array_equal(run(after), run(before))


@pytest.mark.parametrize("opset", [13, 17, 18])
@pytest.mark.parametrize("widths", [[0, 0, 1, 1, 0, 0, 1, 1], [0, 0, 2, 0, 0, 0, 0, 3]])
def test_every_opset_and_division(make_model, opset: int, widths: list[int]) -> None:
    before = from_onnx(pad_model(make_model, widths, value=0.0, opset=opset))
    decisions: list[Decision] = []
    after = RestorePad(decisions.append)(before)
    assert [d.applied for d in decisions] == [True]
    assert len(after.functions) == 1, "the importer's function should be gone"
    np.testing.assert_array_equal(run(after), run(before))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"widths": [0, 0, 1, 1, 0, 0, 1, 1], "value": 1.0}, "other values than zero"),
        ({"widths": [0, 1, 1, 1, 0, 0, 1, 1]}, "other axes"),
        ({"widths": [0, 0, 0, 40, 0, 0, 0, 0]}, "other values than zero"),
    ],
)
def test_what_is_left_alone(make_model, options, reason: str) -> None:
    before = from_onnx(pad_model(make_model, **options))
    decisions: list[Decision] = []
    after = RestorePad(decisions.append)(before)
    tvm.ir.assert_structural_equal(canonical(after), canonical(before))
    assert [d.applied for d in decisions] == [False]
    assert reason in decisions[0].reason


def test_reflection_is_another_operator(make_model) -> None:
    before = from_onnx(pad_model(make_model, [0, 0, 1, 1, 0, 0, 1, 1], mode="reflect"))
    tvm.ir.assert_structural_equal(canonical(RestorePad()(before)), canonical(before))


def test_idempotent(make_model) -> None:
    once = RestorePad()(from_onnx(pad_model(make_model, [0, 0, 1, 1, 0, 0, 1, 1])))
    tvm.ir.assert_structural_equal(RestorePad()(once), once)
