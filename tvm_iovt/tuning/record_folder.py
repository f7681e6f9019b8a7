"""Everything in a folder of records, whatever device and version it is of: for the tools."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm_iovt.errors import UsageError
from tvm_iovt.tuning.kernel_records import KernelChoice
from tvm_iovt.tuning.record_files import CHOICES, KERNELS, TRIALS, WORKLOADS
from tvm_iovt.tuning.record_lines import Lines, RecordFile, SkippedLine, read_file
from tvm_iovt.tuning.schedule_records import (
    DeviceKind,
    ScheduleChoice,
    TrialRecord,
    WorkloadRecord,
)

KINDS: tuple[RecordFile[Any], ...] = (WORKLOADS, TRIALS, CHOICES, KERNELS)
"""In the order in which they refer to each other."""

Measured = TrialRecord | ScheduleChoice | KernelChoice


@dataclass(frozen=True, slots=True)
class Origin:
    """What measurements must share to be compared.

    Attributes:
        device: What was measured on.
        tvm_version: What generated the code.
    """

    device: DeviceKind
    tvm_version: str


def origin(record: Measured) -> Origin:
    """Of a measurement."""
    if isinstance(record, KernelChoice):
        setting = record.setting
        device = DeviceKind(cpu=setting.target, threads=setting.threads)
        return Origin(device, record.tvm_version)
    return Origin(record.device, record.tvm_version)


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderRecords:
    """The content of a folder.

    Attributes:
        folder: Where it is, for messages.
        workloads: The lines of `workloads.jsonl`.
        trials: The lines of `trials.jsonl`.
        choices: The lines of `choices.jsonl`.
        kernels: The lines of `kernel_choice.jsonl`.
    """

    folder: Path
    workloads: Lines[WorkloadRecord] = Lines()  # noqa: RUF009 -- frozen
    trials: Lines[TrialRecord] = Lines()  # noqa: RUF009 -- frozen
    choices: Lines[ScheduleChoice] = Lines()  # noqa: RUF009 -- frozen
    kernels: Lines[KernelChoice] = Lines()  # noqa: RUF009 -- frozen

    @property
    def lines(self) -> tuple[Lines[Any], ...]:
        """In the order of `KINDS`."""
        return (self.workloads, self.trials, self.choices, self.kernels)

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with the files, as sentences with file and line number."""
        return tuple(problem for lines in self.lines for problem in lines.problems)

    @property
    def skipped(self) -> Iterator[SkippedLine]:
        """Lines without a usable record."""
        return (line for lines in self.lines for line in lines.skipped)

    @property
    def measured(self) -> Iterator[Measured]:
        """Everything that was measured."""
        yield from self.trials.records
        yield from self.choices.records
        yield from self.kernels.records

    @property
    def origins(self) -> frozenset[Origin]:
        """Of everything that was measured."""
        return frozenset(map(origin, self.measured))


def read_folder(folder: Path) -> FolderRecords:
    """Read the records of a device; no file is an empty one."""
    return FolderRecords(
        folder=folder,
        workloads=read_file(WORKLOADS, folder),
        trials=read_file(TRIALS, folder),
        choices=read_file(CHOICES, folder),
        kernels=read_file(KERNELS, folder),
    )


def check_readable(records: FolderRecords) -> None:
    """Refuse to write where a file cannot even be read.

    Raises:
        UsageError: It cannot.
    """
    for lines in records.lines:
        if lines.unreadable:
            raise UsageError(
                f"Cannot change the records in {records.folder}",
                seen=lines.unreadable,
                do="make the file readable, or use another folder",
            )


def record_folders(path: Path) -> tuple[Path, ...]:
    """The folders with records: this one, or those in it.

    Args:
        path: Of one device, or of several.

    Raises:
        UsageError: There is no such folder, or it cannot be read.
    """
    try:
        entries = sorted(path.iterdir())
    except OSError as error:
        raise UsageError(
            f"There are no tuning records in {path}",
            seen=error.strerror or str(error),
            do="name a folder such as tuning_logs, or one of a device in it; "
            "`tvm-iovt logs stat` lists those that are used",
        ) from error
    if _holds_records(path):
        return (path,)
    return tuple(entry for entry in entries if entry.is_dir() and _holds_records(entry))


def _holds_records(folder: Path) -> bool:
    return any((folder / kind.name).exists() for kind in KINDS)
