"""Records without what nobody needs any more."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tvm_iovt.tuning.record_files import CHOICES, TRIALS, WORKLOADS
from tvm_iovt.tuning.record_folder import (
    FolderRecords,
    Origin,
    check_readable,
    origin,
    read_folder,
)
from tvm_iovt.tuning.record_lines import Lines, RecordFile
from tvm_iovt.tuning.record_lock import FolderLock
from tvm_iovt.tuning.record_store import preferred
from tvm_iovt.tuning.record_writing import replace_file
from tvm_iovt.tuning.run_state import COMPLETE, read_runs
from tvm_iovt.tuning.schedule_records import TEMPLATE, TrialRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneOutcome:
    """What was dropped from the folder of a device.

    Attributes:
        folder: The folder.
        trials_kept: Trials that are left.
        failed: Failed trials that were dropped.
        slower: Valid trials that were dropped.
        repeated: Further records of a trial, a workload or a choice.
        workloads: Workloads that nothing refers to.
        damaged: Lines that no version can read.
        size_before_bytes: Of the files.
        size_after_bytes: Of the files.
        unfinished: Runs that are not complete: resumed, they repeat the trials that were dropped.
    """

    SCHEMA: ClassVar[str] = "tvm-iovt/logs-prune/1"

    folder: str
    trials_kept: int
    failed: int
    slower: int
    repeated: int
    workloads: int
    damaged: int
    size_before_bytes: int
    size_after_bytes: int
    unfinished: tuple[str, ...]


def prune(
    folders: Sequence[Path], *, keep: int = 3, failed_only: bool = False, dry_run: bool = False
) -> tuple[PruneOutcome, ...]:
    """Drop failed and slow trials, workloads that nothing refers to, and damaged lines.

    The chosen trials, the template's, and lines of other versions of this program stay.

    Args:
        folders: Of devices.
        keep: How many of the fastest trials of a workload stay beside those.
        failed_only: All valid trials stay.
        dry_run: Change nothing.

    Returns:
        What was dropped, by folder.

    Raises:
        TuningError: A folder is in use (nothing was changed), or the disk is full.
        UsageError: A folder cannot be read or written to.
    """
    with contextlib.ExitStack() as stack:
        if not dry_run:
            for folder in folders:
                stack.callback(FolderLock(folder, "pruning").close)
        return tuple(_prune(folder, keep, failed_only, dry_run) for folder in folders)


def _prune(folder: Path, keep: int, failed_only: bool, dry_run: bool) -> PruneOutcome:
    old = read_folder(folder)
    check_readable(old)
    once = _once(old.trials.records)
    choices = list({(r.workload, origin(r)): r for r in old.choices.records}.values())
    chosen = {(choice.trial, origin(choice)) for choice in choices}
    valid = [trial for trial in once if trial.valid]
    if failed_only:
        trials = valid
    else:
        fast = _fastest(valid, keep)
        trials = [t for t in valid if t.key in fast[_group(t)] or (t.key, origin(t)) in chosen]
    used = {(t.workload, t.tvm_version) for t in trials}
    used |= {(c.workload, c.tvm_version) for c in choices}
    each = {(record.key, record.tvm_version): record for record in old.workloads.records}
    workloads = [record for key, record in each.items() if key in used]
    # What refers to others goes first: a reader never misses a workload of a trial.
    sizes = [
        _rewrite(CHOICES, old, old.choices, choices, dry_run),
        _rewrite(TRIALS, old, old.trials, trials, dry_run),
        _rewrite(WORKLOADS, old, old.workloads, workloads, dry_run),
    ]
    return PruneOutcome(
        folder=str(folder),
        trials_kept=len(trials),
        failed=len(once) - len(valid),
        slower=len(valid) - len(trials),
        repeated=len(old.trials.records)
        - len(once)
        + len(old.choices.records)
        - len(choices)
        + len(old.workloads.records)
        - len(each),
        workloads=len(each) - len(workloads),
        damaged=sum(
            not line.foreign
            for lines in (old.workloads, old.trials, old.choices)
            for line in lines.skipped
        ),
        size_before_bytes=sum(before for before, _ in sizes),
        size_after_bytes=sum(after for _, after in sizes),
        unfinished=tuple(
            run for run, record in read_runs(folder)[0].items() if record.status != COMPLETE
        ),
    )


def _once(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """One record for each trial."""
    found: dict[tuple[str, Origin], TrialRecord] = {}
    for trial in trials:
        key = (trial.key, origin(trial))
        old = found.get(key)
        found[key] = preferred(old, trial) if old else trial
    return list(found.values())


def _group(trial: TrialRecord) -> tuple[str, Origin]:
    return trial.workload, origin(trial)


def _fastest(trials: Iterable[TrialRecord], keep: int) -> dict[tuple[str, Origin], set[str]]:
    """Keys of the fastest trials of each workload, and of its template."""
    groups: dict[tuple[str, Origin], list[TrialRecord]] = defaultdict(list)
    for trial in trials:
        groups[_group(trial)].append(trial)
    return {
        group: {t.key for t in sorted(members, key=lambda t: (t.median_s, t.key))[:keep]}
        | {t.key for t in members if t.source == TEMPLATE}
        for group, members in groups.items()
    }


def _rewrite(
    kind: RecordFile[Any], old: FolderRecords, lines: Lines[Any], kept: Sequence[Any], dry_run: bool
) -> tuple[int, int]:
    """Write a file anew if that changes it; its size in bytes before and after."""
    path = old.folder / kind.name
    if not path.exists():
        return 0, 0
    before = path.stat().st_size
    foreign = [line.raw + b"\n" for line in lines.skipped if line.foreign]
    if len(kept) == len(lines.records) and len(foreign) == len(lines.skipped):
        return before, before
    content = b"".join([*foreign, *map(kind.line, kept)])
    if not dry_run:
        replace_file(path, content, durable=True, kept=f"all records are still in {path}")
    return before, len(content)
