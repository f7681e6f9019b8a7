"""Records of several machines or folders in one place."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from tvm_iovt.errors import IovtError
from tvm_iovt.tuning.kernel_records import KernelChoice
from tvm_iovt.tuning.record_files import (
    CHOICES,
    KERNELS,
    TRIALS,
    WORKLOADS,
    describe_device,
    device_folder,
)
from tvm_iovt.tuning.record_folder import (
    FolderRecords,
    Measured,
    Origin,
    check_readable,
    origin,
    read_folder,
)
from tvm_iovt.tuning.record_lines import RecordFile
from tvm_iovt.tuning.record_lock import FolderLock
from tvm_iovt.tuning.record_store import preferred
from tvm_iovt.tuning.record_writing import replace_file, write_error
from tvm_iovt.tuning.schedule_records import ScheduleChoice, TrialRecord, WorkloadRecord

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeOutcome:
    """What was merged into the folder of a device.

    Attributes:
        folder: The folder.
        workloads: How many were added.
        trials: How many were added.
        choices: How many were added, those that replace another included.
        kernels: The same of the measured kernels of convolutions.
        known: Records that were there already, or that lose to one that was.
        refused: Records of devices or versions that the folder does not hold, counted: one
            sentence for each reason.
        problems: Lines that were skipped, with file and line number.
    """

    SCHEMA: ClassVar[str] = "tvm-iovt/logs-merge/1"

    folder: str
    workloads: int
    trials: int
    choices: int
    kernels: int
    known: int
    refused: tuple[str, ...]
    problems: tuple[str, ...]


def better_choice(mine: ScheduleChoice, theirs: ScheduleChoice) -> ScheduleChoice:
    """Which of two choices for a workload, made on devices of one kind, to use.

    The faster one inside the same network; if that was not measured of both, the faster one
    alone; else the newer one.
    """
    in_network = mine.network == theirs.network and mine.network_s and theirs.network_s
    if in_network and mine.network_s != theirs.network_s:
        return min(mine, theirs, key=lambda choice: choice.network_s or 0.0)
    if mine.alone_s != theirs.alone_s:
        return min(mine, theirs, key=lambda choice: choice.alone_s)
    return theirs if theirs.date > mine.date else mine


def _newer_kernel(mine: KernelChoice, theirs: KernelChoice) -> KernelChoice:
    return theirs if theirs.date > mine.date else mine


def merge(
    sources: Sequence[FolderRecords], root: Path, *, new_devices: bool = False
) -> tuple[MergeOutcome, ...]:
    """Add records to a folder of tuning records, each to the folder of its device.

    Only records of one device kind and one version of TVM are compared. A device's folder takes
    those of the devices and versions that it holds already; an empty one, those of the first
    source. Lines that cannot be read stay in the destination and are not taken from a source.

    Args:
        sources: What to add.
        root: Where to; made if it is missing.
        new_devices: Take devices and versions, too, that the destination does not hold.

    Returns:
        What happened, by folder.

    Raises:
        TuningError: A destination is in use, or the disk is full.
        UsageError: A destination cannot be read or written.
    """
    folders = sorted(
        {device_folder(root, found.device) for source in sources for found in source.origins}
    )
    with contextlib.ExitStack() as stack:
        for folder in folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise write_error(folder, error) from error
            stack.callback(FolderLock(folder, "merging").close)
        return tuple(_Merge(folder, sources, new_devices).run() for folder in folders)


class _Merge:
    """Into the folder of one device, which is locked."""

    def __init__(self, folder: Path, sources: Sequence[FolderRecords], new_devices: bool) -> None:
        self._folder = folder
        self._old = read_folder(folder)
        check_readable(self._old)
        self._sources = sources
        self._accepted = self._old.origins
        for source in sources:
            ours = {found for found in source.origins if self._is_here(found)}
            if new_devices or not self._accepted:
                self._accepted |= ours
        self._known = 0
        self._refused: Counter[tuple[Path, Origin]] = Counter()

    def run(self) -> MergeOutcome:
        trials = self._new(
            TRIALS,
            self._old.trials.records,
            [source.trials.records for source in self._sources],
            _trial_key,
            preferred,
        )
        choices = self._new(
            CHOICES,
            self._old.choices.records,
            [source.choices.records for source in self._sources],
            _choice_key,
            better_choice,
        )
        kernels = self._new(
            KERNELS,
            self._old.kernels.records,
            [source.kernels.records for source in self._sources],
            _kernel_key,
            _newer_kernel,
        )
        workloads = self._new_workloads([*trials, *choices])
        # What is referred to comes first: a reader never misses a workload of a trial.
        self._write(WORKLOADS, workloads, _workload_key)
        self._write(TRIALS, trials, _trial_key)
        self._write(CHOICES, choices, _choice_key)
        self._write(KERNELS, kernels, _kernel_key)
        return MergeOutcome(
            folder=str(self._folder),
            workloads=len(workloads),
            trials=len(trials),
            choices=len(choices),
            kernels=len(kernels),
            known=self._known,
            refused=tuple(
                f"{path}: {count} record{'s' if count > 1 else ''} of "
                f"{describe_device(found.device)}, apache-tvm {found.tvm_version}"
                for (path, found), count in self._refused.items()
            ),
            problems=(
                *self._old.problems,
                *(problem for source in self._sources for problem in source.problems),
            ),
        )

    def _is_here(self, found: Origin) -> bool:
        return device_folder(self._folder.parent, found.device) == self._folder

    def _takes(self, record: Measured, source: FolderRecords) -> bool:
        found = origin(record)
        if not self._is_here(found):
            return False
        if found not in self._accepted:
            self._refused[source.folder, found] += 1
            return False
        return True

    def _new(
        self,
        kind: RecordFile[Any],
        old: Iterable[T],
        new: Sequence[Iterable[T]],
        key: Callable[[T], Hashable],
        choose: Callable[[T, T], T],
    ) -> list[T]:
        """Records to add; in one file the last line of a key (of trials, `preferred`) wins."""
        known: dict[Hashable, T] = {}
        for record in old:
            known[key(record)] = self._current(kind, known.get(key(record)), record)
        added: dict[Hashable, T] = {}
        for source, records in zip(self._sources, new, strict=True):
            theirs: dict[Hashable, T] = {}
            for record in records:
                if self._takes(record, source):  # type: ignore[arg-type]
                    theirs[key(record)] = self._current(kind, theirs.get(key(record)), record)
            for name, record in theirs.items():
                mine = known.get(name)
                if mine is not None and choose(mine, record) == mine:
                    self._known += 1
                else:
                    known[name] = added[name] = record
        return list(added.values())

    def _current(self, kind: RecordFile[Any], old: Any, new: Any) -> Any:
        """Of two lines of one file."""
        return preferred(old, new) if kind is TRIALS and old is not None else new

    def _new_workloads(
        self, referring: Iterable[TrialRecord | ScheduleChoice]
    ) -> list[WorkloadRecord]:
        """Workloads that the new records refer to."""
        missing = {(record.workload, record.tvm_version) for record in referring}
        missing -= {(record.key, record.tvm_version) for record in self._old.workloads.records}
        added = []
        for source in self._sources:
            for record in source.workloads.records:
                if (record.key, record.tvm_version) in missing:
                    missing.remove((record.key, record.tvm_version))
                    added.append(record)
        return added

    def _write(
        self, kind: RecordFile[T], records: Sequence[T], key: Callable[[T], Hashable]
    ) -> None:
        """Add records to a file, in place of those with the same key; damaged lines stay."""
        if not records:
            return
        path = self._folder / kind.name
        try:
            old = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise write_error(path, error) from error
        names = set(map(key, records))
        lines = [line + b"\n" for line in old.split(b"\n") if line.strip()]
        lines = [line for line in lines if _key_of(kind, line, key) not in names]
        replace_file(path, b"".join([*lines, *map(kind.line, records)]), durable=True)


def _key_of(kind: RecordFile[T], line: bytes, key: Callable[[T], Hashable]) -> Hashable:
    try:
        return key(kind.parse(line))
    except IovtError:
        return None


def _workload_key(record: WorkloadRecord) -> Hashable:
    return record.key, record.tvm_version


def _trial_key(record: TrialRecord) -> Hashable:
    return record.key, origin(record)


def _choice_key(record: ScheduleChoice) -> Hashable:
    return record.workload, origin(record)


def _kernel_key(record: KernelChoice) -> Hashable:
    return record.setting, record.convolution, record.predicted, origin(record)
