"""What is kept of a tuning run: workloads, measured trials, chosen schedules.

Each is a line of JSON in a file of its own; `tuning_logs/README.md` describes the fields.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any, ClassVar

from tvm_iovt.tuning.kernel_records import CpuKind

TEMPLATE, SEARCH = "template", "search"
"""Where a schedule comes from: the default one, or a MetaSchedule trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKind:
    """What a measurement holds for; devices of another kind never use it.

    Attributes:
        cpu: The CPU; of a GPU target `device_kind.ANY_CPU`.
        gpu: `cuda sm_87` and the like; empty for a CPU.
        threads: Of TVM's pool on the CPU; 0 for a GPU.
    """

    cpu: CpuKind
    gpu: str = ""
    threads: int = 0

    @property
    def folder(self) -> str:
        """Name of the folder of its records."""
        return self.gpu.replace(" ", "-") or self.cpu.mcpu


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadRecord:
    """A kernel that was tuned.

    Attributes:
        key: Equal keys mean equal functions.
        name: For people; kernels of several networks may share a workload.
        module: `tvm.ir.save_json` of the unscheduled function, compressed (zlib, base64).
        tvm_version: Of apache-tvm, which can read it.
    """

    SCHEMA: ClassVar[str] = "tvm-iovt/workload/1"

    key: str
    name: str
    module: str
    tvm_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """One schedule that was measured, or that failed.

    Attributes:
        key: Of the trial: equal keys mean equal schedules.
        workload: Key of its workload.
        device: What it was measured on.
        source: `TEMPLATE` or `SEARCH`.
        trace: MetaSchedule's trace as JSON (`Trace.as_json`); None for the template's schedule,
            which needs none, and for failures, which nobody replays.
        run_s: Seconds of one call, one for each block; empty if it failed.
        failed: See `trial.TrialResult`.
        error: Why it failed, in one line.
        deviation: See `trial.TrialResult`.
        runner: Who measured it.
        run: Identifies the tuning run that asked for it.
        tvm_version: Of apache-tvm, which generated the code.
        tool_version: Of this program.
        date: UTC, ISO 8601.
    """

    SCHEMA: ClassVar[str] = "tvm-iovt/trial/1"

    key: str
    workload: str
    device: DeviceKind
    source: str
    trace: Any
    run_s: tuple[float, ...]
    failed: str
    error: str
    deviation: float | None
    runner: str
    run: str
    tvm_version: str
    tool_version: str
    date: str

    @property
    def valid(self) -> bool:
        """Whether there is a time."""
        return not self.failed and bool(self.run_s)

    @property
    def median_s(self) -> float:
        """Median seconds of one call; infinite if it failed."""
        return statistics.median(self.run_s) if self.run_s else float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleChoice:
    """The schedule to use for a workload: the best one where it counts, inside a network.

    Attributes:
        workload: Key of the workload.
        device: What it holds for.
        trial: Key of the chosen trial; empty where the template's schedule stays.
        trace: Of the chosen trial; None where the template's schedule stays.
        alone_s: Median seconds of the chosen schedule, measured alone.
        template_alone_s: The same of the template's schedule.
        network_s: Seconds of the chosen schedule inside the network; None if not measured there.
        template_network_s: The same of the template's schedule.
        network: Name of that network.
        trials: How many valid trials it was chosen from.
        reason: Why, in a few words.
        tvm_version: Of apache-tvm.
        tool_version: Of this program.
        date: UTC, ISO 8601.
    """

    SCHEMA: ClassVar[str] = "tvm-iovt/schedule-choice/1"

    workload: str
    device: DeviceKind
    trial: str
    trace: Any
    alone_s: float
    template_alone_s: float
    network_s: float | None
    template_network_s: float | None
    network: str
    trials: int
    reason: str
    tvm_version: str
    tool_version: str
    date: str
