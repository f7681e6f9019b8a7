"""What earlier runs have measured, for the searches and the cost model of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm_iovt import _tvm
from tvm_iovt.errors import IovtError
from tvm_iovt.tuning.cost_model import CostModel
from tvm_iovt.tuning.proposal import Measured
from tvm_iovt.tuning.record_store import RecordStore
from tvm_iovt.tuning.schedule_records import TrialRecord, WorkloadRecord
from tvm_iovt.tuning.tasks import Task
from tvm_iovt.tuning.traces import replayed
from tvm_iovt.tuning.workload_modules import decompress_module

TRANSFERRED = 384
"""Recorded schedules that a cost model begins with, at most."""


def history_of(store: RecordStore, task: Task) -> Mapping[str, Measured]:
    """The recorded trials of a task, failed ones included, by their keys."""
    history = {}
    for trial in store.trials(task.workload.key):
        schedule = None
        if trial.trace is not None:
            try:
                schedule = replayed(task.module, trial.trace)
            except IovtError:  # of another version of the schedules
                continue
        seconds = trial.median_s if trial.valid else None
        history[trial.key] = Measured(schedule=schedule, seconds=seconds)
    return history


def teach(model: CostModel, store: RecordStore, tasks: Sequence[Task]) -> None:
    """Have a cost model learn from the records of a device: of these tasks first, then of others.

    Args:
        model: Of that device.
        store: Its records.
        tasks: About to be searched.
    """
    left = TRANSFERRED
    own = {task.workload.key: task.module for task in tasks}
    modules = [*own.items(), *((r.key, r) for r in store.workloads() if r.key not in own)]
    for key, found in modules:
        known = [trial for trial in store.trials(key) if trial.trace is not None][:left]
        module = _module(found) if known and isinstance(found, WorkloadRecord) else found
        if known and module is not None:
            _learn(model, key, module, known)
            left -= len(known)
        if left <= 0:
            return


def _learn(model: CostModel, key: str, module: Any, trials: Sequence[TrialRecord]) -> None:
    schedules, seconds = [], []
    for trial in trials:
        try:
            schedules.append(replayed(module, trial.trace))
        except IovtError:  # of another version of the schedules
            continue
        seconds.append(trial.median_s)
    model.learn(key, module, schedules, seconds)


def _module(record: WorkloadRecord) -> Any | None:
    """The unscheduled module of a recorded workload; None if it cannot be read."""
    try:
        return _tvm.tvm.ir.load_json(decompress_module(record))
    except Exception:  # damaged, or of another TVM
        return None
