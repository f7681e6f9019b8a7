from __future__ import annotations

import math
import time

import numpy as np
import pytest
import tvm

from tests.tuning.kernels import doubled, spoiling
from tvm_iovt.tuning import kernel_run
from tvm_iovt.tuning.kernel_inputs import Argument
from tvm_iovt.tuning.kernel_run import BLOCK_S, MIN_BLOCKS, Buffers, clock_of, time_blocks


class Clock:
    """A clock that only calls move."""

    def __init__(self):
        self.now_s = 0.0
        self.calls = 0

    def __call__(self):
        return self.now_s

    def call(self, seconds, later_s=None):
        def call():
            self.calls += 1
            self.now_s += seconds if later_s is None or self.calls == 1 else later_s

        return call


def test_short_kernels_are_repeated_within_a_block():
    clock = Clock()
    blocks = time_blocks(clock.call(1e-5), clock, budget_s=0.0)
    assert blocks == pytest.approx([1e-5] * MIN_BLOCKS)
    assert clock.now_s == pytest.approx((MIN_BLOCKS + 0.5) * BLOCK_S, rel=0.3)


def test_a_slow_first_call_does_not_spoil_the_length_of_blocks():
    clock = Clock()
    time_blocks(clock.call(1.0, later_s=1e-5), clock, budget_s=0.0)
    assert clock.calls == pytest.approx((MIN_BLOCKS + 0.5) * BLOCK_S / 1e-5, rel=0.3)


def test_long_kernels_are_called_once_a_block():
    clock = Clock()
    assert len(time_blocks(clock.call(0.1), clock, budget_s=0.0)) == MIN_BLOCKS
    assert clock.calls == MIN_BLOCKS + 2


def test_the_budget_decides_how_many_blocks_there_are():
    clock = Clock()
    assert len(time_blocks(clock.call(BLOCK_S), clock, budget_s=0.1)) == 25


def test_a_hopeless_kernel_is_given_up_and_a_good_one_is_not():
    clock = Clock()
    assert len(time_blocks(clock.call(0.1), clock, budget_s=1.0, give_up_s=0.05)) == 2
    assert len(time_blocks(clock.call(0.1), clock, budget_s=1.0, give_up_s=0.2)) == 10


def test_blocks_wait_for_what_calls_have_only_begun():
    clock = Clock()
    begun = []

    def wait():
        clock.now_s += 0.002 * len(begun)
        begun.clear()

    blocks = time_blocks(lambda: begun.append(1), clock, wait, budget_s=0.0)
    assert blocks == pytest.approx([0.002] * MIN_BLOCKS)


def test_the_clock_is_cpu_time_for_one_thread_and_wall_time_for_several():
    assert clock_of(1) is time.process_time
    assert clock_of(2) is time.perf_counter


def buffers(l2_bytes, weights=()):
    inputs = [np.arange(1024, dtype=np.float32), *weights]
    return Buffers(inputs, [Argument(shape=(1024,), dtype="float32")], l2_bytes)


@pytest.mark.parametrize(
    ("weight_bytes", "at_least"),
    [(4 << 10, 2 << 20), (2 << 20, kernel_run.ROTATION_BYTES)],
    ids=["small weights", "weights beyond the cache"],
)
def test_buffers_rotate_through_more_than_the_cache(weight_bytes, at_least):
    weights = np.zeros(weight_bytes, np.uint8)
    seen = []
    call = buffers(1 << 20, [weights]).call_of(lambda *arguments: seen.append(arguments))
    for _ in range(300):
        call()
    sets = {id(arguments[0]): arguments for arguments in seen}
    taken = len(sets) * (weight_bytes + 2 * 4096)
    assert taken >= min(at_least, kernel_run.MAX_SETS * (weight_bytes + 2 * 4096))
    assert len({id(arguments[-1]) for arguments in seen}) == len(sets) > 1


def compiled(function):
    return tvm.compile(tvm.IRModule({"main": function}), target="llvm")["main"]


def test_outputs_are_what_the_kernel_writes_over_what_was_there():
    (output,) = buffers(1 << 15).outputs_of(compiled(doubled), [np.full(1024, np.nan, np.float32)])
    np.testing.assert_array_equal(output, 2 * np.arange(1024))
    (output,) = buffers(1 << 15).outputs_of(lambda *_: None, [np.full(1024, 7, np.float32)])
    assert (output == 7).all()


def test_a_kernel_that_changes_its_inputs_is_refused():
    with pytest.raises(ValueError, match="changes its inputs"):
        buffers(1 << 15).outputs_of(compiled(spoiling), [np.zeros(1024, np.float32)])


def test_blocks_are_real_seconds():
    blocks = time_blocks(lambda: time.sleep(0.002), time.perf_counter, budget_s=0.02)
    assert all(0.002 <= seconds < 10 for seconds in blocks)
    assert math.isfinite(sum(blocks))
