"""A session with a board that times small networks; see `boards.rpc_session`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tvm_iovt.boards.rpc_session import RpcSession

_BLOCK_S = 0.02
_MOST_CALLS = 2000
_BLOCKS = 9


class ProbeSession(RpcSession):
    """Loads one network at a time, and lets go of it when it is timed."""

    def set_threads(self, threads: int) -> int:
        """Compute with that many threads; returns how many the board really uses."""
        big_cores_first = 1  # ThreadGroup::AffinityMode::kBig
        count = self._session.get_function("runtime.NumThreads")
        if int(count()) > threads:
            self._session.get_function("runtime.config_threadpool")(big_cores_first, threads)
        return int(count())

    def seconds(self, library: Path, shape: tuple[int, ...]) -> float:
        """Seconds of a run of `main` on ones, the fastest block of many.

        Args:
            library: A stage with one input of float32.
            shape: Of the input.
        """
        from tvm.runtime.vm import VirtualMachine

        device = self.device("llvm")
        machine = VirtualMachine(self.load_library(library), device)
        x = self._place(np.ones(shape, np.float32), "llvm")
        machine.save_function("main", "timed", x, include_return=False)
        first = machine.module.time_evaluator("timed", device, number=1, repeat=3)().results
        calls = max(min(int(_BLOCK_S / max(min(first), 1e-7)), _MOST_CALLS), 1)
        timer = machine.module.time_evaluator("timed", device, number=calls, repeat=_BLOCKS)
        return float(min(timer().results))
