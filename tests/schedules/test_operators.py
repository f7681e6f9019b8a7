from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

POOLS = [
    ("MaxPool", {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
    ("MaxPool", {"kernel_shape": (2, 2), "strides": (2, 2)}),
    ("MaxPool", {"kernel_shape": (5, 5), "pads": (2, 2, 2, 2)}),
    ("AveragePool", {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
    ("AveragePool", {"kernel_shape": (2, 3), "pads": (1, 0, 0, 1), "count_include_pad": 1}),
    ("GlobalAveragePool", {}),
    ("GlobalMaxPool", {}),
]


@pytest.fixture(scope="session")
def after_conv(make_model):
    """A 1x1 convolution to 24 channels, then the given nodes on `c`; the result is `y`."""

    def after_conv(nodes, channels=24, constants=None, outputs=("y",)):
        rng = np.random.default_rng(3)
        weights = {"w": rng.standard_normal((channels, 6, 1, 1), dtype=np.float32)}
        conv = helper.make_node("Conv", ["x", "w"], ["c"])
        return make_model(
            [conv, *nodes],
            {"x": [1, 6, 14, 18]},
            dict.fromkeys(outputs),
            {**weights, **(constants or {})},
        )

    return after_conv


@pytest.mark.parametrize(("op", "attributes"), POOLS)
@pytest.mark.parametrize("channels", [24, 5])
def test_pooling_inside_a_channels_last_network(check, after_conv, op, attributes, channels):
    check(after_conv([helper.make_node(op, ["c"], ["y"], **attributes)], channels))


@pytest.mark.parametrize(("op", "attributes"), POOLS)
def test_pooling_of_the_input(check, make_model, op, attributes):
    node = helper.make_node(op, ["x"], ["y"], **attributes)
    check(make_model([node], {"x": [1, 8, 12, 16]}, {"y": None}))


@pytest.mark.parametrize(
    "op", ["Relu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "LeakyRelu", "Exp", "Elu", "Erf"]
)
def test_activation_is_fused_into_the_convolution(check, after_conv, op):
    result = check(after_conv([helper.make_node(op, ["c"], ["y"])]))
    assert len(result.kernels) == 3  # the convolution, and transpositions at both ends


def test_silu_residual_and_bias_are_one_kernel(check, make_model, rng):
    weights = {
        "w": rng.standard_normal((16, 16, 3, 3), dtype=np.float32) * 0.1,
        "b": rng.standard_normal(16, dtype=np.float32),
    }
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Conv", ["r", "w", "b"], ["c"], pads=(1, 1, 1, 1)),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("Mul", ["c", "s"], ["m"]),
        helper.make_node("Add", ["m", "r"], ["y"]),
    ]
    result = check(make_model(nodes, {"x": [1, 16, 12, 12]}, {"y": None}, weights))
    assert sum("conv2d" in k for k in result.kernels) == 1
    assert len(result.kernels) <= 4


def test_clip_becomes_part_of_the_kernel(check, after_conv):
    bounds = {"lo": np.float32(0).reshape(()), "hi": np.float32(6).reshape(())}
    node = helper.make_node("Clip", ["c", "lo", "hi"], ["y"])
    result = check(after_conv([node], constants=bounds))
    assert len(result.kernels) == 3


def test_squeeze_and_excitation(check, make_model, rng):
    weights = {
        "w": rng.standard_normal((20, 6, 1, 1), dtype=np.float32),
        "down": rng.standard_normal((5, 20, 1, 1), dtype=np.float32),
        "up": rng.standard_normal((20, 5, 1, 1), dtype=np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["g"]),
        helper.make_node("Conv", ["g", "down"], ["d"]),
        helper.make_node("Relu", ["d"], ["r"]),
        helper.make_node("Conv", ["r", "up"], ["u"]),
        helper.make_node("HardSigmoid", ["u"], ["s"]),
        helper.make_node("Mul", ["c", "s"], ["y"]),
    ]
    check(make_model(nodes, {"x": [1, 6, 10, 10]}, {"y": None}, weights))


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_concatenation_and_split(check, after_conv, axis):
    nodes = [
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Concat", ["c", "r"], ["k"], axis=axis),
        helper.make_node("Split", ["k"], ["p", "q"], axis=axis),
        helper.make_node("Add", ["p", "q"], ["y"]),
    ]
    check(after_conv(nodes))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize(check, after_conv, mode):
    scales = {"s": np.array([1, 1, 2, 2], np.float32)}
    attributes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    node = helper.make_node("Resize", ["c", "", "s"], ["y"], mode=mode, **attributes)
    check(after_conv([node], constants=scales))


def test_padding_keeps_the_channels_last(check, after_conv):
    # Not zero: ONNX Runtime fuses padding with zeros into the pooling, which ignores the padding.
    pads = {"p": np.array([0, 0, 1, 2, 0, 0, 0, 1], np.int64), "v": np.float32(1.5).reshape(())}
    nodes = [
        helper.make_node("Pad", ["c", "p", "v"], ["q"]),
        helper.make_node("MaxPool", ["q"], ["y"], kernel_shape=(3, 3), strides=(2, 2)),
    ]
    result = check(after_conv(nodes, constants=pads))
    assert sum("transpose" in k for k in result.kernels) == 2  # the input and the output


def test_channel_shuffle(check, after_conv):
    shapes = {
        "split": np.array([1, 2, 12, 14, 18], np.int64),
        "joined": np.array([1, 24, 14, 18], np.int64),
    }
    nodes = [
        helper.make_node("Reshape", ["c", "split"], ["s"]),
        helper.make_node("Transpose", ["s"], ["t"], perm=(0, 2, 1, 3, 4)),
        helper.make_node("Reshape", ["t", "joined"], ["j"]),
        helper.make_node("Relu", ["j"], ["y"]),
    ]
    check(after_conv(nodes, constants=shapes))


def test_prelu_and_batch_normalisation(check, after_conv, rng):
    constants = {
        "slope": rng.random((24, 1, 1), dtype=np.float32),
        **{k: rng.random(24, dtype=np.float32) for k in ("scale", "bias", "mean", "var")},
    }
    nodes = [
        helper.make_node("PRelu", ["c", "slope"], ["p"]),
        helper.make_node("BatchNormalization", ["p", "scale", "bias", "mean", "var"], ["y"]),
    ]
    check(after_conv(nodes, constants=constants))


@pytest.mark.parametrize("axis", [1, -1])
def test_softmax(check, after_conv, axis):
    check(after_conv([helper.make_node("Softmax", ["c"], ["y"], axis=axis)]))


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax", "ReduceSum"])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reduction(check, after_conv, op, keepdims):
    if op == "ReduceSum":
        node = helper.make_node(op, ["c", "axes"], ["y"], keepdims=keepdims)
        check(after_conv([node], constants={"axes": np.array([2, 3], np.int64)}))
    else:
        check(after_conv([helper.make_node(op, ["c"], ["y"], axes=(2, 3), keepdims=keepdims)]))


@pytest.mark.parametrize("axes", [(1,), (3,), (1, 2, 3)])
def test_mean_over_other_axes(check, after_conv, axes):
    check(after_conv([helper.make_node("ReduceMean", ["c"], ["y"], axes=axes, keepdims=0)]))


@pytest.mark.parametrize("shape", [(1, 40), (7, 40), (33, 40), (2, 5, 40)])
@pytest.mark.parametrize("features", [10, 32, 100])
def test_matrix_product_with_weights(check, make_model, rng, shape, features):
    weights = {
        "w": rng.standard_normal((shape[-1], features), dtype=np.float32),
        "b": rng.standard_normal(features, dtype=np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["y"]),
    ]
    result = check(make_model(nodes, {"x": list(shape)}, {"y": None}, weights))
    assert result.templates == ["contraction"]


def test_matrix_product_of_activations(check, make_model):
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    check(make_model([node], {"a": [2, 9, 16], "b": [2, 16, 21]}, {"y": None}))


def test_classifier_head(check, after_conv, rng):
    weights = {
        "fc": rng.standard_normal((24, 10), dtype=np.float32),
        "shape": np.array([1, 24], np.int64),
    }
    nodes = [
        helper.make_node("GlobalAveragePool", ["c"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "fc"], ["m"]),
        helper.make_node("Softmax", ["m"], ["y"], axis=1),
    ]
    check(after_conv(nodes, constants=weights))


def test_convolution_result_read_twice_as_output(check, after_conv):
    nodes = [helper.make_node("Relu", ["c"], ["y"]), helper.make_node("Neg", ["c"], ["z"])]
    check(after_conv(nodes, outputs=("y", "z", "c")))


def test_quantised_tensors(check, after_conv):
    constants = {"scale": np.float32(0.05).reshape(()), "zero": np.int8(3).reshape(())}
    nodes = [
        helper.make_node("QuantizeLinear", ["c", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Relu", ["d"], ["y"]),
    ]
    check(after_conv(nodes, constants=constants), atol=0.051)


def test_integers_take_the_generic_path(check, make_model):
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=6),
        helper.make_node("Mul", ["i", "i"], ["m"]),
        helper.make_node("Cast", ["m"], ["y"], to=1),
    ]
    check(make_model(nodes, {"x": [3, 5, 7]}, {"y": None}))


def test_half_precision_is_correct(check, make_model, rng):
    weights = {"w": rng.standard_normal((8, 4, 3, 3)).astype(np.float16)}
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=10),
        helper.make_node("Conv", ["h", "w"], ["c"], pads=(1, 1, 1, 1)),
        helper.make_node("Cast", ["c"], ["y"], to=1),
    ]
    check(make_model(nodes, {"x": [1, 4, 8, 8]}, {"y": None}, weights), rtol=1e-2, atol=5e-2)


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax"])
@pytest.mark.parametrize("shape", [[7, 1000], [3, 5, 96], [1, 4096]])
def test_reduction_of_the_last_axis(check, make_model, op, shape):
    node = helper.make_node(op, ["x"], ["y"], axes=(-1,), keepdims=0)
    check(make_model([node], {"x": shape}, {"y": None}))


@pytest.mark.parametrize("shape", [[1, 1000], [12, 64], [5, 33]])
def test_softmax_of_rows(check, make_model, shape):
    node = helper.make_node("Softmax", ["x"], ["y"], axis=-1)
    check(make_model([node], {"x": shape}, {"y": None}))


def test_layer_normalisation(check, make_model, rng):
    weights = {k: rng.random(64, dtype=np.float32) for k in ("scale", "bias")}
    node = helper.make_node("LayerNormalization", ["x", "scale", "bias"], ["y"])
    check(make_model([node], {"x": [2, 17, 64]}, {"y": None}, weights))


@pytest.mark.parametrize(
    ("op", "attributes", "constants"),
    [
        ("DepthToSpace", {"blocksize": 2}, {}),
        ("SpaceToDepth", {"blocksize": 2}, {}),
        (
            "InstanceNormalization",
            {},
            {"s": np.ones(24, np.float32), "b": np.zeros(24, np.float32)},
        ),
        ("Transpose", {"perm": (0, 2, 3, 1)}, {}),
        ("Transpose", {"perm": (0, 3, 2, 1)}, {}),
        ("LogSoftmax", {"axis": 1}, {}),
        ("Softplus", {}, {}),
        ("LRN", {"size": 5}, {}),
        (
            "Slice",
            {},
            {"starts": np.array([2, 3]), "ends": np.array([20, 12]), "axes": np.array([1, 3])},
        ),
        ("Squeeze", {}, {"axes": np.array([0])}),
        ("Expand", {}, {"shape": np.array([2, 24, 14, 18])}),
        ("Tile", {}, {"repeats": np.array([1, 2, 1, 2])}),
        ("Reshape", {}, {"shape": np.array([1, 24, 252])}),
        ("Pow", {}, {"p": np.array(2.0, np.float32)}),
        ("Gather", {"axis": 1}, {"i": np.array([3, 1, 7])}),
        ("Max", {}, {"m": np.linspace(-1, 1, 24, dtype=np.float32).reshape(1, 24, 1, 1)}),
        ("Add", {}, {"m": np.linspace(-1, 1, 18, dtype=np.float32)}),
        ("Mul", {}, {"m": np.linspace(-1, 1, 252, dtype=np.float32).reshape(14, 18)}),
        ("GlobalLpPool", {}, {}),
    ],
)
def test_operators_after_a_convolution(check, after_conv, op, attributes, constants):
    node = helper.make_node(op, ["c", *constants], ["y"], **attributes)
    check(after_conv([node], constants=constants), atol=1e-4)


def test_attention(check, make_model, rng):
    weights = {k: rng.standard_normal((32, 32), dtype=np.float32) * 0.2 for k in ("q", "k", "v")}
    weights["scale"] = np.array(0.1767767, np.float32)
    nodes = [
        *(helper.make_node("MatMul", ["x", w], [f"{w}x"]) for w in ("q", "k", "v")),
        helper.make_node("Transpose", ["kx"], ["kt"], perm=(0, 2, 1)),
        helper.make_node("MatMul", ["qx", "kt"], ["a"]),
        helper.make_node("Mul", ["a", "scale"], ["b"]),
        helper.make_node("Softmax", ["b"], ["s"], axis=-1),
        helper.make_node("MatMul", ["s", "vx"], ["o"]),
        helper.make_node("Tanh", ["o"], ["y"]),
    ]
    check(make_model(nodes, {"x": [2, 50, 32]}, {"y": None}, weights))


@pytest.mark.parametrize("shape", [[2, 6, 40], [1, 3, 6, 8, 10]])
def test_convolutions_of_other_ranks(check, make_model, rng, shape):
    rank = len(shape) - 2
    weights = {"w": rng.standard_normal((12, shape[1], *[3] * rank), dtype=np.float32)}
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 2 * rank)
    check(make_model([node], {"x": shape}, {"y": None}, weights), atol=1e-4)


@pytest.mark.parametrize(
    "op",
    [
        *("Abs", "Acos", "Asin", "Atan", "Ceil", "Cos", "Cosh", "Erf", "Exp", "Floor", "Log"),
        *("Mish", "Neg", "Reciprocal", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Sinh"),
        *("Softsign", "Sqrt", "Tan", "Tanh", "ThresholdedRelu"),
    ],
)
def test_vectorised_functions(check, make_model, op):
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"]),  # inside every domain of definition
        helper.make_node(op, ["s"], ["y"]),
    ]
    check(make_model(nodes, {"x": [4, 64]}, {"y": None}, opset=18))


@pytest.mark.parametrize("op", ["Add", "Div", "Max", "Min", "Mod", "Mul", "Pow", "Sub"])
def test_vectorised_arithmetic(check, make_model, op):
    attributes = {"fmod": 1} if op == "Mod" else {}
    nodes = [
        helper.make_node("Sigmoid", ["a"], ["s"]),
        helper.make_node("Sigmoid", ["b"], ["t"]),
        helper.make_node(op, ["s", "t"], ["y"], **attributes),
    ]
    check(make_model(nodes, {"a": [4, 64], "b": [4, 64]}, {"y": None}))


@pytest.mark.parametrize("op", ["Greater", "Less", "Equal", "And", "Or"])
def test_vectorised_comparisons(check, make_model, op):
    kind = 9 if op in ("And", "Or") else 1
    nodes = [
        helper.make_node("Cast", ["a"], ["s"], to=kind),
        helper.make_node("Cast", ["b"], ["t"], to=kind),
        helper.make_node(op, ["s", "t"], ["c"]),
        helper.make_node("Cast", ["c"], ["y"], to=1),
    ]
    check(make_model(nodes, {"a": [4, 64], "b": [4, 64]}, {"y": None}))


@pytest.mark.parametrize("value", [-1000.0, -88.0, -10.0, 0.0, 10.0, 88.0, 1000.0, np.nan])
def test_sigmoid_at_the_ends_of_its_range(check, make_model, value):
    nodes = [
        helper.make_node("Mul", ["x", "zero"], ["z"]),
        helper.make_node("Add", ["z", "v"], ["a"]),
        helper.make_node("Sigmoid", ["a"], ["y"]),
    ]
    constants = {"zero": np.zeros(1, np.float32), "v": np.array([value], np.float32)}
    check(make_model(nodes, {"x": [2, 32]}, {"y": None}, constants))
