"""Building and timing the candidate kernels of one convolution, on this machine.

A kernel is timed as a network runs it: followed by a bias and a clip, with other weights and
activations at each call, so that neither is in the level-2 cache already. Weights that are larger
than that cache come from memory: networks of such layers overflow the caches behind it, too.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_iovt._tvm import tvm
from tvm_iovt.schedules.convolution import Conv2d, conv2d_packed, pack_weights
from tvm_iovt.schedules.cpu import schedule_function
from tvm_iovt.schedules.selection import Kernel, kernel_name
from tvm_iovt.schedules.tiles import Tile, ceil_div
from tvm_iovt.schedules.tvm_api import te, tirx
from tvm_iovt.schedules.winograd import conv2d_winograd, pack_winograd_weights
from tvm_iovt.tuning.kernel_run import MAX_SETS, ROTATION_BYTES
from tvm_iovt.types import CpuSpec

BUDGET_S = 0.12
"""Time to measure all kernels of one convolution for, in seconds."""

BLOCK_S = 0.001
"""Time of one block, in seconds: well above the resolution of the clock."""

MAX_REPEATS = 1000
"""Calls of a block at most."""

MIN_ROUNDS = 5
"""Blocks of each kernel at least, whatever they take."""

_LEAD_IN = 1
"""Calls at the start of a block that are not timed: the kernel before leaves its traces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds of one call.

    Attributes:
        median_s: Median of the blocks.
        spread_s: Half of the notch of a box plot, `1.57 IQR / sqrt(blocks)` (McGill et al., doi
            10.1080/00031305.1978.10479236): medians further apart than both their spreads differ
            with some 95 % confidence.
    """

    median_s: float
    spread_s: float


Call = Callable[[], object]
Timer = Callable[[Sequence[Call]], tuple[Timing, ...]]
"""From the calls to compare to their timings, in order."""


@dataclass(frozen=True, slots=True)
class BuiltKernel:
    """A kernel that can run.

    Attributes:
        name: `selection.kernel_name`.
        call: Runs it once, on the next set of buffers.
        output: What it computed on the first set, (batch, Ho, Wo, O) float32.
    """

    name: str
    call: Call
    output: np.ndarray


@dataclass(frozen=True, slots=True)
class BuiltKernels:
    """The kernels of one convolution.

    Attributes:
        kernels: Those that can run, in the order they were given.
        dropped: Name and reason of each of the others.
    """

    kernels: tuple[BuiltKernel, ...]
    dropped: tuple[tuple[str, str], ...]


def timer_of(threads: int, *, budget_s: float = BUDGET_S) -> Timer:
    """A timer for kernels that run on this machine.

    With one thread it counts CPU time, which other processes disturb little; with several, wall
    time. Kernels take turns in blocks, and the order rotates, so that whatever changes while they
    are measured hits all of them.

    Args:
        threads: Threads of TVM's pool.
        budget_s: Seconds to measure for, all kernels together.
    """
    clock = time.process_time if threads == 1 else time.perf_counter

    def timer(calls: Sequence[Call]) -> tuple[Timing, ...]:
        return interleaved(calls, clock, budget_s)

    return timer


def interleaved(
    calls: Sequence[Call], clock: Callable[[], float], budget_s: float
) -> tuple[Timing, ...]:
    """Time calls in interleaved blocks.

    Args:
        calls: What to time; each is called twice before.
        clock: Seconds.
        budget_s: Seconds for all of it; `MIN_ROUNDS` blocks of each are made in any case.
    """
    repeats = []
    for call in calls:
        call()
        began = clock()
        call()
        repeats.append(math.ceil(BLOCK_S / max(clock() - began, BLOCK_S / MAX_REPEATS)))
    blocks: list[list[float]] = [[] for _ in calls]
    rounds, start = 0, clock()
    while rounds < MIN_ROUNDS or clock() - start < budget_s:
        for turn in range(len(calls)):
            which = (rounds + turn) % len(calls)
            call = calls[which]
            for _ in range(_LEAD_IN):
                call()
            began = clock()
            for _ in range(repeats[which]):
                call()
            blocks[which].append((clock() - began) / repeats[which])
        rounds += 1
    return tuple(map(_timing, blocks))


def _timing(samples: list[float]) -> Timing:
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    spread_s = 1.57 * (high - low) / math.sqrt(len(samples))
    return Timing(median_s=statistics.median(samples), spread_s=spread_s)


def build_kernels(
    conv: Conv2d, weights: np.ndarray, kernels: Sequence[Kernel], cpu: CpuSpec, target: Any
) -> BuiltKernels:
    """Build kernels of one convolution for this machine and run each once.

    Args:
        conv: The geometry.
        weights: OIHW float32.
        kernels: What to build.
        cpu: What to schedule for.
        target: `tvm.target.Target` of this machine.
    """
    scale = float(np.sqrt(np.mean(np.sum(np.square(weights, dtype=np.float64), axis=(1, 2, 3)))))
    shape = (conv.batch, *conv.in_size, conv.in_channels)
    image = np.random.default_rng(0).standard_normal(shape, np.float32)
    image *= np.float32(1 / scale if scale else 1)  # outputs of about 1, as in a trained network
    functions: dict[str, Any] = {}
    packed: dict[str, np.ndarray] = {}
    dropped: list[tuple[str, str]] = []
    for kernel in kernels:
        name = kernel_name(kernel)
        try:
            packed[name] = _packed(weights, conv, kernel)
            function, decision = schedule_function(
                _function(conv, kernel, packed[name].shape), cpu, name
            )
            if not decision.applied:
                dropped.append((name, f"no schedule: {decision.reason}"))
                continue
            functions[name] = function
        except Exception as error:  # TVM raises plain and unrelated classes
            dropped.append((name, _reason(error)))
    libraries, failed = _compiled(functions, target)
    dropped += failed
    largest_bytes = max((packed[name].nbytes for name in libraries), default=0)
    fill_bytes = ROTATION_BYTES if largest_bytes > cpu.l2_bytes else 2 * cpu.l2_bytes
    buffers = _Buffers(image, conv, fill_bytes)
    built = []
    for name, function in libraries.items():
        try:
            built.append(buffers.built(name, function, packed[name]))
        except Exception as error:
            dropped.append((name, _reason(error)))
    return BuiltKernels(tuple(built), tuple(dropped))


def _packed(weights: np.ndarray, conv: Conv2d, kernel: Kernel) -> np.ndarray:
    if isinstance(kernel, Tile):
        return pack_weights(weights, conv.groups, kernel.channels)
    return pack_winograd_weights(weights, conv, kernel)


def _function(conv: Conv2d, kernel: Kernel, packed: tuple[int, ...]) -> Any:
    """The convolution with a bias and a clip, unscheduled."""
    image = te.placeholder((conv.batch, *conv.in_size, conv.in_channels), name="image")
    weight = te.placeholder(packed, name="weight")
    bias = te.placeholder((conv.out_channels,), name="bias")
    convolved = (
        conv2d_packed(image, weight, conv, kernel)
        if isinstance(kernel, Tile)
        else conv2d_winograd(image, weight, conv, kernel)
    )
    shifted = te.compute(
        convolved.shape, lambda n, h, w, o: convolved(n, h, w, o) + bias(o), name="T_add"
    )
    low, high = (tirx.const(value, "float32") for value in (0.0, 6.0))
    clipped = te.compute(
        shifted.shape,
        lambda n, h, w, o: tirx.max(tirx.min(shifted(n, h, w, o), high), low),
        name="compute",
    )
    return te.create_prim_func([image, weight, bias, clipped])


def _compiled(
    functions: dict[str, Any], target: Any
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The compiled functions by name: one module for all, or one each if that fails."""
    names = list(functions)
    try:
        return _module(functions, names, target), []
    except Exception:  # which one it was shows when they are built alone
        built: dict[str, Any] = {}
        failed: list[tuple[str, str]] = []
        for name in names:
            try:
                built |= _module(functions, [name], target)
            except Exception as error:
                failed.append((name, _reason(error)))
        return built, failed


