"""The trials that an interrupted run has made, read from its records: events are not kept."""

from __future__ import annotations

from pathlib import Path

from tvm_iovt.tuning.events import RunStarted, TrialDone
from tvm_iovt.tuning.record_files import TRIALS
from tvm_iovt.tuning.record_lines import read_file
from tvm_iovt.tuning.schedule_records import TEMPLATE, TrialRecord


def earlier_trials(started: RunStarted, records: Path) -> tuple[TrialDone, ...]:
    """What a listener would have heard of the trials before the run was resumed.

    Args:
        started: Of the resumed run.
        records: Folder of its records; what cannot be read there is left out.

    Returns:
        In the order in which they were recorded. Records do not tell when after the run's begin
        that was, nor its speed then, so `elapsed_s`, `trials_per_s` and `eta_s` are 0.
    """
    if not started.resumed_trials:
        return ()
    tasks = {task.workload: task for task in started.tasks}
    weights = {task.workload: task.weight for task in started.tasks}
    best: dict[str, float] = {}
    templates: dict[str, float] = {}
    valid = 0
    told: list[TrialDone] = []
    for record in read_file(TRIALS, records).records:
        key = record.workload
        if key not in tasks:
            continue
        if record.valid:
            # Other runs count: their best schedules are where this one began.
            best[key] = min(record.median_s, best.get(key, record.median_s))
            if record.source == TEMPLATE:
                templates[key] = record.median_s
        if record.run != started.run:
            continue
        valid += record.valid
        told.append(
            _told(
                record,
                task=tasks[key].name,
                number=len(told) + 1,
                valid=valid,
                best_s=best.get(key),
                template_s=templates.get(key),
                network_s=_network_s(weights, best),
                template_network_s=_network_s(weights, templates),
            )
        )
        if len(told) == started.resumed_trials:
            break
    return tuple(told)


def _told(
    record: TrialRecord,
    *,
    task: str,
    number: int,
    valid: int,
    best_s: float | None,
    template_s: float | None,
    network_s: float | None,
    template_network_s: float | None,
) -> TrialDone:
    return TrialDone(
        elapsed_s=0.0,
        task=task,
        number=number,
        valid=valid,
        source=record.source,
        median_s=record.median_s if record.valid else None,
        failed=record.failed,
        error=record.error,
        runner=record.runner,
        best_s=best_s,
        template_s=template_s,
        network_s=network_s,
        template_network_s=template_network_s,
        trials_per_s=0.0,
        eta_s=0.0,
    )


def _network_s(weights: dict[str, int], seconds: dict[str, float]) -> float | None:
    """Sum over the kernels; None until each has a time."""
    if seconds.keys() < weights.keys():
        return None
    return sum(weight * seconds[key] for key, weight in weights.items())
