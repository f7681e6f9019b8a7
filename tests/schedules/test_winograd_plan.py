from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_iovt.schedules import winograd_plan as planning
from tvm_iovt.schedules.convolution import Conv2d
from tvm_iovt.schedules.winograd import WinogradPlan
from tvm_iovt.schedules.winograd_plan import (
    MAX_ERROR,
    OUTPUTS,
    direct_cycles,
    ranked_plans,
    winograd_cycles,
    winograd_error,
    winograd_plan,
)
from tvm_iovt.types import CpuSpec

CPUS = ("avx512", "avx2", "sse", "neon64", "neon32")


def convolution(
    in_channels: int, out_channels: int, size: int, kernel: int = 3, stride: int = 1
) -> Conv2d:
    return Conv2d(
        batch=1,
        in_size=(size, size),
        in_channels=in_channels,
        out_channels=out_channels,
        kernel=(kernel, kernel),
        strides=(stride, stride),
        padding=(kernel // 2,) * 4,
        dilation=(1, 1),
        groups=1,
    )


def weights_of(conv: Conv2d, channels: int = 8) -> np.ndarray:
    """Normal weights of a few channels: what a plan's accuracy is judged by."""
    rng = np.random.default_rng(6)
    return rng.standard_normal((channels, channels, *conv.kernel), dtype=np.float32)


def band_bytes(conv: Conv2d, plan: WinogradPlan) -> int:
    products = (plan.outputs[0] + conv.kernel[0] - 1) ** 2
    return 4 * products * plan.band_tiles * (conv.in_channels + plan.tile.channels)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(8, 300),
    st.integers(8, 300),
    st.integers(4, 60),
    st.sampled_from([(3, 1), (3, 2), (5, 1)]),
    st.sampled_from(CPUS),
)
def test_plans_cover_the_output_with_tiles_that_fit(cpus, inputs, outputs, size, form, name):
    conv, cpu = convolution(inputs, outputs, size, *form), cpus[name]
    for m in OUTPUTS:
        for cycles, plan in ranked_plans(conv, cpu, m):
            assert plan.tile.registers <= cpu.vector_registers
            assert plan.tiles[0] % plan.band_rows == 0
            assert plan.band_tiles % plan.tile.cols == 0
            assert plan.outputs == (m, m)
            assert all(a >= b for a, b in zip(plan.canvas, conv.out_size, strict=True))
            # At most one row and column of tiles more than needed, for rounder numbers.
            assert all(a < b + 2 * m for a, b in zip(plan.canvas, conv.out_size, strict=True))
            assert cycles > 0


@pytest.mark.parametrize("name", CPUS)
@pytest.mark.parametrize(("channels", "size"), [(64, 56), (128, 28), (256, 14)])
def test_usual_layers_are_predicted_to_gain(cpus, name, channels, size):
    conv, cpu = convolution(channels, channels, size), cpus[name]
    plan = winograd_plan(conv, weights_of(conv), cpu)
    assert plan is not None
    assert winograd_cycles(conv, plan, cpu) < 0.6 * direct_cycles(conv, cpu)


@pytest.mark.parametrize("name", CPUS)
@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"kernel": (1, 1), "padding": (0,) * 4}, id="1x1"),
        pytest.param({"kernel": (3, 5)}, id="not square"),
        pytest.param({"kernel": (7, 7)}, id="7x7"),
        pytest.param({"strides": (1, 2)}, id="uneven strides"),
        pytest.param({"strides": (3, 3)}, id="stride 3"),
        pytest.param({"dilation": (2, 2)}, id="dilated"),
        pytest.param({"groups": 2}, id="grouped"),
        pytest.param({"in_channels": 3}, id="first layer"),
    ],
)
def test_other_forms_stay_direct(cpus, name, other):
    conv = dataclasses.replace(convolution(64, 64, 56), **other)
    assert winograd_plan(conv, weights_of(conv), cpus[name]) is None
    assert all(ranked_plans(conv, cpus[name], m) == () for m in OUTPUTS)