def _module(functions: dict[str, Any], names: list[str], target: Any) -> dict[str, Any]:
    symbols = {name: f"kernel{i}" for i, name in enumerate(names)}
    module = tvm.IRModule(
        {symbols[n]: functions[n].with_attr("global_symbol", symbols[n]) for n in names}
    )
    with target:
        library = tvm.compile(module, target=target)
    return {name: library[symbols[name]] for name in names}


class _Buffers:
    """Images and outputs that the kernels of one convolution share, as many as it takes."""

    def __init__(self, image: np.ndarray, conv: Conv2d, fill_bytes: int) -> None:
        self._image = image
        self._shape = (conv.batch, *conv.out_size, conv.out_channels)
        self._bias = tvm.runtime.tensor(np.full(conv.out_channels, 0.1, np.float32))
        self._fill_bytes = fill_bytes
        self._images: list[Any] = []
        self._outputs: list[Any] = []

    def built(self, name: str, function: Any, packed: np.ndarray) -> BuiltKernel:
        """A kernel on its rotating buffers, after one run."""
        set_bytes = packed.nbytes + self._image.nbytes + 4 * int(np.prod(self._shape))
        count = min(ceil_div(self._fill_bytes, set_bytes), MAX_SETS)
        while len(self._images) < count:
            self._images.append(tvm.runtime.tensor(self._image))
            self._outputs.append(tvm.runtime.tensor(np.zeros(self._shape, np.float32)))
        sets = [
            (self._images[i], tvm.runtime.tensor(packed), self._bias, self._outputs[i])
            for i in range(count)
        ]
        turn = 0

        def call() -> None:
            nonlocal turn
            function(*sets[turn])
            turn = (turn + 1) % count

        function(*sets[0])
        return BuiltKernel(name, call, self._outputs[0].numpy())


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:200]
