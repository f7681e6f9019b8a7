from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def flattened_model(size: tuple[int, int], classes: int, batch: int = 1) -> onnx.ModelProto:
    """Convolution, ReLU, flatten, dense layer."""
    rng = np.random.default_rng(0)
    rows, cols = size
    weights = rng.standard_normal((24, 3, 3, 3), dtype=np.float32)
    dense = rng.standard_normal((24 * rows * cols, classes), dtype=np.float32) / 30
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y"], ["z"]),
        helper.make_node("Flatten", ["z"], ["f"]),
        helper.make_node("MatMul", ["f", "d"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, rows, cols])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, classes])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(dense, "d")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (8, 8)])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_dense_layer_takes_the_pixels_as_they_lie(check, size, batch):
    """The weights are reordered, so that the channels-last image is not transposed."""
    result = check(flattened_model(size, 10, batch), rtol=1e-4, atol=1e-4)
    assert not [name for name in result.kernels if "transpose" in name]


def test_streams_of_weights_cover_every_row(check):
    """Long single-row products read several places of the weights in turn."""
    for depth in (64, 511, 512, 1000, 1024):
        rng = np.random.default_rng(depth)
        weights = rng.standard_normal((depth, 40), dtype=np.float32)
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["out"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, depth])],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 40])],
            [numpy_helper.from_array(weights, "w")],
        )
        opset = [helper.make_opsetid("", 17)]
        # Sums of 1000 products in another order: 1e-6 of their size, some 30.
        check(helper.make_model(graph, opset_imports=opset, ir_version=8), rtol=1e-4, atol=1e-4)
