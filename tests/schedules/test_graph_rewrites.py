from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tvm_iovt.schedules.views import regrouped, segments


@pytest.fixture(scope="session")
def image_network(make_model):
    """A convolution from 6 to `channels`, the nodes from `c` to `z`, and a convolution to `y`."""

    def image_network(nodes, constants=None, channels=24, out_channels=None, size=(10, 14)):
        rng = np.random.default_rng(7)
        last = out_channels or channels
        weights = {
            "w": rng.standard_normal((channels, 6, 1, 1), dtype=np.float32),
            "v": rng.standard_normal((8, last, 1, 1), dtype=np.float32),
        }
        return make_model(
            [
                helper.make_node("Conv", ["x", "w"], ["c"]),
                *nodes,
                helper.make_node("Conv", ["z", "v"], ["y"]),
            ],
            {"x": [1, 6, *size]},
            {"y": None},
            {**weights, **(constants or {})},
        )

    return image_network


def _transposes(result):
    return [k for k in result.kernels if "transpose" in k]


def test_batch_norm_behind_a_concatenation_is_one_scale_and_shift(check, image_network, rng):
    constants = {k: rng.random(48, dtype=np.float32) + 0.5 for k in ("s", "b", "m", "v2")}
    nodes = [
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Concat", ["c", "r"], ["k"], axis=1),
        helper.make_node("BatchNormalization", ["k", "s", "b", "m", "v2"], ["n"]),
        helper.make_node("Relu", ["n"], ["z"]),
    ]
    result = check(image_network(nodes, constants, out_channels=48), atol=1e-4)
    kernel = next(k for k in result.kernels if "concatenate" in k)
    assert "divide" not in kernel and "subtract" not in kernel
    assert kernel.count("multiply") == 1 and kernel.count("add") == 1
    assert len(_transposes(result)) <= 2  # the input and the output


@pytest.mark.parametrize("op", ["Floor", "Round", "Ceil", "Sign"])
def test_divisions_before_a_step_stay_exact(check, make_model, op):
    nodes = [
        helper.make_node("Round", ["x"], ["i"]),
        helper.make_node("Div", ["i", "d"], ["q"]),
        helper.make_node(op, ["q"], ["y"]),
    ]
    check(make_model(nodes, {"x": [64, 64]}, {"y": None}, {"d": np.array(3, np.float32)}), atol=0)


@pytest.mark.parametrize("steps", [("Sub", "Div", "Mul", "Add"), ("Div", "Add", "Div"), ("Mul",)])
def test_constant_arithmetic_keeps_its_value(check, make_model, rng, steps):
    constants = {f"k{i}": rng.random((1, 33), dtype=np.float32) + 0.5 for i in range(len(steps))}
    names = ["x", *(f"t{i}" for i in range(len(steps) - 1)), "y"]
    nodes = [
        helper.make_node(op, [names[i], f"k{i}"], [names[i + 1]]) for i, op in enumerate(steps)
    ]
    check(make_model(nodes, {"x": [5, 33]}, {"y": None}, constants))


def test_a_chain_with_a_second_reader(check, make_model):
    nodes = [
        helper.make_node("Mul", ["x", "k"], ["a"]),
        helper.make_node("Add", ["a", "k"], ["b"]),
        helper.make_node("Sub", ["k", "b"], ["c"]),
        helper.make_node("Add", ["a", "c"], ["y"]),
    ]
    check(make_model(nodes, {"x": [5, 33]}, {"y": None, "b": None}, {"k": np.array([1.7], "f4")}))


def test_activation_behind_a_reshaped_product_is_fused(check, make_model, rng):
    weights = {
        "w": rng.standard_normal((24, 48), dtype=np.float32),
        "b": rng.standard_normal(48, dtype=np.float32),
        "flat": np.array([26, 24]),
        "back": np.array([2, 13, 48]),
        "root": np.array(2**0.5, np.float32),
        "one": np.array(1, np.float32),
        "half": np.array(0.5, np.float32),
    }
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["m"]),
        helper.make_node("Reshape", ["m", "back"], ["r"]),
        helper.make_node("Add", ["r", "b"], ["a"]),
        helper.make_node("Div", ["a", "root"], ["d"]),
        helper.make_node("Erf", ["d"], ["e"]),
        helper.make_node("Add", ["e", "one"], ["g"]),
        helper.make_node("Mul", ["a", "g"], ["h"]),
        helper.make_node("Mul", ["h", "half"], ["i"]),
        helper.make_node("Add", ["i", "skip"], ["y"]),
    ]
    shapes = {"x": [2, 13, 24], "skip": [2, 13, 48]}
    result = check(make_model(nodes, shapes, {"y": None}, weights))
    computing = [k for k in result.kernels if not k.startswith("reshape")]
    assert len(computing) == 1 and "matmul" in computing[0] and "erf" in computing[0]


@pytest.mark.parametrize("shape", [(1, 13, 1), (2, 1, 48), (2, 13, 48), (48,), (1,)])
def test_operands_of_every_broadcast_behind_a_reshape(check, make_model, rng, shape):
    weights = {
        "w": rng.standard_normal((24, 48), dtype=np.float32),
        "k": rng.standard_normal(shape, dtype=np.float32),
        "back": np.array([2, 13, 48]),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Reshape", ["m", "back"], ["r"]),
        helper.make_node("Mul", ["r", "k"], ["y"]),
    ]
    check(make_model(nodes, {"x": [26, 24]}, {"y": None}, weights))


