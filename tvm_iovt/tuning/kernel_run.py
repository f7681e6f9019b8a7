"""Running one built kernel: is it right, and how long does it take?

A kernel is timed as a network runs it: with other weights and activations at each call, so that
neither is in the level-2 cache already. Weights that are larger than that cache come from memory:
networks of such layers overflow the caches behind it, too.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes  # noqa: F401  # makes NumPy know bfloat16 and the float8 types
import numpy as np

from tvm_iovt._tvm import tvm
from tvm_iovt.schedules.tiles import ceil_div
from tvm_iovt.tuning.kernel_inputs import Argument
from tvm_iovt.tuning.kernel_replies import BUDGET_S

ROTATION_BYTES = 64 << 20
"""Memory that the rotating buffers of one kernel take at most, but for the last set of them."""

MAX_SETS = 128
"""Most sets of buffers to rotate."""

BLOCK_S = 0.004
"""Time of one block, in seconds."""

MIN_BLOCKS = 3
"""Blocks at least, whatever they take, unless the kernel is hopeless."""

_MAX_REPEATS = 4000
_DECIDING_BLOCKS = 2

Clock = Callable[[], float]


def clock_of(threads: int) -> Clock:
    """With one thread CPU time, which other processes disturb little; with several, wall time."""
    return time.process_time if threads == 1 else time.perf_counter


class Buffers:
    """The arguments of a kernel, as many sets of them as it takes to leave the cache.

    Args:
        inputs: The inputs, the activation first.
        outputs: The outputs.
        l2_bytes: Of one core; zero if everything shall come from memory.
        device: `tvm.runtime.Device` that they are on; by default the CPU.
    """

    def __init__(
        self,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[Argument],
        l2_bytes: int,
        device: Any = None,
    ) -> None:
        self._device = tvm.cpu(0) if device is None else device
        blank = [np.zeros(o.shape, np.dtype(o.dtype)) for o in outputs]
        set_bytes = max(sum(array.nbytes for array in (*inputs, *blank)), 1)
        streams = any(array.nbytes > l2_bytes for array in inputs[1:])
        fill_bytes = ROTATION_BYTES if streams else 2 * l2_bytes
        count = min(ceil_div(fill_bytes, set_bytes), MAX_SETS)
        self._inputs = tuple(inputs)
        self._outputs = len(blank)
        self._sets = [
            tuple(tvm.runtime.tensor(array, self._device) for array in (*inputs, *blank))
            for _ in range(count)
        ]

    def call_of(self, function: Any) -> Callable[[], object]:
        """What runs a function once, on the next set each time."""
        turn = itertools.cycle(self._sets)
        return lambda: function(*next(turn))

    def wait(self) -> None:
        """Until all calls have ended: those on a GPU only begin."""
        self._device.sync()

    def outputs_of(self, function: Any, fill: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """What a function computes on the inputs.

        Args:
            function: The kernel.
            fill: What the outputs hold before it runs.

        Raises:
            ValueError: It changes its inputs.
        """
        arguments = self._sets[0]
        outputs = arguments[len(arguments) - self._outputs :]
        for output, value in zip(outputs, fill, strict=True):
            output.copyfrom(value)
        function(*arguments)
        for tensor, value in zip(arguments, self._inputs, strict=False):
            if not np.array_equal(_bytes(tensor.numpy()), _bytes(value)):
                message = "it changes its inputs"
                raise ValueError(message)
        return tuple(output.numpy() for output in outputs)


def _bytes(array: np.ndarray) -> np.ndarray:
    """The same, with NaN equal to itself."""
    return array.reshape(-1).view(np.uint8)


def time_blocks(
    call: Callable[[], object],
    clock: Clock,
    wait: Callable[[], object] = lambda: None,
    *,
    budget_s: float = BUDGET_S,
    give_up_s: float = math.inf,
) -> tuple[float, ...]:
    """Seconds of one call, for each of several blocks of calls.

    Args:
        call: What to time; it is called for about half a block before.
        clock: Seconds.
        wait: Waits for what calls have begun; once a block.
        budget_s: Seconds for all of it; `MIN_BLOCKS` are made in any case.
        give_up_s: A kernel that takes longer than this in every one of the first blocks is not
            worth more of them.
    """
    call()
    wait()
    repeats, spent_s = 1, _time_of(call, wait, 1, clock)
    while spent_s < BLOCK_S / 4 and repeats < _MAX_REPEATS:
        repeats = _scaled(repeats, spent_s, BLOCK_S / 2)
        spent_s = _time_of(call, wait, repeats, clock)
    repeats = _scaled(repeats, spent_s, BLOCK_S)
    blocks: list[float] = []
    start = clock()
    while len(blocks) < MIN_BLOCKS or clock() - start < budget_s:
        blocks.append(_time_of(call, wait, repeats, clock) / repeats)
        if len(blocks) == _DECIDING_BLOCKS and min(blocks) > give_up_s:
            break
    return tuple(blocks)


def _time_of(
    call: Callable[[], object], wait: Callable[[], object], repeats: int, clock: Clock
) -> float:
    began = clock()
    for _ in range(repeats):
        call()
    wait()
    return clock() - began


def _scaled(repeats: int, spent_s: float, wanted_s: float) -> int:
    """Calls that take about as long as wanted, given what some took."""
    once_s = max(spent_s / repeats, wanted_s / _MAX_REPEATS)
    return max(math.ceil(wanted_s / once_s), 1)
