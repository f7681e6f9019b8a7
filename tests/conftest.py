from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

ModelFactory = Callable[..., onnx.ModelProto]


def _model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str] | None],
    constants: dict[str, np.ndarray] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    return model


@pytest.fixture(scope="session")
def make_model() -> ModelFactory:
    """Nodes, input and output shapes and constants as an ONNX model, float32."""
    return _model


def small_network() -> onnx.ModelProto:
    """Convolution, batch norm, ReLU6, depthwise, residual, pooling, dense: 1x3x16x16 -> 1x10."""
    random = np.random.default_rng(7)

    def weight(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    constants = {
        "w0": weight(24, 3, 3, 3),
        "scale": random.uniform(0.5, 1.5, 24).astype(np.float32),
        "bias": weight(24, 1).reshape(-1),
        "mean": weight(24, 1).reshape(-1) * 0.1,
        "var": random.uniform(0.5, 1.5, 24).astype(np.float32),
        "lo": np.float32(0.0),
        "hi": np.float32(6.0),
        "w1": weight(24, 1, 3, 3),
        "b1": weight(24, 1).reshape(-1),
        "w2": weight(10, 24),
        "b2": weight(10, 1).reshape(-1),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["c0"], "conv0", pads=[1] * 4, strides=[2, 2]),
        helper.make_node(
            "BatchNormalization", ["c0", "scale", "bias", "mean", "var"], ["n0"], "bn"
        ),
        helper.make_node("Clip", ["n0", "lo", "hi"], ["r0"], "clip"),
        helper.make_node("Conv", ["r0", "w1", "b1"], ["c1"], "depthwise", pads=[1] * 4, group=24),
        helper.make_node("Add", ["c1", "r0"], ["a"], "residual"),
        helper.make_node("GlobalAveragePool", ["a"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["scores"], "dense", transB=1),
    ]
    return _model(nodes, {"image": [1, 3, 16, 16]}, {"scores": [1, 10]}, constants)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of a small network with the usual operators."""
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    onnx.save(small_network(), str(path))
    return path
