from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

from tvm_iovt.schedules.producers import Producers
from tvm_iovt.schedules.tensors import op_name

CONV = {"pads": [1] * 4}


@pytest.fixture(scope="module")
def is_alone(make_model):
    """Whether the input of the last convolution of a network is made for it alone."""

    def is_alone(*nodes: tuple[str, list[str], str, dict[str, Any]], outputs=("y",)) -> bool:
        weights = {
            name: np.ones(shape, np.float32)
            for name, shape in (
                ("w", (8, 8, 3, 3)),
                ("v", (8, 8, 3, 3)),
                ("b", (8,)),
                ("half", (1, 8, 1, 1)),
            )
        }
        model = make_model(
            [helper.make_node(op, args, [name], **attrs) for op, args, name, attrs in nodes],
            {"x": [1, 8, 6, 6], "z": [1, 8, 6, 6], "u": [8, 8, 3, 3]},
            dict.fromkeys(outputs),
            weights,
        )
        function = from_onnx(model, keep_params_in_input=False)["main"]
        calls: list[Any] = []

        def visit(expr: Any) -> None:
            if op_name(expr) == "relax.nn.conv2d":
                calls.append(expr)

        relax.analysis.post_order_visit(function, visit)
        return Producers(function).made_for_one_consumer(calls[-1].args[0])

    return is_alone


FIRST = ("Conv", ["x", "w", "b"], "c", CONV)
LAST = ("Conv", ["r", "v"], "y", CONV)


@pytest.mark.parametrize(
    "between",
    [
        pytest.param([FIRST, ("Relu", ["c"], "r", {})], id="activation"),
        pytest.param([("Conv", ["x", "w", "b"], "r", CONV)], id="bias alone"),
        pytest.param([FIRST, ("Mul", ["c", "half"], "r", {})], id="scale"),
        pytest.param([FIRST, ("Add", ["c", "z"], "r", {})], id="residual"),
        pytest.param([FIRST, ("Add", ["z", "c"], "r", {})], id="residual, other way round"),
        pytest.param(
            [FIRST, ("Sigmoid", ["c"], "s", {}), ("Tanh", ["s"], "r", {})], id="two activations"
        ),
    ],
)
def test_what_a_convolution_makes_for_one_is_its_own(is_alone, between):
    assert is_alone(*between, LAST)


@pytest.mark.parametrize(
    ("between", "outputs"),
    [
        pytest.param([("Relu", ["x"], "r", {})], ("y",), id="of the network's input"),
        pytest.param([("Conv", ["x", "w"], "r", CONV)], ("y",), id="nothing to fuse into"),
        pytest.param([FIRST, ("Relu", ["c"], "r", {})], ("y", "r"), id="also an output"),
        pytest.param(
            [FIRST, ("Relu", ["c"], "r", {}), ("Abs", ["r"], "t", {})], ("t", "y"), id="two users"
        ),
        pytest.param(
            [FIRST, ("Relu", ["c"], "r", {}), ("Abs", ["c"], "t", {})], ("t", "y"), id="used before"
        ),
        pytest.param(
            [FIRST, ("MaxPool", ["c"], "r", {"kernel_shape": [1, 1]})], ("y",), id="pool between"
        ),
        pytest.param(
            [("Conv", ["x", "u", "b"], "c", CONV), ("Relu", ["c"], "r", {})],
            ("y",),
            id="weights that are inputs",
        ),
    ],
)
def test_what_others_make_or_use_is_not(is_alone, between, outputs):
    assert not is_alone(*between, LAST, outputs=outputs)
