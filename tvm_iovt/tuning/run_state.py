"""How far a tuning run has come: `runs/<run>.json` beside its records.

The records are the truth; this file adds what they do not tell: the budget, the time that was
spent, and how the run ended.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tvm_iovt._version import __version__
from tvm_iovt.errors import IovtError
from tvm_iovt.json_codec import from_json, to_json
from tvm_iovt.tuning import record_lock
from tvm_iovt.tuning.record_store import RecordStore, installed_tvm
from tvm_iovt.tuning.record_writing import replace_file
from tvm_iovt.tuning.schedule_records import DeviceKind

FOLDER = "runs"
RUNNING, INTERRUPTED, COMPLETE, FAILED = "running", "interrupted", "complete", "failed"
DIED = "died"
"""What a reader calls a run that says it is running while nobody holds the lock of its folder."""

_SAVE_EVERY_S = 2.0
_STATUSES = (RUNNING, INTERRUPTED, COMPLETE, FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What a run is asked to do.

    Attributes:
        model: File name of the network.
        model_sha256: Of the file.
        target: Name of the target.
        device: What is tuned for.
        options: What else decides which kernels there are (precision, fusion, shapes), as JSON.
        trials: Budget, those of earlier, interrupted runs included; 0 if only time is limited.
        time_s: Budget, the same way; 0 if only trials are.
    """

    model: str
    model_sha256: str
    target: str
    device: DeviceKind
    options: Any
    trials: int = 0
    time_s: float = 0.0

    @property
    def run(self) -> str:
        """Identifies the run: equal for requests that differ in their budgets alone."""
        parts = [self.model_sha256, self.target, to_json(self.device), to_json(self.options)]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(self.model).stem).strip("-")[:40]
        return f"{name or 'model'}-{digest[:12]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Content of the file.

    Attributes:
        run: Identifies the run.
        request: What was asked for last.
        status: `running`, `interrupted`, `complete` or `failed`.
        trials_done: Trials in the records that this run has made, failed ones included.
        trials_valid: Those with a time.
        spent_s: Seconds of tuning, over all resumptions; of a clock that never jumps.
        pid: The process that has last worked on it.
        host: Its machine.
        tvm_version: Of apache-tvm.
        tool_version: Of this program.
        started: UTC, ISO 8601.
        updated: UTC, ISO 8601.
    """

    SCHEMA: ClassVar[str] = "tvm-iovt/tune-run/1"

    run: str
    request: RunRequest
    status: str
    trials_done: int
    trials_valid: int
    spent_s: float
    pid: int
    host: str
    tvm_version: str
    tool_version: str
    started: str
    updated: str


class RunState:
    """A run under way; keeps its file up to date.

    Attributes:
        path: The file.
        warning: Why an existing file was not used; empty if it was, or if there was none.
        resumed_trials: Trials that the run had made before, failed ones included.
        resumed_s: Seconds that it had spent before.
        resumed_status: How it had ended: a status, `died`, or empty if it is new.
    """

    def __init__(
        self,
        path: Path,
        record: RunRecord,
        *,
        warning: str = "",
        resumed_status: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use `load_or_new`."""
        self.path = path
        self._folder = path.parent.parent
        self.warning = warning
        self.resumed_trials = record.trials_done
        self.resumed_s = record.spent_s
        self.resumed_status = resumed_status
        self._record = record
        self._clock = clock
        self._began_s = clock()
        self._saved_s = self._began_s

    @classmethod
    def load_or_new(
        cls,
        store: RecordStore,
        request: RunRequest,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> RunState:
        """Go on with the run of this request, or begin it; its status becomes `running`.

        Trials are counted in the records. A file that cannot be used is written anew.

        Args:
            store: The records, which this process has locked.
            request: What is asked for.
            clock: Seconds, never backwards.

        Raises:
            TuningError: The disk is full.
            UsageError: The file cannot be written.
        """
        path = store.folder / FOLDER / f"{request.run}.json"
        old, warning = _load_own(path, request)
        trials = [trial for trial in store.all_trials() if trial.run == request.run]
        now = _now()
        record = RunRecord(
            run=request.run,
            request=request,
            status=RUNNING,
            trials_done=len(trials),
            trials_valid=sum(trial.valid for trial in trials),
            spent_s=old.spent_s if old else 0.0,
            pid=os.getpid(),
            host=socket.gethostname(),
            tvm_version=installed_tvm(),
            tool_version=__version__,
            started=old.started if old else now,
            updated=now,
        )
        # Whoever was running is not: this process has the lock.
        ended = (DIED if old.status == RUNNING else old.status) if old else ""
        if not old and trials:
            ended = DIED
            lost = "the time it had spent is not known and counts from zero"
            found = f"{len(trials)} trials of the run were found in the records; {lost}"
            warning = f"{warning or f'{path} is missing'}: {found}"
        state = cls(path, record, warning=warning, resumed_status=ended, clock=clock)
        state._save()
        return state

    @property
    def record(self) -> RunRecord:
        """The state of this moment."""
        return dataclasses.replace(self._record, spent_s=self.spent_s)

    @property
    def spent_s(self) -> float:
        """Seconds spent on the run, earlier processes included."""
        return self.resumed_s + max(0.0, self._clock() - self._began_s)

    @property
    def trials_left(self) -> int | None:
        """Trials left of the budget; None if they are not limited."""
        asked = self._record.request.trials
        return max(0, asked - self._record.trials_done) if asked else None

    @property
    def left_s(self) -> float | None:
        """Seconds left of the budget; None if time is not limited."""
        asked_s = self._record.request.time_s
        return max(0.0, asked_s - self.spent_s) if asked_s else None

    def count(self, *, valid: bool) -> None:
        """Count a trial that is in the records; saves every two seconds.

        Raises:
            TuningError: The disk is full.
            UsageError: The file cannot be written.
        """
        self._record = dataclasses.replace(
            self._record,
            trials_done=self._record.trials_done + 1,
            trials_valid=self._record.trials_valid + valid,
        )
        self.tick()

    def tick(self) -> None:
        """Save if that was more than two seconds ago; call it while waiting.

        Raises:
            TuningError: The disk is full.
            UsageError: The file cannot be written.
        """
        if self._clock() - self._saved_s >= _SAVE_EVERY_S:
            self._save()

    def end(self, status: str) -> None:
        """Save how the run has ended: `INTERRUPTED`, `COMPLETE` or `FAILED`.

        Raises:
            TuningError: The disk is full.
            UsageError: The file cannot be written.
        """
        if status not in _STATUSES:
            raise ValueError(status)
        self._record = dataclasses.replace(self._record, status=status)
        self._save()

    def _save(self) -> None:
        self._record = dataclasses.replace(self._record, updated=_now())
        self._saved_s = self._clock()
        content = json.dumps(to_json(self.record), indent=1).encode() + b"\n"
        kept = f"{self._record.trials_done} trials of the run are safe in {self._folder}"
        replace_file(self.path, content, kept=kept)


def load_run(path: Path) -> RunRecord:
    """Read the state of a run.

    Raises:
        IovtError: The file cannot be read, or holds something else.
    """
    try:
        record = from_json(RunRecord, json.loads(path.read_bytes().decode("utf-8")))
    except OSError as error:
        raise IovtError(f"{path} cannot be read", seen=error.strerror or str(error)) from error
    except (ValueError, RecursionError, OverflowError) as error:
        raise IovtError(f"{path} is not JSON", seen=str(error)[:80]) from error
    except IovtError as error:
        raise IovtError(f"{path} is damaged: {error.what}", seen=error.seen) from error
    if (
        record.status not in _STATUSES
        or min(record.trials_done, record.trials_valid) < 0
        or not 0 <= record.spent_s < float("inf")
    ):
        raise IovtError(f"{path} is damaged", seen="a status, number or time that cannot be")
    return record


def read_runs(folder: Path) -> tuple[Mapping[str, RunRecord], tuple[str, ...]]:
    """The runs of a device by their status, `died` included, and what could not be read.

    Args:
        folder: Of the device's records.

    Returns:
        Runs by their identifier (their `status` may be `died`), and problems.
    """
    runs: dict[str, RunRecord] = {}
    problems = []
    holder = record_lock.holder(folder)
    for path in sorted((folder / FOLDER).glob("*.json")):
        try:
            record = load_run(path)
        except IovtError as error:
            problems.append(f"{error.what} ({error.seen})")
            continue
        if record.status == RUNNING and (
            holder is None or (holder.pid, holder.host) != (record.pid, record.host)
        ):
            record = dataclasses.replace(record, status=DIED)
        runs[record.run] = record
    return runs, tuple(problems)


def _load_own(path: Path, request: RunRequest) -> tuple[RunRecord | None, str]:
    """The earlier state of a run, or why there is none."""
    if not path.exists():
        return None, ""
    try:
        record = load_run(path)
    except IovtError as error:
        return None, f"{error.what} ({error.seen})"
    if record.request.run != request.run:
        return None, f"{path} is about another run"
    if record.tvm_version != installed_tvm():
        return None, f"{path} is of apache-tvm {record.tvm_version}: the run begins anew"
    return record, ""


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
