"""Building kernels for other devices, in worker processes of this machine."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tvm_iovt.errors import ToolchainError, TuningError
from tvm_iovt.tuning.kernel_replies import SERVICE, Reference
from tvm_iovt.tuning.pool import (
    BUILD_TIMEOUT_S,
    MEMORY_SHARE,
    REFERENCE_TIMEOUT_S,
)
from tvm_iovt.tuning.resource_limits import available_bytes
from tvm_iovt.tuning.trial import Trial, Workload
from tvm_iovt.tuning.worker_process import CallFailed, WorkerLost, WorkerProcess
from tvm_iovt.types import TargetSpec

_TRIES = 2


class BuildError(TuningError):
    """A kernel could not be built, or its reference not be computed; `what` is one line."""


class Builder(Protocol):
    """Builds kernels of trials as shared libraries, and knows what they should compute.

    All methods wait for their result; threads may share a builder, which then works for up to
    `jobs` of them at once.
    """

    @property
    def jobs(self) -> int:
        """Kernels that are built at once."""
        ...

    def build_so(self, trial: Trial, output: Path) -> float:
        """Build a trial's kernel for the target and link it; its function is `main`.

        Returns:
            Seconds of wall time that it took.

        Raises:
            BuildError: It cannot be built, or crashed the compiler, or took too long.
            ToolchainError: Nothing can be built at all.
        """
        ...

    def reference(self, workload: Workload) -> Reference:
        """What a workload computes; the errors are those of `build_so`."""
        ...

    def inputs(self, workload: Workload, how: str) -> tuple[np.ndarray, ...]:
        """The inputs that it computes that from, given `Reference.how`; likewise."""
        ...

    def close(self) -> None:
        """End all processes; who waits gets a `BuildError`."""
        ...


class BuildPool:
    """A `Builder` of worker processes, which start when they are first needed.

    Args:
        spec: The target, a CPU.
        jobs: Workers.
        cross_compiler: A linker to prefer, see `build.link.find_linker`.
        build_timeout_s: For one kernel.
        reference_timeout_s: For one reference.
    """

    def __init__(
        self,
        spec: TargetSpec,
        *,
        jobs: int,
        cross_compiler: str = "",
        build_timeout_s: float = BUILD_TIMEOUT_S,
        reference_timeout_s: float = REFERENCE_TIMEOUT_S,
    ) -> None:
        self._service = (spec, 1)
        self._jobs = jobs
        self._cross_compiler = cross_compiler
        self._build_timeout_s = build_timeout_s
        self._reference_timeout_s = reference_timeout_s
        self._growth_bytes = int(MEMORY_SHARE * available_bytes() / jobs)
        self._free = threading.Semaphore(jobs)
        self._lock = threading.Lock()
        self._idle: list[WorkerProcess] = []
        self._all: set[WorkerProcess] = set()
        self._closing = False

    @property
    def jobs(self) -> int:
        """Kernels that are built at once."""
        return self._jobs

    def build_so(self, trial: Trial, output: Path) -> float:
        """See `Builder.build_so`."""
        arguments = (trial, output, self._cross_compiler)
        seconds = self._ask("export", *arguments, timeout_s=self._build_timeout_s)
        return float(seconds)

    def reference(self, workload: Workload) -> Reference:
        """See `Builder.reference`."""
        timeout_s = self._reference_timeout_s
        found: Reference = self._ask("reference", workload, timeout_s=timeout_s)
        return found

    def inputs(self, workload: Workload, how: str) -> tuple[np.ndarray, ...]:
        """See `Builder.inputs`."""
        timeout_s = self._build_timeout_s
        found: tuple[np.ndarray, ...] = self._ask("inputs", workload, how, timeout_s=timeout_s)
        return found

    def close(self) -> None:
        """End all processes; who waits gets a `BuildError`."""
        with self._lock:
            self._closing = True
            for worker in self._all:
                worker.kill()
            for worker in self._idle:
                worker.close()

    def _ask(self, method: str, *arguments: object, timeout_s: float) -> Any:
        """Have a worker do it; one that was killed from outside is replaced, once."""
        for attempt in range(1, _TRIES + 1):
            with self._free:
                worker = self._worker()
                try:
                    result = worker.call(method, *arguments, timeout_s=timeout_s)
                except CallFailed as error:
                    self._put_back(worker)
                    raise BuildError(error.what) from None
                except WorkerLost as error:
                    self._forget(worker)
                    if error.signal == signal.SIGKILL and attempt < _TRIES and not self._ends():
                        continue
                    raise BuildError(f"its process {error.what}", seen=error.last_words) from None
                except BaseException:
                    self._forget(worker)
                    raise
                self._put_back(worker)
                return result
        raise AssertionError

    def _worker(self) -> WorkerProcess:
        with self._lock:
            if self._closing:
                raise BuildError("the builder has been closed")
            while self._idle:
                worker = self._idle.pop()
                if worker.alive:
                    return worker
                self._all.discard(worker)
                worker.close()
        try:
            worker = WorkerProcess(SERVICE, self._service, growth_bytes=self._growth_bytes)
            with self._lock:
                self._all.add(worker)
            if self._ends():
                worker.kill()
            worker.start()
        except (CallFailed, WorkerLost) as error:
            if self._ends():
                raise BuildError("the builder has been closed") from None
            raise ToolchainError(
                "A process that builds kernels cannot be started",
                seen=": ".join(filter(None, (error.what, error.seen))),
                do="`tvm-iovt doctor` checks the installation",
            ) from error
        return worker

    def _ends(self) -> bool:
        with self._lock:
            return self._closing

    def _put_back(self, worker: WorkerProcess) -> None:
        with self._lock:
            self._idle.append(worker)
        if self._ends():
            worker.close()

    def _forget(self, worker: WorkerProcess) -> None:
        with self._lock:
            self._all.discard(worker)
        worker.close()
