from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tvm_iovt.schedules.selection import candidates, kernel_name
from tvm_iovt.schedules.tiles import Tile
from tvm_iovt.schedules.winograd import WinogradPlan
from tvm_iovt.tuning import kernel_timing
from tvm_iovt.tuning.deviation import MAX_DEVIATION, deviation
from tvm_iovt.tuning.kernel_timing import build_kernels, interleaved, timer_of
from tvm_iovt.types import Decision


class Clock:
    """A clock that only calls move."""

    def __init__(self):
        self.now_s = 0.0
        self.calls = []

    def __call__(self):
        return self.now_s

    def call(self, name, *seconds):
        """A call that takes these times in turn."""
        count = 0

        def call():
            nonlocal count
            self.calls.append(name)
            self.now_s += seconds[count % len(seconds)]
            count += 1

        return call


def test_kernels_take_turns_and_the_order_rotates():
    clock = Clock()
    calls = [clock.call("a", 0.002), clock.call("b", 0.004)]
    a, b = interleaved(calls, clock, budget_s=0.0)
    assert (a.median_s, b.median_s) == pytest.approx((0.002, 0.004))
    assert (a.spread_s, b.spread_s) == pytest.approx((0, 0))
    # After the warm-up, a block is a call that is not timed and a timed one.
    assert clock.calls[4:12] == ["a", "a", "b", "b", "b", "b", "a", "a"]
    assert len(clock.calls) == 4 + 2 * 2 * kernel_timing.MIN_ROUNDS


def test_short_kernels_are_repeated_within_a_block():
    clock = Clock()
    (timing,) = interleaved([clock.call("a", 1e-5)], clock, budget_s=0.0)
    assert timing.median_s == pytest.approx(1e-5)
    assert len(clock.calls) >= kernel_timing.MIN_ROUNDS * kernel_timing.BLOCK_S / 1e-5


def test_the_budget_decides_how_many_rounds_there_are():
    clock = Clock()
    interleaved([clock.call("a", 0.002)], clock, budget_s=0.1)
    assert len(clock.calls) == 2 + 25 * 2


def test_the_spread_grows_with_the_noise():
    clock = Clock()
    (steady,) = interleaved([clock.call("a", 0.002)], clock, 0.1)
    (noisy,) = interleaved([clock.call("a", 0.002, 0.002, 0.004, 0.002, 0.003)], clock, 0.1)
    assert noisy.spread_s > 1e-4 > steady.spread_s
    assert noisy.median_s == pytest.approx(0.002)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_timer_measures_real_calls(threads):
    timings = timer_of(threads, budget_s=0.002)([lambda: sum(range(1000))] * 2)
    assert len(timings) == 2
    assert all(0 < timing.median_s < 1 for timing in timings)


def test_built_kernels_compute_the_convolution(conv, weights, host, host_target):
    kernels = [c.kernel for c in candidates(conv, weights, host.cpu)]
    assert {type(kernel) for kernel in kernels} == {Tile, WinogradPlan}
    built = build_kernels(conv, weights, kernels, host.cpu, host_target)
    assert [k.name for k in built.kernels] == list(map(kernel_name, kernels))
    assert not built.dropped
    image = np.random.default_rng(0).standard_normal((1, 12, 12, 32), np.float32)
    image /= np.sqrt(np.mean(np.sum(np.square(weights), axis=(1, 2, 3))))
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    expected = np.clip(np.einsum("nhwcij,ocij->nhwo", windows, weights) + 0.1, 0, 6)
    for kernel in built.kernels:
        assert deviation(kernel.output, expected) < MAX_DEVIATION
        kernel.call()


@pytest.mark.parametrize(
    ("l2_bytes", "at_least"),
    [(1 << 20, 2 << 20), (1 << 15, kernel_timing.ROTATION_BYTES // 16)],  # of 128 sets at most
    ids=["small weights", "weights beyond the cache"],
)
def test_buffers_rotate_through_more_than_the_cache(
    conv, weights, host, host_target, monkeypatch, l2_bytes, at_least
):
    seen = []

    def record(image, weight, bias, output):
        seen.append((image, weight, output))

    monkeypatch.setattr(
        kernel_timing, "_module", lambda functions, names, target: dict.fromkeys(names, record)
    )
    cpu = dataclasses.replace(host.cpu, l2_bytes=l2_bytes)
    found = candidates(conv, weights, host.cpu)
    kernel = next(c.kernel for c in found if isinstance(c.kernel, Tile))
    (built,) = build_kernels(conv, weights, [kernel], cpu, host_target).kernels
    seen.clear()
    for _ in range(200):
        built.call()
    counts = [len({id(buffers[position]) for buffers in seen}) for position in range(3)]
    assert len(set(counts)) == 1
    one_set_bytes = sum(int(np.prod(buffer.shape)) * 4 for buffer in seen[0])
    assert counts[0] * one_set_bytes >= at_least


def test_a_kernel_that_cannot_be_built_is_dropped_with_a_reason(
    conv, weights, host, host_target, monkeypatch
):
    kernels = [c.kernel for c in candidates(conv, weights, host.cpu)][:3]
    bad_schedule, bad_code, good = map(kernel_name, kernels)
    schedule = kernel_timing.schedule_function
    module = kernel_timing._module

    def failing_schedule(function, cpu, name):
        if name == bad_schedule:
            decision = Decision(transform="T", subject=name, applied=False, reason="no loops")
            return function, decision
        return schedule(function, cpu, name)

    def failing_module(functions, names, target):
        if bad_code in names:
            message = "first line\nLLVM gave up"
            raise RuntimeError(message)
        return module(functions, names, target)

    monkeypatch.setattr(kernel_timing, "schedule_function", failing_schedule)
    monkeypatch.setattr(kernel_timing, "_module", failing_module)
    built = build_kernels(conv, weights, kernels, host.cpu, host_target)
    assert [k.name for k in built.kernels] == [good]
    assert dict(built.dropped) == {
        bad_schedule: "no schedule: no loops",
        bad_code: "RuntimeError: LLVM gave up",
    }
