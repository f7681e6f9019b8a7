"""A session that computes and times single kernels on a board; see `board_measurer`."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  # makes NumPy know bfloat16 and the float8 types
import numpy as np

from tvm_iovt.boards.rpc_session import RpcSession

BLOCKS = 10
"""Values that a timing has at most, each the median of as many calls."""

MIN_CALLS = 3
"""Calls to time at least, whatever they take."""

_MAX_CALLS = 500
_ESTIMATES = 2
_COLD = "cache_flush_cpu_non_first_arg"
"""TVM's function that takes all arguments but the first, the activation, out of the caches: what a
network sees, whose weights are not in the level-2 cache when their turn comes."""


class KernelSession(RpcSession):
    """A session that runs kernels, one at a time, on the arguments of one workload."""

    def __init__(self) -> None:
        super().__init__()
        self._arguments: list[Any] = []
        self._outputs = 0
        self._module: Any = None
        self._cold = ""

    def open(self, host: str, port: int, match_key: str, limit_s: float) -> None:
        """See `RpcSession.open`."""
        super().open(host, port, match_key, limit_s)
        self._cold = _COLD if self.has_function(_COLD) else ""

    def use_threads(self, threads: int) -> None:
        """Run kernels with that many threads on the board, the big cores first."""
        big_cores_first = 1  # ThreadGroup::AffinityMode::kBig
        self._session.get_function("runtime.config_threadpool")(big_cores_first, threads)

    def prepare(self, inputs: tuple[np.ndarray, ...], fill: tuple[np.ndarray, ...]) -> None:
        """Place the arguments of a workload; `compute` and `time` use them."""
        self._arguments = [self._place(array, "llvm") for array in (*inputs, *fill)]
        self._outputs = len(fill)

    def compute(self, library: Path, fill: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """Upload a kernel and run it once.

        Args:
            library: Its function is `main`.
            fill: What the outputs hold before.

        Returns:
            What they hold then.
        """
        self._module = None  # at most one is loaded
        self._module = self.load_library(library)
        outputs = self._arguments[len(self._arguments) - self._outputs :]
        for output, value in zip(outputs, fill, strict=True):
            output.copyfrom(value)
        self._module["main"](*self._arguments)
        return self.outputs()

    def outputs(self) -> tuple[np.ndarray, ...]:
        """What the outputs hold now."""
        outputs = self._arguments[len(self._arguments) - self._outputs :]
        return tuple(output.numpy() for output in outputs)

    def time(self, budget_s: float, give_up_s: float = math.inf) -> tuple[float, ...]:
        """Seconds of one call of the last kernel with cold weights, a value for each block.

        Args:
            budget_s: Seconds for all of it.
            give_up_s: A kernel that takes longer than this in each of the first calls is not worth
                more of them.
        """
        first = self._timed(_ESTIMATES)
        if min(first) > give_up_s:
            return first
        calls = math.ceil(budget_s / max(statistics.median(first), 1e-7))
        calls = min(max(calls, MIN_CALLS), _MAX_CALLS)
        size = math.ceil(calls / BLOCKS)
        samples = self._timed(math.ceil(calls / size) * size)
        return tuple(statistics.median(samples[i : i + size]) for i in range(0, len(samples), size))

    def _timed(self, calls: int) -> tuple[float, ...]:
        timer = self._module.time_evaluator(
            "main", self.device("llvm"), number=1, repeat=calls, f_preproc=self._cold
        )
        return tuple(map(float, timer(*self._arguments).results))
