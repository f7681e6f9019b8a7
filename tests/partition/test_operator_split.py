"""Splits inside of an operator: exact over all split points, halos counted, reasons given."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_iovt.cost_graph import Unit
from tvm_iovt.errors import IovtError
from tvm_iovt.partition.operator_split import (
    SplitCosts,
    SplitPlan,
    best_split,
    halo_rows,
    input_rows,
    plan_split,
)
from tvm_iovt.partition.problem import Route
from tvm_iovt.types import Decision, Link


def conv(
    *, height: int = 112, channels: int = 64, kernel: int = 3, stride: int = 1, **fields
) -> Unit:
    height_out = (height + 2 * (kernel // 2) - kernel) // stride + 1
    shape_in, shape_out = (1, 32, height, 40), (1, channels, height_out, 40)
    values = {
        "index": 0,
        "name": "conv",
        "operators": ("conv",),
        "kind": "conv",
        "flops": 1,
        "bytes_in": 4 * math.prod(shape_in),
        "bytes_out": 4 * math.prod(shape_out),
        "bytes_weights": 0,
        "shape_in": shape_in,
        "shape_out": shape_out,
        "kernel": (kernel, kernel),
        "strides": (stride, stride),
    }
    return Unit(**(values | fields))


def way(bytes_per_s: float, latency_s: float = 0.0) -> Route:
    return Route(hops=(Link(src="a", dst="b", bytes_per_s=bytes_per_s, latency_s=latency_s),))


def linear(whole_s: float):
    return lambda share: share * whole_s


def test_equal_devices_halve_the_time() -> None:
    plan = plan_split(conv(), "rows", SplitCosts(first_s=linear(8e-3), second_s=linear(8e-3)))
    assert isinstance(plan, SplitPlan)
    assert plan.parts == (56, 56)
    assert plan.gain == pytest.approx(0.5)
    assert plan.halo_rows == 2
    decision = plan.decision()
    assert decision.applied
    assert "56 + 56 rows take 4.000 ms" in decision.reason


def test_parts_follow_the_speeds() -> None:
    costs = SplitCosts(first_s=linear(10e-3), second_s=linear(30e-3), granule=16)
    plan = plan_split(conv(), "channels", costs)
    assert isinstance(plan, SplitPlan)
    assert plan.parts == (48, 16)
    assert plan.predicted_s == pytest.approx(7.5e-3)


def test_the_best_split_equals_all_splits_tried_by_hand() -> None:
    random = np.random.default_rng(0)
    paid = 0
    for _ in range(400):
        kernel, stride = int(random.choice([1, 3, 5])), int(random.integers(1, 3))
        unit = conv(height=int(random.integers(12, 40)), kernel=kernel, stride=stride)
        axis = str(random.choice(["rows", "channels"]))
        total = unit.shape_out[2 if axis == "rows" else 1]
        granule = int(random.integers(1, 5))
        # Steps, as kernels of whole blocks have them, and noise.
        first, second = (random.uniform(0, 1, total + 1).cumsum() * 1e-4 for _ in range(2))
        rate, sync_s = float(10 ** random.uniform(7, 10)), float(random.uniform(0, 1e-3))
        costs = SplitCosts(
            first_s=lambda share, t=first, n=total: float(t[round(share * n)]),
            second_s=lambda share, t=second, n=total: float(t[round(share * n)]),
            there=way(rate),
            back=way(rate / 2),
            sync_s=sync_s,
            granule=granule,
        )
        alone_s = min(
            first[total],
            second[total] + sync_s + unit.bytes_in / rate + unit.bytes_out / (rate / 2),
        )
        tried = {}
        for size in range(granule, total, granule):
            read = unit.bytes_in
            if axis == "rows":
                pad = ((total - 1) * stride + kernel - unit.shape_in[2]) // 2
                looked_at = {
                    row * stride - pad + tap for row in range(size, total) for tap in range(kernel)
                }
                rows = looked_at & set(range(unit.shape_in[2]))
                read = math.ceil(unit.bytes_in * (max(rows) - min(rows) + 1) / unit.shape_in[2])
            sent = math.ceil(unit.bytes_out * (total - size) / total)
            moved_s = read / rate + sent / (rate / 2)
            tried[size] = moved_s + sync_s + max(first[size], second[total - size])
        best = min(tried, key=tried.get)
        found = plan_split(unit, axis, costs)
        if tried[best] < alone_s:
            paid += 1
            assert isinstance(found, SplitPlan)
            assert found.parts == (best, total - best)
            assert found.predicted_s == pytest.approx(tried[best])
            assert found.alone_s == pytest.approx(alone_s)
        else:
            assert isinstance(found, Decision)
            assert not found.applied
    assert 50 < paid < 350


@given(st.integers(4, 64), st.integers(1, 7), st.integers(1, 3), st.data())
def test_parts_read_all_that_the_whole_reads(height, kernel, stride, data) -> None:
    unit = conv(height=max(height, kernel), kernel=kernel, stride=stride)
    total = unit.shape_out[2]
    if total < 2:
        return
    size = data.draw(st.integers(1, total - 1))
    whole, first, second = (input_rows(unit, *r) for r in ((0, total), (0, size), (size, total)))
    assert first[0] == whole[0]
    assert second[1] == whole[1]
    assert halo_rows(unit, size) == max(first[1] - second[0], 0)
    if kernel >= stride:
        assert set(range(*first)) | set(range(*second)) == set(range(*whole))
        assert halo_rows(unit, size) <= kernel - stride


def test_a_split_that_does_not_pay_is_refused_with_numbers() -> None:
    slow = SplitCosts(first_s=linear(2e-3), second_s=linear(2e-3), there=way(1e6), back=way(1e6))
    found = plan_split(conv(), "rows", slow)
    assert isinstance(found, Decision)
    assert not found.applied
    assert "one device alone 2.000 ms" in found.reason
    near = SplitCosts(first_s=linear(1.0), second_s=linear(1.0), sync_s=0.45, margin=0.1)
    found = plan_split(conv(), "rows", near)
    assert isinstance(found, Decision)
    assert "not 10% more" in found.reason
    never = SplitCosts(first_s=linear(math.inf), second_s=linear(math.inf))
    assert isinstance(plan_split(conv(), "rows", never), Decision)


@pytest.mark.parametrize(
    ("unit", "axis", "granule", "reason"),
    [
        (conv(kind="depthwise", groups=32), "channels", 1, "32 groups has no channels"),
        (conv(groups=2), "channels", 1, "2 groups has no channels"),
        (conv(kind="matmul"), "rows", 1, "kind 'matmul'"),
        (conv(kind="matmul"), "channels", 1, "kind 'matmul'"),
        (conv(shape_in=(1, 8), shape_out=(1, 8)), "rows", 1, "not those of images"),
        (conv(height=4), "rows", 4, "too few rows: 4, and a part has 4 at least"),
        (conv(channels=8), "channels", 16, "too few channels: 8"),
    ],
)
def test_what_cannot_be_split_is_refused_with_the_reason(unit, axis, granule, reason) -> None:
    costs = SplitCosts(first_s=linear(1.0), second_s=linear(1.0), granule=granule)
    found = plan_split(unit, axis, costs)
    assert isinstance(found, Decision)
    assert not found.applied
    assert reason in found.reason


def test_grouped_convolutions_can_be_split_by_rows() -> None:
    costs = SplitCosts(first_s=linear(1.0), second_s=linear(1.0))
    assert isinstance(plan_split(conv(kind="depthwise", groups=32), "rows", costs), SplitPlan)


def test_the_better_axis_is_taken() -> None:
    fast = SplitCosts(first_s=linear(1.0), second_s=linear(1.0))
    late = SplitCosts(first_s=linear(1.0), second_s=linear(1.0), sync_s=0.1)
    found = best_split(conv(), {"rows": late, "channels": fast})
    assert isinstance(found, SplitPlan)
    assert found.axis == "channels"
    found = best_split(conv(kind="pool"), {"rows": late, "channels": fast})
    assert isinstance(found, Decision)
    assert found.reason.startswith("rows: it is of kind 'pool'")
    assert "channels: " in found.reason


def test_invalid_costs_are_refused() -> None:
    good = SplitCosts(first_s=linear(1.0), second_s=linear(1.0))
    with pytest.raises(IovtError, match="axis 'columns'"):
        plan_split(conv(), "columns", good)
    with pytest.raises(IovtError, match="no axis"):
        best_split(conv(), {})
    with pytest.raises(IovtError, match="not valid"):
        SplitCosts(first_s=linear(1.0), second_s=linear(1.0), granule=0)
    with pytest.raises(IovtError, match="no valid time"):
        plan_split(conv(), "rows", SplitCosts(first_s=linear(1.0), second_s=linear(-1.0)))
