"""What `kernel_worker` is asked and answers; importing this does not import TVM."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SERVICE = "tvm_iovt.tuning.kernel_worker:KernelWorker"
"""To be given to `worker_process.WorkerProcess`."""

BUDGET_S = 0.05
"""Time to measure one kernel for, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What a workload computes.

    Attributes:
        how: How its inputs are drawn, see `kernel_inputs.draw`.
        outputs: Of the unscheduled function.
        fill: What the outputs are to hold before a kernel runs: something else wherever it should
            write, and the same where it should not (a kernel may write inside of a border).
        seconds: That it took to build and run, wall time.
    """

    how: str
    outputs: tuple[np.ndarray, ...]
    fill: tuple[np.ndarray, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A kernel that is kept in the worker.

    Attributes:
        handle: Names it to the worker.
        build_s: Wall time that it took.
    """

    handle: int
    build_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What became of a built kernel; the fields are those of `trial.TrialResult`."""

    run_s: tuple[float, ...] = ()
    failed: str = ""
    error: str = ""
    deviation: float | None = None
    measure_s: float = 0.0
