from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from tvm import te

from tvm_iovt.schedules.border import NO_BORDER, Border, bordered, fill_border, write_inside
from tvm_iovt.schedules.convolution import Conv2d, border_of, without_padding

DEPTHWISE = {"pads": [1] * 4, "group": 24}


@pytest.fixture(scope="module")
def network(make_model):
    """A pointwise convolution, and what follows on its result `r`."""

    def network(*following: Any, outputs: tuple[str, ...] = ("y",)) -> Any:
        rng = np.random.default_rng(10)
        weights = {
            name: (rng.standard_normal(shape) * 0.2).astype(np.float32)
            for name, shape in (
                ("w", (24, 20, 1, 1)),
                ("b", (24,)),
                ("deep", (24, 1, 3, 3)),
                ("wide", (24, 1, 5, 5)),
                ("dense", (32, 24, 3, 3)),
            )
        }
        nodes = [
            helper.make_node("Conv", ["x", "w", "b"], ["c"]),
            helper.make_node("Relu", ["c"], ["r"]),
            *following,
        ]
        return make_model(nodes, {"x": [2, 20, 12, 12]}, dict.fromkeys(outputs), weights)

    return network


def node(weights: str, **attributes: Any) -> Any:
    return helper.make_node("Conv", ["r", weights], ["y"], **attributes)


@pytest.mark.parametrize("cpu", ["avx512", "avx2", "neon64"])
@pytest.mark.parametrize(
    ("following", "template"),
    [
        pytest.param(node("deep", **DEPTHWISE), "window", id="3x3"),
        pytest.param(node("deep", **DEPTHWISE, strides=[2, 2]), "window", id="stride 2"),
        pytest.param(node("wide", pads=[2] * 4, group=24), "window", id="5x5"),
        pytest.param(node("deep", pads=[0, 1, 2, 0], group=24), "window", id="uneven"),
        pytest.param(
            node("dense", pads=[1] * 4, strides=[2, 2]), "contraction", id="dense, stride 2"
        ),
    ],
)
def test_the_kernel_before_writes_the_border(check, network, cpu, following, template):
    result = check(network(following), cpu)
    assert template in result.templates
    # Nothing copies the image, as a kernel of its own or inside one.
    assert not any(kernel.startswith("bordered") for kernel in result.kernels)
    assert any("bordered" in kernel for kernel in result.kernels)
    assert '"padded"' not in result.module.script()


@pytest.mark.parametrize(
    ("following", "outputs"),
    [
        pytest.param([node("deep", **DEPTHWISE)], ("y", "r"), id="the image is an output"),
        pytest.param(
            [
                helper.make_node("Conv", ["r", "deep"], ["d"], **DEPTHWISE),
                helper.make_node("Add", ["d", "r"], ["y"]),
            ],
            ("y",),
            id="two consumers",
        ),
        pytest.param(
            [
                helper.make_node("Conv", ["r", "deep"], ["d"], **DEPTHWISE),
                helper.make_node("Conv", ["r", "wide"], ["y"], pads=[2] * 4, group=24),
            ],
            ("d", "y"),
            id="two borders",
        ),
    ],
)
def test_an_image_with_several_uses_is_padded_by_each(check, network, following, outputs):
    result = check(network(*following, outputs=outputs))
    assert not any("bordered" in kernel for kernel in result.kernels)
    assert '"padded"' in result.module.script()


def _marked(shape: tuple[int, ...], border: Border, steps: int = 1) -> Any:
    """A function of `steps` element-wise steps, then the marker."""

    def step(source: Any) -> Any:
        return te.compute(shape, lambda *at: source(*at) * 2.0 + 1.0, name="step")

    data = te.placeholder(shape, name="data")
    image = data
    for _ in range(steps):
        image = step(image)
    return te.create_prim_func([data, bordered(image, border)])


@settings(deadline=None, max_examples=12, derandomize=True)
@given(
    st.tuples(*[st.integers(0, 3)] * 4).filter(any),
    st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 4), st.integers(1, 20)),
    st.sampled_from([4, 16]),
    st.integers(1, 2),
)
def test_the_border_is_zero_and_the_inside_is_the_image(host, sides, shape, lanes, steps):
    border = Border(**dict(zip(("top", "left", "bottom", "right"), sides, strict=True)))
    found = write_inside(_marked(shape, border, steps))
    assert found is not None and found[1] == border
    function = tvm.compile(tvm.IRModule({"main": fill_border(found[0], border, lanes)}), host)
    image = np.random.default_rng(11).standard_normal(shape, dtype=np.float32)
    batch, rows, cols, channels = shape
    padded = (batch, rows + border.top + border.bottom, cols + border.left + border.right, channels)
    result = tvm.runtime.tensor(np.full(padded, np.nan, np.float32))
    function["main"](tvm.runtime.tensor(image), result)
    expected = image
    for _ in range(steps):
        expected = expected * 2 + 1
    pads = ((0, 0), (border.top, border.bottom), (border.left, border.right), (0, 0))
    np.testing.assert_allclose(result.numpy(), np.pad(expected, pads), rtol=1e-6)


def test_functions_that_cannot_write_inside_are_left():
    border = Border(top=1, left=1, bottom=1, right=1)
    assert write_inside(_marked((1, 2, 2, 4), border, steps=0)) is None  # no step before
    data = te.placeholder((1, 2, 2, 4), name="data")
    doubled = te.compute((1, 2, 2, 4), lambda *at: data(*at) * 2.0, name="doubled")
    assert write_inside(te.create_prim_func([data, doubled])) is None  # no marker
    k = te.reduce_axis((0, 4), "k")
    total = te.compute((1, 2, 2, 4), lambda n, h, w, c: te.sum(data(n, h, w, k), axis=[k]))
    assert write_inside(te.create_prim_func([data, bordered(total, border)])) is None  # a sum


@given(
    st.integers(1, 30),
    st.integers(1, 5),
    st.integers(1, 3),
    st.tuples(*[st.integers(0, 3)] * 4),
    st.integers(0, 6),
)
def test_a_convolution_over_the_bordered_image_is_the_same(size, kernel, stride, padding, margin):
    conv = Conv2d(
        batch=1,
        in_size=(size, size),
        in_channels=4,
        out_channels=4,
        kernel=(kernel, kernel),
        strides=(stride, stride),
        padding=padding,
        dilation=(1, 1),
        groups=1,
    )
    rows, cols = (max(1, extent) + margin for extent in conv.out_size)
    border = border_of(conv, rows, cols)
    assert (border.top, border.left) == padding[:2]
    inside = without_padding(conv, border)
    assert inside.padding[:2] == (0, 0)
    assert inside.out_size == conv.out_size
    height, width = conv.extent_read(rows, cols)
    assert inside.in_size[0] >= height and inside.in_size[1] >= width


def test_valid_convolutions_need_no_border():
    conv = Conv2d(
        batch=1,
        in_size=(9, 9),
        in_channels=4,
        out_channels=4,
        kernel=(3, 3),
        strides=(1, 1),
        padding=(0, 0, 0, 0),
        dilation=(1, 1),
        groups=1,
    )
    assert border_of(conv, *conv.out_size) == NO_BORDER