def test_a_single_pixel_stays_direct(cpus):
    conv = dataclasses.replace(convolution(64, 64, 3), padding=(0,) * 4)
    assert conv.out_size == (1, 1)
    assert winograd_plan(conv, weights_of(conv), cpus["avx512"]) is None


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_normal_weights_are_accurate_and_larger_tiles_less_so(kernel, stride):
    weights = np.random.default_rng(7).standard_normal((16, 32, kernel, kernel))
    small, large = (winograd_error(weights.astype(np.float32), m, stride) for m in (2, 4))
    assert 1e-9 < small < MAX_ERROR and 1e-9 < large < MAX_ERROR
    if (kernel, stride) == (3, 1):
        assert 5 * small < large < winograd_error(weights.astype(np.float32), 6, stride)


def test_the_error_does_not_depend_on_the_scale_of_the_weights():
    weights = np.random.default_rng(8).standard_normal((8, 8, 3, 3)).astype(np.float32)
    assert winograd_error(weights * 1024, 4, 1) == winograd_error(weights, 4, 1)
    assert winograd_error(weights * 0, 4, 1) == 0.0


def test_a_channel_far_above_the_others_is_not_hidden_by_their_number():
    """Errors are judged at the largest output: a channel of size 1e4 sets the scale."""
    weights = np.random.default_rng(8).standard_normal((8, 8, 3, 3)).astype(np.float32)
    one = weights * np.array([1e4] + [1] * 7, np.float32).reshape(-1, 1, 1, 1)
    assert winograd_error(one, 4, 1) == pytest.approx(winograd_error(weights[:1], 4, 1), rel=0.5)


def test_weights_beyond_the_bound_get_smaller_tiles_or_none(cpus, monkeypatch):
    conv = convolution(64, 64, 56)
    weights = weights_of(conv)
    chosen = winograd_plan(conv, weights, cpus["avx512"])
    assert chosen is not None and chosen.outputs[0] > 2
    errors = [winograd_error(weights, m, 1) for m in (2, chosen.outputs[0])]
    monkeypatch.setattr(planning, "MAX_ERROR", errors[1] * 0.99)
    smaller = winograd_plan(conv, weights, cpus["avx512"])
    assert smaller is not None and smaller.outputs[0] < chosen.outputs[0]
    monkeypatch.setattr(planning, "MAX_ERROR", errors[0] * 0.99)
    assert winograd_plan(conv, weights, cpus["avx512"]) is None


@pytest.mark.parametrize("name", CPUS)
def test_a_band_beyond_the_cache_costs_more(cpus, name):
    conv = convolution(64, 64, 56)
    small, large = (dataclasses.replace(cpus[name], l2_bytes=n << 10) for n in (256, 8192))
    for _, plan in ranked_plans(conv, large, 4):
        costs = winograd_cycles(conv, plan, small), winograd_cycles(conv, plan, large)
        overflows = 256 << 10 < band_bytes(conv, plan) < 4096 << 10
        assert costs[0] > costs[1] if overflows else costs[0] >= costs[1]


def test_transformed_weights_that_stream_from_memory_are_small(cpus):
    """F(4,3) turns 2 MB of weights into 9 MB, and 9 MB into 38 MB.

    A server keeps the first in its last-level cache from image to image; a board has none.
    """
    board = cpus["neon64"]
    server = dataclasses.replace(board, arch="x86_64")

    def outputs(channels: int, size: int, cpu: CpuSpec) -> int:
        conv = convolution(channels, channels, size)
        plan = winograd_plan(conv, weights_of(conv), cpu)
        return plan.outputs[0] if plan is not None else 1

    assert outputs(256, 14, server) == 4
    assert outputs(256, 14, board) <= 2
    assert outputs(512, 7, server) <= 2
    assert outputs(512, 7, board) <= 2


def test_every_core_has_work(cpus):
    def tasks(plan: WinogradPlan, conv: Conv2d) -> int:
        bands = plan.tiles[0] // plan.band_rows
        return bands * -(-conv.out_channels // plan.tile.channels) if plan.whole_input else bands

    for channels, size in ((64, 56), (128, 28), (256, 14), (512, 7)):
        conv = convolution(channels, channels, size)
        for cores in (1, 2, 4, 8):
            cpu: CpuSpec = dataclasses.replace(cpus["neon64"], cores=cores)
            plan = winograd_plan(conv, weights_of(conv), cpu)
            assert plan is None or tasks(plan, conv) >= cores
