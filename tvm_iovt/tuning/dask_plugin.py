"""What `dask_builds` runs inside of the workers of a cluster."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from distributed import WorkerPlugin, get_worker

from tvm_iovt._version import __version__
from tvm_iovt.errors import ToolchainError
from tvm_iovt.tuning.build_pool import BuildPool
from tvm_iovt.tuning.kernel_replies import Reference
from tvm_iovt.tuning.trial import Trial, Workload
from tvm_iovt.types import TargetSpec

IDLE_S = 120.0
"""Processes that had nothing to do for so long end: whom they work for may be gone."""


class KernelBuilds(WorkerPlugin):  # type: ignore[misc]
    """The building processes of one worker of a cluster, for one `dask_builds.DaskBuilder`.

    Args:
        spec: The target.
        options: Further arguments of `BuildPool`.
        version: Of this package, where the builder is.
    """

    def __init__(self, spec: TargetSpec, options: Mapping[str, Any], version: str) -> None:
        self._spec = spec
        self._options = dict(options)
        self._version = version

    def setup(self, worker: Any) -> None:
        """Called by Dask, in the worker."""
        self._jobs = worker.state.nthreads
        self._lock = threading.Lock()
        self._pool: BuildPool | None = None
        self._users = 0
        self._timer: threading.Timer | None = None

    def teardown(self, worker: Any) -> None:
        """Called by Dask when the plugin is removed or the worker ends."""
        with self._lock:
            self._stop_timer()
            if self._pool is not None:
                self._pool.close()
                self._pool = None

    @contextmanager
    def pool(self) -> Iterator[BuildPool]:
        """The processes, which start when they are needed.

        Raises:
            ToolchainError: This package is another version here.
        """
        if self._version != __version__:
            raise ToolchainError(
                "A worker of the Dask cluster has another version of tvm-iovt",
                seen=f"{__version__} there, {self._version} here",
                do="install the same version on all machines",
            )
        with self._lock:
            self._stop_timer()
            if self._pool is None:
                self._pool = BuildPool(self._spec, jobs=self._jobs, **self._options)
            self._users += 1
            pool = self._pool
        try:
            yield pool
        finally:
            with self._lock:
                self._users -= 1
                if not self._users and self._pool is not None:
                    self._timer = threading.Timer(IDLE_S, self._expire)
                    self._timer.daemon = True
                    self._timer.start()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        with self._lock:
            if not self._users and self._pool is not None:
                self._pool.close()
                self._pool = None


def build(plugin: str, trial: Trial) -> tuple[bytes, float]:
    """The shared library of a trial's kernel, and seconds of wall time that it took."""
    with _builds(plugin).pool() as pool, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.so"
        seconds = pool.build_so(trial, path)
        return path.read_bytes(), seconds


def reference(plugin: str, workload: Workload) -> Reference:
    """See `build_pool.Builder.reference`."""
    with _builds(plugin).pool() as pool:
        return pool.reference(workload)


def inputs(plugin: str, workload: Workload, how: str) -> tuple[np.ndarray, ...]:
    """See `build_pool.Builder.inputs`."""
    with _builds(plugin).pool() as pool:
        return pool.inputs(workload, how)


def _builds(plugin: str) -> KernelBuilds:
    found: KernelBuilds = get_worker().plugins[plugin]
    return found
