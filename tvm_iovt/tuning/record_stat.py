"""What a folder of records holds, in numbers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tvm_iovt.tuning import record_lock
from tvm_iovt.tuning.record_folder import KINDS, FolderRecords, Origin, origin, read_folder
from tvm_iovt.tuning.run_state import COMPLETE, FOLDER, RunRecord, read_runs
from tvm_iovt.tuning.schedule_records import DeviceKind


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginStat:
    """Records of one device kind and one version of TVM.

    Attributes:
        device: What was measured on.
        tvm_version: Of apache-tvm.
        workloads: Kernels with trials or a choice.
        trials_valid: Trials with a time; each counts once.
        trials_failed: Trials without.
        chosen_search: Workloads with a schedule that was found.
        chosen_template: Workloads whose template stays.
        kernels: Convolutions whose kernel was measured.
        first: The earliest date.
        last: The latest date.
    """

    device: DeviceKind
    tvm_version: str
    workloads: int
    trials_valid: int
    trials_failed: int
    chosen_search: int
    chosen_template: int
    kernels: int
    first: str
    last: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderStat:
    """A folder of records.

    Attributes:
        folder: The folder.
        size_bytes: Of its files.
        origins: What it holds, by device and version.
        runs: Tuning runs; the status of one that was killed is `died`. Trials of one that is
            not complete are those in the records.
        used_by: Who writes there now; empty if nobody does.
        problems: Lines that were skipped, with file and line number.
    """

    SCHEMA: ClassVar[str] = "tvm-iovt/logs-stat/1"

    folder: str
    size_bytes: int
    origins: tuple[OriginStat, ...]
    runs: tuple[RunRecord, ...]
    used_by: str
    problems: tuple[str, ...]


def stat(folder: Path) -> FolderStat:
    """Count what a folder holds; locks nothing and works while others write.

    Args:
        folder: Of a device.
    """
    records = read_folder(folder)
    runs, run_problems = read_runs(folder)
    holder = record_lock.holder(folder)
    origins = sorted(records.origins, key=lambda o: (o.device.folder, o.device.cpu.cores, str(o)))
    return FolderStat(
        folder=str(folder),
        size_bytes=_size_bytes(folder),
        origins=tuple(_stat(records, found) for found in origins),
        runs=tuple(_counted(run, records) for run in runs.values()),
        used_by=str(holder) if holder else "",
        problems=(*records.problems, *run_problems),
    )


def _stat(records: FolderRecords, found: Origin) -> OriginStat:
    trials = [trial for trial in records.trials.records if origin(trial) == found]
    all_keys = {trial.key for trial in trials}
    valid_keys = {trial.key for trial in trials if trial.valid}
    choices = {c.workload: c for c in records.choices.records if origin(c) == found}
    kernels = [kernel for kernel in records.kernels.records if origin(kernel) == found]
    dates = sorted(record.date for record in records.measured if origin(record) == found)
    chosen = sum(bool(choice.trial) for choice in choices.values())
    return OriginStat(
        device=found.device,
        tvm_version=found.tvm_version,
        workloads=len({trial.workload for trial in trials} | set(choices)),
        trials_valid=len(valid_keys),
        trials_failed=len(all_keys - valid_keys),
        chosen_search=chosen,
        chosen_template=len(choices) - chosen,
        kernels=len({(kernel.setting, kernel.convolution, kernel.predicted) for kernel in kernels}),
        first=dates[0],
        last=dates[-1],
    )


def _counted(run: RunRecord, records: FolderRecords) -> RunRecord:
    """A run that has not ended with the trials that are in the records; its file is behind."""
    if run.status == COMPLETE:
        return run
    trials = [trial for trial in records.trials.records if trial.run == run.run]
    valid = sum(trial.valid for trial in trials)
    return dataclasses.replace(run, trials_done=len(trials), trials_valid=valid)


def _size_bytes(folder: Path) -> int:
    files = [folder / kind.name for kind in KINDS]
    files += (folder / FOLDER).glob("*.json")
    return sum(path.stat().st_size for path in files if path.is_file())
