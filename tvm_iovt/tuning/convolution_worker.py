"""What a worker process does for `kernel_bench`: the kernels of one convolution at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tvm_iovt import _tvm
from tvm_iovt.runtime import threads as runtime_threads
from tvm_iovt.schedules.convolution import Conv2d
from tvm_iovt.schedules.selection import Kernel
from tvm_iovt.tuning.kernel_timing import Call, Timing, build_kernels, timer_of
from tvm_iovt.types import TargetSpec

SERVICE = "tvm_iovt.tuning.convolution_worker:ConvolutionWorker"


@dataclass(frozen=True, slots=True)
class RunKernel:
    """A kernel that has run once.

    Attributes:
        name: `selection.kernel_name`.
        output: What it computed, (batch, Ho, Wo, O) float32.
    """

    name: str
    output: np.ndarray


@dataclass(frozen=True, slots=True)
class RunKernels:
    """The kernels of one convolution.

    Attributes:
        kernels: Those that can run, in the order they were given.
        dropped: Name and reason of each of the others.
    """

    kernels: tuple[RunKernel, ...]
    dropped: tuple[tuple[str, str], ...]


class ConvolutionWorker:
    """Builds kernels and times them.

    Args:
        spec: The CPU of this machine.
        threads: Of TVM's pool.
    """

    def __init__(self, spec: TargetSpec, threads: int) -> None:
        os.environ[runtime_threads.COUNT] = str(threads)
        runtime_threads.set_defaults()
        runtime_threads.set_count(_tvm.tvm_ffi, threads)
        self._spec = spec
        self._target = _tvm.tvm_target(spec)
        self._timer = timer_of(threads)
        self._calls: dict[str, Call] = {}

    def build(self, conv: Conv2d, weights: np.ndarray, kernels: Sequence[Kernel]) -> RunKernels:
        """Build kernels of one convolution and run each once; those before are forgotten.

        Args:
            conv: The geometry.
            weights: OIHW float32.
            kernels: What to build.
        """
        self._calls = {}
        built = build_kernels(conv, weights, kernels, self._spec.cpu, self._target)
        self._calls = {kernel.name: kernel.call for kernel in built.kernels}
        ran = tuple(RunKernel(kernel.name, kernel.output) for kernel in built.kernels)
        return RunKernels(ran, built.dropped)

    def time(self, names: Sequence[str]) -> tuple[Timing, ...]:
        """Time built kernels against each other."""
        return self._timer([self._calls[name] for name in names])
