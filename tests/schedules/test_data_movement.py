"""Concatenation, softmax of rows, pooling and resizing over shapes that are no whole vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper


@pytest.mark.parametrize(
    "parts",
    [(16, 16), (24, 24, 8), (32, 16, 48, 64), (12, 20), (3, 5, 7), (58, 88), (1, 64), (16,) * 20],
)
@pytest.mark.parametrize("cpu", ["avx512", "neon64"])
def test_concatenation_of_channels_with_arithmetic_behind(check, make_model, rng, parts, cpu):
    total = sum(parts)
    constants = {k: rng.standard_normal(total, dtype=np.float32) for k in ("scale", "shift")}
    nodes = [
        helper.make_node("Concat", [f"x{i}" for i in range(len(parts))], ["k"], axis=-1),
        helper.make_node("Mul", ["k", "scale"], ["m"]),
        helper.make_node("Add", ["m", "shift"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    shapes = {f"x{i}": [1, 5, 7, size] for i, size in enumerate(parts)}
    result = check(make_model(nodes, shapes, {"y": None}, constants), cpu)
    assert len(result.kernels) == 1


def test_whole_vector_pieces_are_copied_without_conditions(assembly, lower, make_model):
    node = helper.make_node("Concat", ["a", "b"], ["y"], axis=-1)
    model = make_model([node], {"a": [64, 32], "b": [64, 48]}, {"y": None})
    module, _ = lower(model, "avx512")
    assert "likely" in module.script() and "T.vectorized(T.int64(16))" in module.script()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dtype", [1, 6, 9])
def test_concatenation_of_every_axis_and_type(check, make_model, axis, dtype):
    nodes = [
        helper.make_node("Cast", ["a"], ["s"], to=dtype),
        helper.make_node("Cast", ["b"], ["t"], to=dtype),
        helper.make_node("Concat", ["s", "t"], ["c"], axis=axis),
        helper.make_node("Cast", ["c"], ["y"], to=1),
    ]
    check(make_model(nodes, {"a": [4, 6, 16], "b": [4, 6, 16]}, {"y": None}))


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize(
    "shape",
    [[1, 1000], [3, 197, 197], [5, 49, 49], [2, 5, 7], [6, 16], [300], [2, 3, 4, 24], [9, 3]],
)
@pytest.mark.parametrize("cpu", ["avx512", "avx2", "neon64"])
def test_softmax_of_rows_of_any_length(check, make_model, op, shape, cpu):
    node = helper.make_node(op, ["x"], ["y"], axis=-1)
    check(make_model([node], {"x": shape}, {"y": None}), cpu)


@pytest.mark.parametrize("value", [1e30, -1e30, 100.0])
def test_softmax_of_large_numbers(check, make_model, value):
    nodes = [
        helper.make_node("Mul", ["x", "zero"], ["z"]),
        helper.make_node("Add", ["z", "v"], ["a"]),
        helper.make_node("Softmax", ["a"], ["y"], axis=-1),
    ]
    row = np.linspace(value, value / 2, 37, dtype=np.float32)
    constants = {"zero": np.zeros(1, np.float32), "v": row}
    check(make_model(nodes, {"x": [3, 37]}, {"y": None}, constants))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_random_pooling(check, make_model, data):
    op = data.draw(st.sampled_from(["MaxPool", "MaxPool", "AveragePool"]))
    kernel = [data.draw(st.sampled_from([1, 2, 3, 5, 7, 9, 13])) for _ in range(2)]
    attributes = {
        "kernel_shape": kernel,
        "strides": [data.draw(st.integers(1, 3)) for _ in range(2)],
        "pads": [data.draw(st.integers(0, k // 2)) for k in kernel + kernel],
        "ceil_mode": data.draw(st.sampled_from([0, 0, 1])) if op == "MaxPool" else 0,
    }
    channels = data.draw(st.sampled_from([1, 5, 8, 24, 37]))
    weights = np.random.default_rng(0).standard_normal((channels, 3, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node(op, ["c"], ["y"], **attributes),
    ]
    size = [data.draw(st.integers(13, 20)) for _ in range(2)]
    check(make_model(nodes, {"x": [1, 3, *size]}, {"y": None}, {"w": weights}))


@pytest.mark.parametrize("dilations", [(2, 2), (1, 3)])
def test_dilated_max_pooling(check, make_model, dilations):
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=(5, 5), dilations=dilations)
    check(make_model([node], {"x": [2, 8, 17, 19]}, {"y": None}))


def test_spatial_pyramid_pooling(check, make_model, rng):
    weights = {
        "w": rng.standard_normal((16, 6, 1, 1), dtype=np.float32),
        "v": rng.standard_normal((8, 64, 1, 1), dtype=np.float32),
    }
    pools = [
        helper.make_node("MaxPool", ["c"], [f"p{k}"], kernel_shape=(k, k), pads=[k // 2] * 4)
        for k in (5, 9, 13)
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        *pools,
        helper.make_node("Concat", ["c", "p5", "p9", "p13"], ["k"], axis=1),
        helper.make_node("Conv", ["k", "v"], ["y"]),
    ]
    check(make_model(nodes, {"x": [1, 6, 13, 13]}, {"y": None}, weights), atol=1e-4)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("channels", [3, 21, 32])
def test_resize_before_the_last_transposition(check, make_model, rng, mode, channels):
    constants = {
        "w": rng.standard_normal((channels, 4, 1, 1), dtype=np.float32),
        "s": np.array([1, 1, 4, 4], np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Resize", ["c", "", "s"], ["y"], mode=mode),
    ]
    check(make_model(nodes, {"x": [1, 4, 9, 11]}, {"y": None}, constants))