@pytest.mark.parametrize(
    ("form", "scale"),  # ONNX Runtime's own exponential overflows in the last form
    [("Mish", 1.0), ("Mish", 100.0), ("Softplus", 1.0), ("Softplus", 100.0), ("log", 1.0)],
)
def test_mish_needs_no_logarithm(check, make_model, form, scale):
    nodes = {
        "Mish": [helper.make_node("Mish", ["a"], ["y"])],
        "Softplus": [
            helper.make_node("Softplus", ["a"], ["s"]),
            helper.make_node("Tanh", ["s"], ["t"]),
            helper.make_node("Mul", ["a", "t"], ["y"]),
        ],
        "log": [
            helper.make_node("Exp", ["a"], ["e"]),
            helper.make_node("Add", ["e", "one"], ["p"]),
            helper.make_node("Log", ["p"], ["s"]),
            helper.make_node("Tanh", ["s"], ["y"]),
        ],
    }[form]
    constants = {"one": np.array(1, np.float32), "scale": np.array(scale, np.float32)}
    first = helper.make_node("Mul", ["x", "scale"], ["a"])
    model = make_model([first, *nodes], {"x": [8, 48]}, {"y": None}, constants, opset=18)
    result = check(model)
    assert not any("log" in k for k in result.kernels)


@pytest.mark.parametrize("groups", [2, 3, 4])
def test_channel_shuffle_stays_channels_last(check, image_network, groups):
    constants = {
        "split": np.array([1, groups, 24 // groups, 10, 14]),
        "joined": np.array([1, 24, 10, 14]),
    }
    nodes = [
        helper.make_node("Reshape", ["c", "split"], ["s"]),
        helper.make_node("Transpose", ["s"], ["t"], perm=(0, 2, 1, 3, 4)),
        helper.make_node("Reshape", ["t", "joined"], ["z"]),
    ]
    result = check(image_network(nodes, constants), atol=1e-4)
    assert any("interleave" in k for k in result.kernels)
    assert len(_transposes(result)) <= 2


@pytest.mark.parametrize(
    ("op", "attributes", "channels"),
    [
        ("DepthToSpace", {"blocksize": 2}, 6),
        ("DepthToSpace", {"blocksize": 2, "mode": "CRD"}, 6),
        ("SpaceToDepth", {"blocksize": 2}, 96),
    ],
)
def test_pixel_shuffles_stay_channels_last(check, image_network, op, attributes, channels):
    node = helper.make_node(op, ["c"], ["z"], **attributes)
    result = check(image_network([node], out_channels=channels), atol=1e-4)
    assert len(_transposes(result)) <= 2


def test_image_to_sequence_and_back_moves_nothing(check, image_network, rng):
    constants = {
        "flat": np.array([1, 24, 140]),
        "image": np.array([1, 24, 10, 14]),
        "g": rng.random(24, dtype=np.float32),
        "b": rng.random(24, dtype=np.float32),
    }
    nodes = [
        helper.make_node("Reshape", ["c", "flat"], ["f"]),
        helper.make_node("Transpose", ["f"], ["s"], perm=(0, 2, 1)),
        helper.make_node("LayerNormalization", ["s", "g", "b"], ["n"]),
        helper.make_node("Transpose", ["n"], ["t"], perm=(0, 2, 1)),
        helper.make_node("Reshape", ["t", "image"], ["z"]),
    ]
    result = check(image_network(nodes, constants), atol=1e-4)
    assert len(_transposes(result)) <= 2


def test_windows_of_an_image(check, image_network):
    constants = {
        "split": np.array([1, 24, 2, 5, 2, 7]),
        "windows": np.array([4, 24, 5, 7]),
        "again": np.array([1, 24, 10, 14]),
    }
    nodes = [
        helper.make_node("Reshape", ["c", "split"], ["s"]),
        helper.make_node("Transpose", ["s"], ["t"], perm=(0, 2, 4, 1, 3, 5)),
        helper.make_node("Reshape", ["t", "windows"], ["v1"]),
        helper.make_node("Softmax", ["v1"], ["v2"], axis=1),
        helper.make_node("Reshape", ["v2", "again"], ["z"]),
    ]
    check(image_network(nodes, constants), atol=1e-4)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((4, 6), (2, 2, 6), [((0,), (0, 1)), ((1,), (2,))]),
        ((4, 6), (3, 8), [((0, 1), (0, 1))]),
        ((2, 3, 4), (2, 12), [((0,), (0,)), ((1, 2), (1,))]),
        ((3,), (2,), None),
        ((0, 2), (0,), None),
    ],
)
def test_segments_of_a_reshape(before, after, expected):
    found = segments(before, after)
    assert (found and [(s.before, s.after) for s in found]) == expected


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_regrouping_describes_the_reshape(data):
    shape = data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4))
    order = tuple(data.draw(st.permutations(range(len(shape)))))
    source = np.arange(np.prod(shape)).reshape(shape)
    tensor = source.transpose(order)
    after, left = [], source.size
    while left > 1:
        after.append(data.draw(st.sampled_from([d for d in range(2, left + 1) if left % d == 0])))
        left //= after[-1]
    found = regrouped(order, tensor.shape, tuple(after))
    if found is not None:
        assert np.array_equal(source.reshape(found[0]).transpose(found[1]), tensor.reshape(after))
