"""Building and timing the candidate kernels of convolutions in a worker process.

A kernel that crashes or hangs costs itself, and some seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from tvm_iovt.errors import ToolchainError
from tvm_iovt.schedules.convolution import Conv2d
from tvm_iovt.schedules.selection import Kernel, kernel_name
from tvm_iovt.tuning.convolution_worker import SERVICE, RunKernels
from tvm_iovt.tuning.kernel_timing import Timing
from tvm_iovt.tuning.resource_limits import available_bytes
from tvm_iovt.tuning.worker_process import CallFailed, WorkerLost, WorkerProcess
from tvm_iovt.types import TargetSpec

BUILD_TIMEOUT_S = 120.0
"""For one kernel, built and run once."""

TIME_TIMEOUT_S = 120.0

MEMORY_SHARE = 0.8
"""Share of the free memory that kernels may take."""


class Bench(Protocol):
    """What measures needs of a device."""

    def build(self, conv: Conv2d, weights: np.ndarray, kernels: Sequence[Kernel]) -> RunKernels:
        """Build kernels of one convolution and run each once; those before are forgotten."""
        ...

    def time(self, names: Sequence[str]) -> tuple[Timing, ...]:
        """Time built kernels against each other.

        Raises:
            WorkerLost: One of them crashed or hung.
        """
        ...

    def close(self) -> None:
        """End what runs for it."""
        ...


class KernelBench:
    """A `Bench` of this machine; its process starts when it is first needed.

    Args:
        spec: The CPU of this machine as a target.
        threads: To run kernels with.
        build_timeout_s: For one kernel.
        time_timeout_s: For timing those of one convolution.
    """

    def __init__(
        self,
        spec: TargetSpec,
        threads: int,
        *,
        build_timeout_s: float = BUILD_TIMEOUT_S,
        time_timeout_s: float = TIME_TIMEOUT_S,
    ) -> None:
        self._arguments = (spec, threads)
        self._build_timeout_s = build_timeout_s
        self._time_timeout_s = time_timeout_s
        self._process: WorkerProcess | None = None

    def build(self, conv: Conv2d, weights: np.ndarray, kernels: Sequence[Kernel]) -> RunKernels:
        """Build kernels of one convolution and run each once.

        Args:
            conv: The geometry.
            weights: OIHW float32.
            kernels: What to build.

        Raises:
            ToolchainError: No process can be started.
        """
        try:
            return self._built(conv, weights, kernels)
        except WorkerLost:
            pass
        # One of them did it: each has a process of its own choice to show that it was not.
        sound: list[Kernel] = []
        dropped: list[tuple[str, str]] = []
        for kernel in kernels:
            try:
                self._built(conv, weights, [kernel])
                sound.append(kernel)
            except WorkerLost as lost:
                dropped.append((kernel_name(kernel), f"its process {lost.what}"))
        try:
            found = self._built(conv, weights, sound)
        except WorkerLost as lost:
            reason = f"the process of all kernels {lost.what}"
            return RunKernels((), (*dropped, *((kernel_name(k), reason) for k in sound)))
        return RunKernels(found.kernels, (*dropped, *found.dropped))

    def time(self, names: Sequence[str]) -> tuple[Timing, ...]:
        """Time kernels of the convolution that was built last against each other.

        Raises:
            WorkerLost: One of them crashed or hung.
        """
        times: tuple[Timing, ...] = self._call("time", names, timeout_s=self._time_timeout_s)
        return times

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def _built(self, conv: Conv2d, weights: np.ndarray, kernels: Sequence[Kernel]) -> RunKernels:
        if not kernels:
            return RunKernels((), ())
        timeout_s = self._build_timeout_s * len(kernels)
        try:
            found: RunKernels = self._call("build", conv, weights, kernels, timeout_s=timeout_s)
        except CallFailed as error:
            return RunKernels((), tuple((kernel_name(k), error.what) for k in kernels))
        return found

    def _call(self, method: str, *arguments: object, timeout_s: float) -> Any:
        process = self._process or self._started()
        try:
            return process.call(method, *arguments, timeout_s=timeout_s)
        except WorkerLost:
            self.close()
            raise

    def _started(self) -> WorkerProcess:
        growth_bytes = int(MEMORY_SHARE * available_bytes())
        try:
            process = WorkerProcess(SERVICE, self._arguments, growth_bytes=growth_bytes)
            process.start()
        except (CallFailed, WorkerLost) as error:
            raise ToolchainError(
                "The process that measures kernels cannot be started",
                seen=": ".join(filter(None, (error.what, error.seen))),
                do="`tvm-iovt doctor` checks the installation",
            ) from error
        self._process = process
        return process
