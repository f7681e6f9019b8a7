"""Measured kernels become times of units, and no time is lost."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_iovt.cost_graph import CostGraph, Unit
from tvm_iovt.planning.kernel_units import unit_seconds
from tvm_iovt.stages.kernel_clock import TimedKernel


def unit(index: int, kind: str, channels: int, nbytes: int = 100) -> Unit:
    return Unit(
        index=index,
        name=f"u{index}",
        operators=(f"u{index}",),
        kind=kind,
        flops=10,
        bytes_in=nbytes,
        bytes_out=0,
        bytes_weights=0,
        shape_out=(1, channels, 4, 4),
    )


def graph(*units: Unit) -> CostGraph:
    return CostGraph(units=units, edges=())


def kernel(name: str, channels: int, seconds: float) -> TimedKernel:
    return TimedKernel(name=name, shape=(1, 4, 4, channels), seconds=seconds)


def test_convolutions_are_matched_by_kind_and_width():
    found = unit_seconds(
        graph(unit(0, "conv", 8), unit(1, "depthwise", 8), unit(2, "pointwise", 16)),
        [
            kernel("fused_conv2d_winograd_add_relu", 8, 1.0),
            kernel("fused_depthwise_conv2d_add", 8, 2.0),
            kernel("fused_conv2d1_add1", 16, 3.0),
        ],
    )
    assert found == (1.0, 2.0, 3.0)


def test_branches_that_changed_places_keep_their_times():
    # The shortcut's kernel comes first here, as its sum is fused into the other convolution.
    found = unit_seconds(
        graph(unit(0, "conv", 8), unit(1, "pointwise", 16)),
        [kernel("fused_conv2d1", 16, 3.0), kernel("fused_conv2d", 8, 1.0)],
    )
    assert found == (1.0, 3.0)


def test_kernels_of_one_width_are_told_apart_by_their_size():
    large = dataclasses.replace(unit(1, "conv", 8), shape_out=(1, 8, 16, 16))
    found = unit_seconds(
        graph(unit(0, "conv", 8), large),
        [
            TimedKernel(name="fused_conv2d_bordered", shape=(1, 18, 18, 8), seconds=3.0),
            TimedKernel(name="fused_conv2d1", shape=(1, 4, 4, 8), seconds=1.0),
        ],
    )
    assert found == (1.0, 3.0)


def test_what_lies_between_goes_to_units_without_a_kernel_by_traffic():
    found = unit_seconds(
        graph(
            unit(0, "conv", 8),
            unit(1, "move", 8, nbytes=300),
            unit(2, "elementwise", 8, nbytes=100),
            unit(3, "conv", 8),
        ),
        [
            kernel("fused_conv2d", 8, 1.0),
            kernel("concatenate", 8, 2.0),
            kernel("fused_add", 8, 2.0),
            kernel("fused_conv2d1", 8, 1.0),
        ],
    )
    assert found == pytest.approx((1.0, 3.0, 1.0, 1.0))


def test_changes_of_layout_go_to_the_convolution_behind_them():
    found = unit_seconds(
        graph(unit(0, "conv", 8)), [kernel("transpose", 3, 0.5), kernel("fused_conv2d", 8, 1.0)]
    )
    assert found == (1.5,)


def test_the_last_kernels_go_to_the_last_unit():
    found = unit_seconds(
        graph(unit(0, "conv", 8), unit(1, "matmul", 10)),
        [
            kernel("fused_conv2d", 8, 1.0),
            kernel("fused_matmul_add", 10, 1.0),
            kernel("transpose", 10, 0.25),
        ],
    )
    assert found == (1.0, 1.25)


names = st.sampled_from(
    ["fused_conv2d", "fused_depthwise_conv2d", "concatenate", "fused_matmul", "max_pool2d", "add"]
)
kinds = st.sampled_from(["conv", "pointwise", "depthwise", "matmul", "pool", "move", "elementwise"])


@given(
    st.lists(st.tuples(kinds, st.integers(1, 3), st.integers(0, 5)), min_size=1, max_size=8),
    st.lists(st.tuples(names, st.integers(1, 3), st.floats(1e-6, 1.0)), max_size=10),
)
def test_no_time_is_lost(units, kernels):
    found = unit_seconds(
        graph(*(unit(i, kind, width, size) for i, (kind, width, size) in enumerate(units))),
        [kernel(*each) for each in kernels],
    )
    assert len(found) == len(units)
    assert min(found) >= 0
    assert sum(found) == pytest.approx(sum(each[2] for each in kernels))
