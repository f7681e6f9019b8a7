"""Building kernels on other machines, by workers of a `dask.distributed` cluster.

Each machine needs this package, with the same versions of it and of TVM, and a linker for the
target. There, and where the scheduler is:

    pip install "tvm-iovt[dask]"
    dask scheduler                                   # prints its address, tcp://HOST:8786
    dask worker tcp://HOST:8786 --nthreads 8         # on each machine that builds

Whoever reaches these ports can run code there: they belong into a private network, or need TLS.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from tvm_iovt import _tvm
from tvm_iovt._version import __version__
from tvm_iovt.atomic_write import write_atomically
from tvm_iovt.errors import DeviceError, IovtError, ToolchainError
from tvm_iovt.tuning.build_pool import BuildError
from tvm_iovt.tuning.kernel_replies import Reference
from tvm_iovt.tuning.pool import BUILD_TIMEOUT_S, REFERENCE_TIMEOUT_S
from tvm_iovt.tuning.trial import Trial, Workload
from tvm_iovt.types import TargetSpec

CONNECT_TIMEOUT_S = 10.0

_PATIENCE_S = 120.0
"""For a cluster that does not answer at all, beyond the time limit of what it was asked."""


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
        if importlib.util.find_spec("distributed") is None:
            raise ToolchainError(
                "Dask's scheduler cannot be used",
                seen="the package `distributed` is not installed",
                do='pip install "tvm-iovt[dask]", here and on the machines that build',
            )
        from tvm_iovt.tuning import dask_plugin

        if spec.cpu.mcpu == "native":  # this machine's, whatever the others have
            cpu = dataclasses.replace(spec.cpu, mcpu=_tvm.llvm_cpu_name())
            spec = dataclasses.replace(spec, cpu=cpu)
        options = {
            "cross_compiler": cross_compiler,
            "build_timeout_s": build_timeout_s,
            "reference_timeout_s": reference_timeout_s,
        }
        self._tasks = dask_plugin
        self._scheduler = scheduler
        self._build_timeout_s = build_timeout_s
        self._reference_timeout_s = reference_timeout_s
        self._closed = False
        self._client = _client(scheduler)
        self._plugin = f"tvm-iovt-builds-{uuid.uuid4().hex}"
        builds = dask_plugin.KernelBuilds(spec, options, __version__)
        self._client.register_plugin(builds, name=self._plugin)

    @property
    def jobs(self) -> int:
        """Kernels that the cluster builds at once."""
        return max(sum(map(int, self._client.nthreads().values())), 1)

    def build_so(self, trial: Trial, output: Path) -> float:
        """See `Builder.build_so`."""
        library, seconds = self._ask("build", trial, timeout_s=self._build_timeout_s)
        write_atomically(output, library)
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
        """Have the cluster end what runs there for this builder, and leave it."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(Exception):  # without a cluster there is nothing left to end
            self._client.unregister_worker_plugin(self._plugin)
        self._client.close()

    def _ask(self, task: str, *arguments: object, timeout_s: float) -> Any:
        if self._closed:
            raise BuildError("the builder has been closed")
        function = getattr(self._tasks, task)
        future = self._client.submit(function, self._plugin, *arguments, pure=False)
        limit_s = timeout_s + _PATIENCE_S
        try:
            return future.result(timeout=limit_s)
        except IovtError:
            raise
        except TimeoutError as error:
            raise DeviceError(
                f"The Dask cluster at {self._scheduler} does not answer",
                seen=f"nothing within {limit_s:g} s",
                do="look at its scheduler and workers",
            ) from error
        except Exception as error:  # Dask's own: the worker was lost too often, or the scheduler
            if self._closed:
                raise BuildError("the builder has been closed") from None
            raise BuildError(f"{type(error).__name__}: {error}".splitlines()[0]) from error
        finally:
            future.release()


def _client(scheduler: str) -> Any:
    """A connection to a cluster that has a worker."""
    from distributed import Client

    client = None
    try:
        client = Client(scheduler, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
        client.wait_for_workers(1, timeout=CONNECT_TIMEOUT_S)
    except (OSError, ValueError, TimeoutError) as error:
        if client is not None:
            client.close()
        raise DeviceError(
            f"No worker of a Dask cluster can be reached through {scheduler}",
            seen=" ".join(f"{type(error).__name__}: {error}".split())[:300],
            do="start `dask scheduler` there, and `dask worker` on the machines that build",
        ) from error
    return client
