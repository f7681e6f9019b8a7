from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_iovt.schedules import winograd_plan
from tvm_iovt.schedules.convolution import Conv2d
from tvm_iovt.schedules.selection import candidates, kernel_name, kernel_named, predict
from tvm_iovt.schedules.tiles import Tile, contraction_tile
from tvm_iovt.schedules.winograd import WinogradPlan

CPUS = ("avx512", "avx2", "sse", "neon64", "neon32")


def convolution(channels: int, size: int, kernel: int = 3) -> Conv2d:
    return Conv2d(
        batch=1,
        in_size=(size, size),
        in_channels=channels,
        out_channels=channels,
        kernel=(kernel, kernel),
        strides=(1, 1),
        padding=(kernel // 2,) * 4,
        dilation=(1, 1),
        groups=1,
    )


def weights_of(conv: Conv2d) -> np.ndarray:
    """Normal weights of a few channels: only their accuracy is looked at."""
    rng = np.random.default_rng(9)
    return rng.standard_normal((4, 4, *conv.kernel), dtype=np.float32)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 200),
    st.integers(3, 60),
    st.sampled_from([1, 3, 5]),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 2]),
    st.sampled_from(CPUS),
    st.booleans(),
    st.integers(2, 8),
)
def test_the_predicted_kernel_is_the_first_candidate(
    cpus, channels, size, kernel, groups, stride, name, winograd, count
):
    conv = dataclasses.replace(
        convolution(channels * groups, size, kernel), groups=groups, strides=(stride, stride)
    )
    weights, cpu = weights_of(conv), cpus[name]
    found = candidates(conv, weights, cpu, winograd=winograd, count=count)
    assert 1 <= len(found) <= count
    assert found[0].kernel == predict(conv, weights, cpu, winograd=winograd)
    names = [candidate.name for candidate in found]
    assert len(set(names)) == len(names)
    for candidate in found:
        assert candidate.cycles > 0
        again = kernel_named(candidate.name, conv, weights, cpu, winograd=winograd)
        assert again == candidate.kernel
    if not winograd:
        assert all(isinstance(candidate.kernel, Tile) for candidate in found)


@pytest.mark.parametrize("name", CPUS)
def test_the_best_direct_kernel_is_always_a_candidate(cpus, name):
    """What a measurement of the others is checked against, however slow the prediction calls it."""
    conv = convolution(64, 56)
    found = candidates(conv, weights_of(conv), cpus[name], count=2)
    assert isinstance(found[0].kernel, WinogradPlan)
    assert found[1].kernel == contraction_tile(56, 56, 64, cpus[name])
    assert found[0].cycles < found[1].cycles


def test_inaccurate_tiles_are_no_candidates(cpus, monkeypatch):
    conv = convolution(64, 56)
    weights = weights_of(conv)

    def tiles_considered() -> set[tuple[int, int]]:
        found = candidates(conv, weights, cpus["avx2"], count=100)
        return {c.kernel.outputs for c in found if isinstance(c.kernel, WinogradPlan)}

    assert len(tiles_considered()) > 1
    monkeypatch.setattr(winograd_plan, "MAX_ERROR", winograd_plan.winograd_error(weights, 2, 1))
    assert tiles_considered() == {(2, 2)}


def test_only_what_fits_the_form_is_a_candidate(cpus):
    conv = convolution(64, 28, kernel=1)
    found = candidates(conv, weights_of(conv), cpus["neon64"])
    assert all(isinstance(candidate.kernel, Tile) for candidate in found)


def test_groups_are_tiled_by_their_own_channels(cpus):
    conv = dataclasses.replace(convolution(48, 14), groups=12)
    kernel = predict(conv, weights_of(conv), cpus["avx512"])
    assert isinstance(kernel, Tile) and kernel.channels == 4


def test_without_winograd_the_tile_is_the_best_one(cpus):
    conv = convolution(64, 56)
    for cpu in cpus.values():
        kernel = predict(conv, weights_of(conv), cpu, winograd=False)
        assert kernel == contraction_tile(56, 56, 64, cpu)


def test_names_tell_kernels_apart():
    tile = Tile(rows=2, cols=7, vectors=4, lanes=16)
    assert kernel_name(tile) == "direct 2x7x4x16"
    plan = WinogradPlan(outputs=(4, 4), tiles=(14, 15), band_rows=2, tile=tile, whole_input=False)
    assert kernel_name(plan) == "winograd F4 14x15/2 7x4x16"
    others = [
        dataclasses.replace(plan, whole_input=True),
        dataclasses.replace(plan, band_rows=7),
        dataclasses.replace(plan, tiles=(14, 14)),
        dataclasses.replace(plan, tile=dataclasses.replace(tile, cols=8)),
    ]
    assert len({kernel_name(kernel) for kernel in (plan, *others)}) == 5


def test_names_of_other_kernels_are_unknown(cpus, monkeypatch):
    conv, cpu = convolution(64, 56), cpus["avx2"]
    weights = weights_of(conv)
    name = candidates(conv, weights, cpu)[0].name
    assert name.startswith("winograd F")
    assert kernel_named(name, conv, weights, cpu, winograd=False) is None
    assert kernel_named(name, convolution(64, 56, kernel=1), weights, cpu) is None
    assert kernel_named("direct 1x14x4x8", conv, weights, cpu) is None  # 61 registers
    assert kernel_named("by hand", conv, weights, cpu) is None
    monkeypatch.setattr(winograd_plan, "MAX_ERROR", 0.0)
    assert kernel_named(name, conv, weights, cpu) is None
