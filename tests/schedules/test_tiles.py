from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_iovt.schedules.convolution import pack_depthwise_weights, pack_weights
from tvm_iovt.schedules.tiles import (
    balance,
    balanced_divisor,
    contraction_tile,
    largest_divisor,
    ranked_tiles,
    vector_width,
    window_cols,
)


@pytest.fixture(params=["avx512", "avx2", "sse", "neon64", "neon32"])
def cpu(request, cpus):
    return cpus[request.param]


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 1500))
def test_tiles_obey_the_register_rule(cpus, height, width, channels):
    for cpu in cpus.values():
        tile = contraction_tile(height, width, channels, cpu)
        assert tile.registers <= cpu.vector_registers
        assert tile.rows * tile.cols * tile.vectors + tile.vectors + 1 == tile.registers
        assert tile.rows <= height and tile.cols <= width


@pytest.mark.parametrize("size", [7, 13, 14, 17, 19, 23, 28, 29, 31, 37, 56, 112])
@pytest.mark.parametrize("channels", [16, 24, 32, 96, 144, 320])
def test_no_size_falls_off_a_cliff(cpu, size, channels):
    tile = contraction_tile(size, size, channels, cpu)
    computed = -(-size // tile.cols) * tile.cols * -(-channels // tile.channels) * tile.channels
    assert size * channels / computed >= 0.6


def test_windows_leave_room_for_the_weights(cpu):
    for width in range(1, 60):
        assert 1 <= window_cols(width, 9, cpu) <= min(8, cpu.vector_registers)


def test_packed_weights_hold_every_weight_once(rng):
    weights = rng.standard_normal((10, 3, 2, 2))
    packed = pack_weights(weights, 1, 4)
    assert packed.shape == (3, 2, 2, 3, 4)
    for o in range(10):
        np.testing.assert_array_equal(packed[o // 4, :, :, :, o % 4], weights[o].transpose(1, 2, 0))
    assert not packed[2, ..., 2:].any()


def test_groups_are_packed_apart(rng):
    weights = rng.standard_normal((6, 2, 1, 1))
    packed = pack_weights(weights, 2, 4)
    assert packed.shape == (2, 1, 1, 2, 4)
    np.testing.assert_array_equal(packed[1, 0, 0, :, :3], weights[3:, :, 0, 0].T)
    assert not packed[..., 3].any()


def test_depthwise_weights_are_padded_with_zeros(rng):
    weights = rng.standard_normal((5, 1, 3, 3))
    packed = pack_depthwise_weights(weights, 8)
    np.testing.assert_array_equal(packed[..., :5], weights[:, 0].transpose(1, 2, 0))
    assert not packed[..., 5:].any()


def test_divisors():
    assert largest_divisor(56, 10) == 8
    assert largest_divisor(13, 12) == 1
    assert vector_width(24, 16) == 8
    assert vector_width(1001, 16) == 1


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 16), st.integers(1, 9))
def test_pieces_are_balanced_and_then_large(extent, limit, cores, others):
    piece = balanced_divisor(extent, limit, cores, others)
    assert extent % piece == 0 and (piece <= limit or piece == 1)
    best = balance(extent // piece * others, cores)
    for other in (d for d in range(1, min(extent, limit) + 1) if extent % d == 0):
        shared = balance(extent // other * others, cores)
        assert shared < best or (shared == best and other <= piece)


def test_balance_is_the_share_of_time_that_cores_work():
    assert balance(4, 2) == 1
    assert balance(7, 2) == 7 / 8
    assert balance(1, 4) == 1 / 4


@pytest.mark.parametrize("channels", [24, 40, 72, 120])
def test_half_vectors_where_whole_ones_stick_out(cpus, channels):
    """A CPU with 512-bit registers computes two halves in the time of one."""
    tile = contraction_tile(28, 28, channels, cpus["avx512"])
    assert channels % tile.channels == 0
    assert contraction_tile(28, 28, 2 * 16, cpus["avx512"]).lanes == 16
    assert contraction_tile(28, 28, channels, cpus["avx2"]).lanes == 8


def test_the_tile_is_the_first_of_the_ranked(cpu):
    ranked = ranked_tiles(28, 28, 96, cpu)
    assert ranked[0][1] == contraction_tile(28, 28, 96, cpu)
    assert len({tile for _, tile in ranked}) == len(ranked)
