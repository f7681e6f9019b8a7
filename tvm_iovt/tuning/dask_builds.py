"""Building kernels on other machines, by workers of a `dask.distributed` cluster.

Each machine needs this package, with the same versions of it and of TVM, and a linker for the
target. There, and where the scheduler is:

    pip install "tvm-iovt[dask]"
    dask scheduler                                   # prints its address, tcp://HOST:8786
    dask worker tcp://HOST:8786 --nthreads 8         # on each machine that builds

Whoever reaches these ports can run code there: they belong into a private network, or need TLS.
"""

from __future__ import annotations

import dataclasses
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tvm_iovt import _tvm
from tvm_iovt._version import __version__
from tvm_iovt.atomic_write import write_atomically
from tvm_iovt.errors import DeviceError, IovtError, ToolchainError
from tvm_iovt.tuning.build_pool import BuildError, BuildPool
from tvm_iovt.tuning.kernel_replies import Reference
from tvm_iovt.tuning.pool import BUILD_TIMEOUT_S, REFERENCE_TIMEOUT_S
from tvm_iovt.tuning.trial import Trial, Workload
from tvm_iovt.types import TargetSpec

CONNECT_TIMEOUT_S = 10.0

IDLE_S = 120.0
"""Processes of a cluster's worker that have had nothing to do for so long end."""

_PATIENCE_S = 120.0
"""For a cluster that does not answer at all, beyond the time limit of what it was asked."""

Versions = tuple[str, str, str]


class DaskBuilder:
    """A `build_pool.Builder` whose processes run on the machines of a cluster.

    A worker that is lost, and one that joins, is the scheduler's affair: what was under way is
    built again elsewhere.

    Args:
        spec: The target, a CPU.
        scheduler: `HOST:PORT`.
        cross_compiler: A linker to prefer on those machines.
        build_timeout_s: For one kernel.
        reference_timeout_s: For one reference.

    Raises:
        ToolchainError: `distributed` is not installed.
        DeviceError: There is no scheduler, or it has no workers.
    """

    def __init__(
        self,
        spec: TargetSpec,
        scheduler: str,
        *,
        cross_compiler: str = "",
        build_timeout_s: float = BUILD_TIMEOUT_S,
        reference_timeout_s: float = REFERENCE_TIMEOUT_S,
    ) -> None:
        distributed = _distributed()
        self._scheduler = scheduler
        self._build_timeout_s = build_timeout_s
        self._reference_timeout_s = reference_timeout_s
        self._closed = False
        try:
            self._client = distributed.Client(
                scheduler, timeout=CONNECT_TIMEOUT_S, set_as_default=False
            )
            self._client.wait_for_workers(1, timeout=CONNECT_TIMEOUT_S)
        except (OSError, ValueError, TimeoutError) as error:
            if hasattr(self, "_client"):
                self._client.close()
            raise DeviceError(
                f"No workers of a Dask cluster can be reached at {scheduler}",
                seen=f"{type(error).__name__}: {error}",
                do="start `dask scheduler` there, and `dask worker` on the machines that build",
            ) from error
        if spec.cpu.mcpu == "native":  # of this machine, whatever the others are
            cpu = dataclasses.replace(spec.cpu, mcpu=_tvm.llvm_cpu_name())
            spec = dataclasses.replace(spec, cpu=cpu)
        self._plugin = f"tvm-iovt-builds-{uuid.uuid4().hex}"
        options = {
            "cross_compiler": cross_compiler,
            "build_timeout_s": build_timeout_s,
            "reference_timeout_s": reference_timeout_s,
        }
        self._client.register_plugin(_plugin(spec, options), name=self._plugin)

    @property
    def jobs(self) -> int:
        """Kernels that the cluster builds at once."""
        return max(sum(self._client.nthreads().values()), 1)

    def build_so(self, trial: Trial, output: Path) -> float:
        """See `Builder.build_so`."""
        library, seconds = self._ask(_build, trial, timeout_s=self._build_timeout_s)
        write_atomically(output, library)
        return float(seconds)

    def reference(self, workload: Workload) -> Reference:
        """See `Builder.reference`."""
        timeout_s = self._reference_timeout_s
        found: Reference = self._ask(_reference, workload, timeout_s=timeout_s)
        return found

    def inputs(self, workload: Workload, how: str) -> tuple[np.ndarray, ...]:
        """See `Builder.inputs`."""
        timeout_s = self._build_timeout_s
        found: tuple[np.ndarray, ...] = self._ask(_inputs, workload, how, timeout_s=timeout_s)
        return found

    def close(self) -> None:
        """Have the cluster end what runs there for this builder, and leave it."""
        if self._closed:
            return
        self._closed = True
        try:
            self._client.unregister_worker_plugin(self._plugin)
        except Exception:  # the cluster may be gone: then there is nothing to end
            pass
        self._client.close()

    def _ask(self, function: Callable[..., Any], *arguments: object, timeout_s: float) -> Any:
        if self._closed:
            raise BuildError("the builder has been closed")
        future = self._client.submit(
            function, self._plugin, _versions(), *arguments, pure=False, retries=1
        )
        try:
            return future.result(timeout=timeout_s + _PATIENCE_S)
        except IovtError:
            raise
        except TimeoutError as error:
            raise DeviceError(
                f"The Dask cluster at {self._scheduler} does not answer",
                seen=f"nothing within {timeout_s + _PATIENCE_S:g} s",
                do="look at its scheduler and workers",
            ) from error
        except Exception as error:  # of Dask: the worker was lost too often, or the scheduler was
            raise BuildError(f"{type(error).__name__}: {error}".splitlines()[0]) from error
        finally:
            future.release()
