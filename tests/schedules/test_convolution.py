from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper


@pytest.fixture(scope="session")
def conv_model(make_model):
    def conv_model(in_channels, out_channels, size, kernel, *, tail=(), batch=1, **attributes):
        rng = np.random.default_rng(2)
        shape = (out_channels, in_channels // attributes.get("group", 1), *kernel)
        weights = {
            "w": rng.standard_normal(shape, dtype=np.float32) * 0.2,
            "b": rng.standard_normal(out_channels, dtype=np.float32),
        }
        nodes = [helper.make_node("Conv", ["x", "w", "b"], ["t0"], **attributes)]
        for i, op in enumerate(tail):
            nodes.append(helper.make_node(op, [f"t{i}"], [f"t{i + 1}"]))
        shapes = {"x": [batch, in_channels, *size]}
        return make_model(nodes, shapes, {f"t{len(tail)}": None}, weights)

    return conv_model


@pytest.mark.parametrize(
    ("in_channels", "out_channels", "size", "kernel", "options"),
    [
        (16, 32, (14, 14), (3, 3), {"pads": (1, 1, 1, 1)}),
        (5, 7, (9, 11), (3, 3), {"pads": (1, 1, 1, 1), "strides": (2, 2)}),
        (3, 24, (17, 19), (3, 3), {"pads": (0, 0, 1, 1), "strides": (2, 2)}),
        (8, 40, (13, 13), (5, 3), {"pads": (2, 0, 1, 2), "strides": (1, 2)}),
        (6, 16, (12, 15), (3, 3), {"pads": (2, 2, 2, 2), "dilations": (2, 2)}),
        (20, 33, (17, 23), (1, 1), {}),
        (24, 16, (8, 8), (1, 1), {"strides": (2, 2)}),
        (16, 48, (1, 1), (1, 1), {}),
        (16, 48, (2, 2), (1, 1), {"batch": 3}),
        (12, 1, (10, 10), (3, 3), {"pads": (1, 1, 1, 1)}),
        (12, 24, (10, 10), (3, 3), {"pads": (1, 1, 1, 1), "group": 3}),
        (32, 64, (6, 6), (3, 3), {"pads": (1, 1, 1, 1), "group": 2}),
        (12, 20, (7, 7), (1, 1), {"group": 4}),
        (3, 64, (32, 32), (7, 7), {"pads": (3, 3, 3, 3), "strides": (2, 2)}),
        (8, 16, (31, 37), (3, 1), {"pads": (1, 0, 1, 0), "batch": 2}),
    ],
)
def test_convolution_matches_reference(
    check, conv_model, in_channels, out_channels, size, kernel, options
):
    result = check(conv_model(in_channels, out_channels, size, kernel, **options))
    assert any(t.startswith(("contraction", "winograd")) for t in result.templates)


@pytest.mark.parametrize(
    ("channels", "size", "kernel", "options"),
    [
        (32, (14, 14), (3, 3), {"pads": (1, 1, 1, 1)}),
        (24, (15, 17), (3, 3), {"pads": (1, 1, 1, 1), "strides": (2, 2)}),
        (5, (9, 9), (5, 5), {"pads": (2, 2, 2, 2)}),
        (20, (11, 13), (5, 5), {"pads": (1, 2, 2, 1), "strides": (2, 1)}),
        (48, (12, 12), (3, 3), {"pads": (2, 2, 2, 2), "dilations": (2, 2)}),
        (16, (8, 8), (3, 3), {}),
        (144, (10, 10), (7, 7), {"pads": (3, 3, 3, 3)}),
    ],
)
def test_depthwise_convolution_matches_reference(
    check, conv_model, channels, size, kernel, options
):
    result = check(conv_model(channels, channels, size, kernel, group=channels, **options))
    assert "window" in result.templates


def test_depthwise_convolution_with_multiplier(check, conv_model):
    check(conv_model(8, 16, (9, 9), (3, 3), pads=(1, 1, 1, 1), group=8))


@pytest.mark.parametrize("cpu", ["avx512", "avx2", "sse", "neon64", "neon32"])
def test_every_vector_width_computes_the_same(check, conv_model, cpu):
    check(conv_model(12, 20, (13, 19), (3, 3), pads=(1, 1, 1, 1), tail=("Relu",)), cpu)
    check(conv_model(12, 12, (13, 19), (3, 3), pads=(1, 1, 1, 1), group=12), cpu)


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ((2, 2), {"strides": (2, 2)}),
        ((3, 3), {"strides": (2, 2), "pads": (1, 1, 1, 1), "output_padding": (1, 1)}),
        ((4, 4), {"strides": (2, 2), "pads": (1, 1, 1, 1)}),
        ((3, 3), {"strides": (1, 1)}),
        ((3, 2), {"strides": (2, 3)}),
        ((2, 2), {"strides": (2, 2), "group": 2}),
        ((1, 1), {"pads": (1, 1, 1, 1)}),
    ],
)
def test_transposed_convolution_matches_reference(check, make_model, rng, kernel, options):
    group = options.get("group", 1)
    weights = {"w": rng.standard_normal((6, 10 // group, *kernel), dtype=np.float32)}
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], **options)
    check(make_model([node], {"x": [1, 6, 7, 9]}, {"y": None}, weights))


@pytest.mark.parametrize(("channels", "group"), [(32, 8), (64, 32), (48, 2), (30, 10), (24, 12)])
def test_grouped_convolution_matches_reference(check, conv_model, channels, group):
    result = check(conv_model(channels, channels, (9, 10), (3, 3), group=group, pads=(1, 1, 1, 1)))
    assert any(t.startswith(("contraction", "winograd")) for t in result.templates)


def test_small_groups_fuse_their_epilogue(check, conv_model):
    result = check(conv_model(32, 32, (9, 10), (3, 3), group=8, tail=("Relu",)))
    assert "contraction" in result.templates


def test_weights_that_are_inputs_still_work(check, make_model):
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=(1, 1, 1, 1))
    check(make_model([node], {"x": [1, 8, 9, 9], "w": [12, 8, 3, 3]}, {"y": None}))


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_random_convolutions(check, conv_model, data):
    kernel = (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4)))
    dilations = (data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2)))
    group = data.draw(st.sampled_from([1, 1, 2, 3]))
    model = conv_model(
        group * data.draw(st.integers(1, 9)),
        group * data.draw(st.integers(1, 40)),
        (data.draw(st.integers(8, 30)), data.draw(st.integers(8, 30))),
        kernel,
        strides=(data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))),
        pads=tuple(data.draw(st.integers(0, 2)) for _ in range(4)),
        dilations=dilations,
        group=group,
    )
    check(model, data.draw(st.sampled_from(["avx512", "avx2", "neon64"])))
