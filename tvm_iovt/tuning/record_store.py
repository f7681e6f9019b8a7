"""The tuning records of one device: read, and appended to by one process at a time.

`tuning_logs/README.md` describes the files.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from tvm_iovt import _tvm, resources
from tvm_iovt.errors import TuningError, UsageError
from tvm_iovt.tuning.kernel_records import FOLDER
from tvm_iovt.tuning.record_files import CHOICES, TRIALS, WORKLOADS, describe_device, device_folder
from tvm_iovt.tuning.record_lines import RecordFile, read_file
from tvm_iovt.tuning.record_lock import FolderLock
from tvm_iovt.tuning.record_writing import LineAppender, write_error
from tvm_iovt.tuning.schedule_records import (
    DeviceKind,
    ScheduleChoice,
    TrialRecord,
    WorkloadRecord,
)

T = TypeVar("T", WorkloadRecord, TrialRecord, ScheduleChoice)


def user_root() -> Path:
    """The folder of tuning records that new ones are written to."""
    return resources.search_path(FOLDER)[0]


def installed_tvm() -> str:
    """Version of the installed apache-tvm: records of another one are not used."""
    return _tvm.installed_version("apache-tvm")


@dataclass(slots=True)
class _Filter:
    """Which records hold here; counts the others."""

    device: DeviceKind
    tvm_version: str
    counts: Counter[tuple[str, Path]] = field(default_factory=Counter)

    def accepts(self, record: WorkloadRecord | TrialRecord | ScheduleChoice, path: Path) -> bool:
        if record.tvm_version != self.tvm_version:
            reason = f"of apache-tvm {record.tvm_version}, this is {self.tvm_version}"
        elif not isinstance(record, WorkloadRecord) and record.device != self.device:
            reason = f"of another device: {describe_device(record.device)}"
        else:
            return True
        self.counts[reason, path] += 1
        return False

    @property
    def refused(self) -> tuple[str, ...]:
        return tuple(
            f"{path}: {count} record{'s' if count > 1 else ''} {reason}"
            for (reason, path), count in self.counts.items()
        )


def preferred(one: TrialRecord, other: TrialRecord) -> TrialRecord:
    """Which of two records of one trial to keep, whatever their order: a valid one, the older."""
    return min(one, other, key=lambda trial: (not trial.valid, trial.date, TRIALS.line(trial)))


class RecordStore:
    """The records of one device in a folder, held by this process alone until `close`.

    Records of other devices and other versions of TVM stay where they are and are not used.

    Attributes:
        folder: Of the device's records.
        device: Whose records these are.
        problems: What was skipped, as sentences with file and line number.
        refused: Records that do not hold here, counted: one sentence for each reason.
    """

    def __init__(self, folder: Path, device: DeviceKind, lock: FolderLock, tvm: str) -> None:
        """Use `open`."""
        self.folder = folder
        self.device = device
        self._lock = lock
        self._appenders: dict[str, LineAppender] = {}
        self._closed = False
        chosen = _Filter(device, tvm)
        problems: list[str] = []
        self._workloads = {r.key: r for r in _read(WORKLOADS, folder, chosen, problems)}
        self._trials: dict[str, dict[str, TrialRecord]] = {}
        for trial in _read(TRIALS, folder, chosen, problems):
            self._remember(trial)
        self._choices = {r.workload: r for r in _read(CHOICES, folder, chosen, problems)}
        self.problems = tuple(problems)
        self.refused = chosen.refused

    @classmethod
    def open(
        cls, root: Path, device: DeviceKind, *, model: str = "", tvm_version: str | None = None
    ) -> RecordStore:
        """Read a device's records and lock them for writing.

        Args:
            root: Folder of tuning records, which has a folder for each device.
            device: Whose records.
            model: What is tuned; others who find the records locked are told.
            tvm_version: Of the records to use; default: the installed one.

        Raises:
            TuningError: Another process writes there, or the disk is full.
            UsageError: The folder cannot be written to.
        """
        folder = device_folder(root, device)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(folder, error) from error
        lock = FolderLock(folder, f"tuning {model}" if model else "tuning")
        try:
            store = cls(folder, device, lock, tvm_version or installed_tvm())
            store._open_files()
        except BaseException:
            lock.close()
            raise
        return store

    def _open_files(self) -> None:
        """Open all files: a folder that cannot be written to shows before the first trial."""
        for kind in (WORKLOADS, TRIALS, CHOICES):
            try:
                self._appenders[kind.name] = LineAppender(self.folder / kind.name)
            except OSError as error:
                for appender in self._appenders.values():
                    appender.close()
                raise self._error(kind.name, error) from error

    def workload(self, key: str) -> WorkloadRecord | None:
        """The workload of that key, or None."""
        return self._workloads.get(key)

    def workloads(self) -> tuple[WorkloadRecord, ...]:
        """All workloads."""
        return tuple(self._workloads.values())

    def trials(self, workload: str) -> tuple[TrialRecord, ...]:
        """Trials of a workload, failed ones included; one for each key."""
        return tuple(self._trials.get(workload, {}).values())

    def all_trials(self) -> tuple[TrialRecord, ...]:
        """Trials of all workloads."""
        return tuple(trial for trials in self._trials.values() for trial in trials.values())

    @property
    def trial_count(self) -> int:
        """How many trials there are."""
        return sum(map(len, self._trials.values()))

    def choice(self, workload: str) -> ScheduleChoice | None:
        """What was last chosen for a workload, or None."""
        return self._choices.get(workload)

    def choices(self) -> Mapping[str, ScheduleChoice]:
        """What was last chosen, by workload."""
        return dict(self._choices)

    def add_workload(self, record: WorkloadRecord) -> None:
        """Write a workload, unless it is known.

        Raises:
            TuningError: It could not be written; the message says what is kept.
        """
        if record.key not in self._workloads:
            self._append(WORKLOADS, record)
            self._workloads[record.key] = record

    def add_trial(self, record: TrialRecord) -> None:
        """Write a trial: when this returns, the end of this process cannot lose it.

        Raises:
            TuningError: It could not be written; the message says what is kept.
        """
        self._append(TRIALS, record)
        self._remember(record)

    def add_choice(self, record: ScheduleChoice) -> None:
        """Write what was chosen for a workload; it replaces an earlier choice.

        Raises:
            TuningError: It could not be written; the message says what is kept.
        """
        self._append(CHOICES, record)
        self._choices[record.workload] = record

    def sync(self) -> None:
        """Flush everything to the disk, for the sake of power failures.

        Adding does so about once a second.

        Raises:
            TuningError: The disk has refused it.
        """
        for name, appender in self._appenders.items():
            try:
                appender.sync()
            except OSError as error:
                raise self._error(name, error) from error

    def close(self) -> None:
        """Flush, and let others write.

        Raises:
            TuningError: The disk has refused it.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self.sync()
        finally:
            for appender in self._appenders.values():
                appender.close()
            self._lock.close()

    def __enter__(self) -> RecordStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The first error is the one to tell.
        with contextlib.suppress(TuningError) if error else contextlib.nullcontext():
            self.close()

    def _remember(self, trial: TrialRecord) -> None:
        known = self._trials.setdefault(trial.workload, {})
        old = known.get(trial.key)
        known[trial.key] = preferred(old, trial) if old else trial

    def _append(self, kind: RecordFile[T], record: T) -> None:
        if self._closed:
            raise ValueError("the records are closed")
        objection = kind.objection(record)
        if objection:  # a reader would skip it
            raise ValueError(f"not a {kind.cls.__name__}: {objection}")
        try:
            self._appenders[kind.name].append(kind.line(record))
        except OSError as error:
            raise self._error(kind.name, error) from error

    def _error(self, name: str, error: OSError) -> TuningError | UsageError:
        return write_error(
            self.folder / name,
            error,
            kept=f"{self.trial_count} trials are safe in {self.folder / TRIALS.name}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundChoices:
    """What is known of a device when something is compiled for it.

    Attributes:
        choices: By workload.
        files: Where each is from, by workload.
        problems: What was skipped, as sentences with file and line number.
        refused: Records that do not hold here, counted: one sentence for each reason.
    """

    choices: Mapping[str, ScheduleChoice]
    files: Mapping[str, Path]
    problems: tuple[str, ...]
    refused: tuple[str, ...]


def find_choices(
    device: DeviceKind, *, roots: Sequence[Path] | None = None, tvm_version: str | None = None
) -> FoundChoices:
    """The chosen schedules for a device; locks nothing, reads no trials, works while others write.

    Args:
        device: To compile for.
        roots: Folders of tuning records. The first with a choice for a workload wins; in it, the
            last line. Default: the user's, then those that are shipped.
        tvm_version: Of the records to use; default: the installed one.
    """
    wanted = _Filter(device, tvm_version or installed_tvm())
    choices: dict[str, ScheduleChoice] = {}
    files: dict[str, Path] = {}
    problems: list[str] = []
    for root in resources.search_path(FOLDER) if roots is None else roots:
        folder = device_folder(root, device)
        last = {choice.workload: choice for choice in _read(CHOICES, folder, wanted, problems)}
        for workload, choice in last.items():
            if workload not in choices:
                choices[workload] = choice
                files[workload] = folder / CHOICES.name
    return FoundChoices(
        choices=choices, files=files, problems=tuple(problems), refused=wanted.refused
    )


def _read(kind: RecordFile[T], folder: Path, wanted: _Filter, problems: list[str]) -> list[T]:
    lines = read_file(kind, folder)
    problems += lines.problems
    path = folder / kind.name
    return [record for record in lines.records if wanted.accepts(record, path)]
