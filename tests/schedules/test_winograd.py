from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from tvm_iovt import host_cpu
from tvm_iovt.schedules.convolution import Conv2d
from tvm_iovt.schedules.selection import Selector
from tvm_iovt.schedules.tiles import Tile
from tvm_iovt.schedules.winograd import WinogradPlan, pack_winograd_weights
from tvm_iovt.schedules.winograd_plan import MAX_ERROR, ranked_plans
from tvm_iovt.schedules.winograd_transform import axis, matrix

TOLERANCE = {"rtol": 1e-5, "atol": 5 * MAX_ERROR}
"""Outputs are about normal, none beyond 5; plans are held to `MAX_ERROR` of the largest."""


def network(
    make_model: Callable[..., onnx.ModelProto],
    in_channels: int,
    out_channels: int,
    size: tuple[int, int],
    kernel: int = 3,
    *,
    batch: int = 1,
    residual: bool = False,
    **attributes: Any,
) -> onnx.ModelProto:
    """A convolution with bias, an optional sum with its input, and ReLU."""
    rng = np.random.default_rng(4)
    shape = (out_channels, in_channels, kernel, kernel)
    scale = np.sqrt(np.prod(shape[1:]))
    weights = {
        "w": (rng.standard_normal(shape) / scale).astype(np.float32),
        "b": rng.standard_normal(out_channels, dtype=np.float32),
    }
    attributes.setdefault("pads", [kernel // 2] * 4)
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"], **attributes)]
    if residual:
        nodes.append(helper.make_node("Add", ["c", "x"], ["s"]))
    nodes.append(helper.make_node("Relu", ["s" if residual else "c"], ["y"]))
    return make_model(nodes, {"x": [batch, in_channels, *size]}, {"y": None}, weights)


@pytest.fixture(scope="session")
def by_winograd(cpus) -> Callable[..., Selector]:
    """A selector that takes the fastest plan with tiles of a size."""

    def by_winograd(outputs: int, cpu: str = "avx512", whole: bool | None = None) -> Selector:
        def select(conv: Conv2d, weights: np.ndarray) -> WinogradPlan:
            found = (plan for _, plan in ranked_plans(conv, cpus[cpu], outputs))
            return next(plan for plan in found if whole in (None, plan.whole_input))

        return select

    return by_winograd


@pytest.mark.parametrize(
    ("channels", "size", "outputs", "options"),
    [
        pytest.param((32, 32), (12, 12), 4, {}, id="whole tiles"),
        pytest.param((32, 48), (13, 19), 4, {}, id="odd sizes"),
        pytest.param((24, 40), (14, 11), 2, {}, id="half vectors"),
        pytest.param((20, 33), (9, 10), 4, {}, id="remainders of channels"),
        pytest.param((16, 24), (17, 12), 6, {}, id="tiles of 6"),
        pytest.param((16, 32), (15, 17), 2, {"kernel": 5}, id="5x5"),
        pytest.param((16, 20), (11, 13), 4, {"kernel": 5}, id="5x5, tiles of 4"),
        pytest.param((32, 48), (28, 28), 4, {"strides": [2, 2]}, id="stride 2"),
        pytest.param((9, 17), (15, 21), 2, {"strides": [2, 2]}, id="stride 2, odd"),
        pytest.param((16, 16), (10, 10), 4, {"batch": 2}, id="batch"),
        pytest.param((16, 16), (10, 12), 2, {"pads": [0, 1, 2, 1]}, id="uneven padding"),
        pytest.param((16, 16), (10, 12), 4, {"pads": [0] * 4}, id="no padding"),
        pytest.param((32, 32), (9, 9), 4, {"residual": True}, id="residual"),
        pytest.param((8, 8), (3, 3), 2, {}, id="image of one tile"),
    ],
)
def test_matches_the_reference(check, make_model, by_winograd, channels, size, outputs, options):
    model = network(make_model, *channels, size, **options)
    result = check(model, select=by_winograd(outputs), **TOLERANCE)
    assert "winograd" in result.templates  # not winograd_unfused: bias, sum and ReLU are inside


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("cpu", ["avx2", "sse", "neon64", "neon32"])
def test_every_vector_width_and_order_computes_the_same(check, make_model, by_winograd, cpu, whole):
    model = network(make_model, 20, 24, (13, 10), batch=2)
    result = check(model, cpu, select=by_winograd(4, cpu, whole), **TOLERANCE)
    assert "winograd" in result.templates


@pytest.mark.parametrize(("cpu", "flag"), [("sse", "sse4_2"), ("avx2", "avx2")])
def test_older_x86_code_is_right(check, make_model, by_winograd, cpu, flag):
    """Its own instructions, not only its vector width: a Winograd and a depthwise convolution."""
    if flag not in host_cpu.flags():
        pytest.skip(f"this CPU has no {flag}")
    rng = np.random.default_rng(13)
    weights = {
        "w": (rng.standard_normal((20, 16, 3, 3)) / 12).astype(np.float32),
        "v": (rng.standard_normal((20, 1, 3, 3)) / 3).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["y"], pads=[1] * 4, group=20),
    ]
    model = make_model(nodes, {"x": [1, 16, 15, 14]}, {"y": None}, weights)
    result = check(model, cpu, select=by_winograd(4, cpu), native=True, **TOLERANCE)
    assert result.templates.count("winograd") == 1 and "window" in result.templates


def test_a_chain_stays_channels_last(check, make_model, by_winograd):
    """The second convolution reads what the first wrote, with the border it needs."""
    rng = np.random.default_rng(5)
    weights = {
        f"w{i}": (rng.standard_normal((24, 24, 3, 3)) / np.sqrt(216)).astype(np.float32)
        for i in (0, 1)
    }
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], pads=[1] * 4),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], pads=[1] * 4),
    ]
    model = make_model(nodes, {"x": [1, 24, 13, 13]}, {"c1": None}, weights)
    result = check(model, select=by_winograd(4), **TOLERANCE)
    assert result.templates.count("winograd") == 2
    assert sum("transpose" in kernel for kernel in result.kernels) <= 2


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_random_plans(check, make_model, cpus, data):
    """Any plan is right, not only the fastest: the tuner measures others."""
    cpu = data.draw(st.sampled_from(["avx512", "avx2", "neon64"]))
    stride = data.draw(st.sampled_from([1, 1, 2]))
    plans: list[WinogradPlan] = []

    def select(conv: Conv2d, weights: np.ndarray) -> WinogradPlan:
        outputs = data.draw(st.sampled_from([2, 4]))
        plans.append(data.draw(st.sampled_from(ranked_plans(conv, cpus[cpu], outputs)))[1])
        return plans[0]

    model = network(
        make_model,
        data.draw(st.integers(8, 40)),
        data.draw(st.integers(8, 40)),
        (data.draw(st.integers(6, 20)), data.draw(st.integers(6, 20))),
        data.draw(st.sampled_from([3, 3, 5])),
        strides=[stride] * 2,
        batch=data.draw(st.integers(1, 2)),
    )
    assert "winograd" in check(model, cpu, select=select, **TOLERANCE).templates
    assert plans


def test_weights_are_packed_in_panels(rng):
    conv = Conv2d(
        batch=1,
        in_size=(8, 8),
        in_channels=3,
        out_channels=5,
        kernel=(3, 3),
        strides=(1, 1),
        padding=(1, 1, 1, 1),
        dilation=(1, 1),
        groups=1,
    )
    plan = WinogradPlan(
        outputs=(2, 2),
        tiles=(4, 4),
        band_rows=2,
        tile=Tile(rows=1, cols=2, vectors=1, lanes=4),
        whole_input=False,
    )
    weights = rng.standard_normal((5, 3, 3, 3))
    packed = pack_winograd_weights(weights, conv, plan)
    assert packed.shape == (2, 4, 4, 3, 4) and packed.dtype == np.float32
    g = matrix(axis(2, 3).weights)
    expected = g @ weights[4, 2] @ g.T
    np.testing.assert_allclose(packed[1, :, :, 2, 0], expected, rtol=1e-6, atol=1e-7)
    assert not packed[1, ..., 1:].any()
