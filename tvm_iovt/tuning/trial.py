"""What the tuner asks to be measured, what it gets back, and from whom.

A `Measurer` is a machine or several: worker processes here, boards behind a tracker, builders on
other machines. It takes trials and gives each of them back exactly once, measured or failed; what
dies on the way (a worker, a board) is its own affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A kernel to find a schedule for.

    Attributes:
        key: Equal keys mean equal functions.
        name: For people.
        module: `tvm.ir.save_json` of a module whose function `main` is the unscheduled PrimFunc.
        outputs: How many of its last parameters are outputs; the others are inputs.
    """

    key: str
    name: str
    module: str
    outputs: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One schedule to build, check and time.

    Attributes:
        key: Equal keys mean equal schedules of equal workloads.
        workload: What it computes.
        module: `tvm.ir.save_json` of the scheduled module; parameters as in the workload.
    """

    key: str
    workload: Workload
    module: str


BUILD, RUN, CHECK = "build", "run", "check"
"""Where a trial can fail: no code, no timing, or other numbers than the reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """What became of a trial.

    Attributes:
        key: Of the trial.
        run_s: Seconds of one call, one value for each block that was timed; empty if it failed.
        failed: `BUILD`, `RUN` or `CHECK`; empty if it was measured.
        error: Why, in one line.
        deviation: Largest difference from the unscheduled function, relative to its largest output;
            None if that was not compared.
        build_s: Seconds of wall time spent on building.
        measure_s: Seconds of wall time spent on uploading, checking and timing.
        runner: Who measured it: `local`, or the name of a board.
    """

    key: str
    run_s: tuple[float, ...] = ()
    failed: str = ""
    error: str = ""
    deviation: float | None = None
    build_s: float = 0.0
    measure_s: float = 0.0
    runner: str = ""

    @property
    def valid(self) -> bool:
        """Whether there is a time."""
        return not self.failed and bool(self.run_s)


class Measurer(Protocol):
    """Builds, checks and times trials, in whatever order."""

    @property
    def slots(self) -> int:
        """Trials to have under way, so that nobody waits."""
        ...

    def submit(self, trials: Sequence[Trial]) -> None:
        """Take trials; returns at once."""
        ...

    def collect(self, timeout_s: float) -> tuple[TrialResult, ...]:
        """What has finished since the last call; waits up to `timeout_s` for the first.

        Raises:
            DeviceError: Nobody is left to measure anything.
        """
        ...

    def busy(self) -> AbstractContextManager[None]:
        """While in it nothing is measured on cores of this machine: the caller needs them.

        Entering waits for measurements that are under way; building goes on.
        """
        ...

    def close(self) -> None:
        """End it, with every process it has started; trials under way are given up."""
        ...
