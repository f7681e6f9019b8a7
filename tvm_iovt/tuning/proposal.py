"""What a search proposes to measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tvm_iovt.tuning.tasks import Task
from tvm_iovt.tuning.traces import trace_json, trial_key, untraced
from tvm_iovt.tuning.trial import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A schedule to measure.

    Attributes:
        trial: For the measurer.
        trace: As JSON; None for the template's schedule.
        schedule: The TVM schedule; None for the template's.
    """

    trial: Trial
    trace: Any
    schedule: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What is known of a trial that an earlier run has made.

    Attributes:
        schedule: The TVM schedule; None if it failed, or was the template's.
        seconds: Of one call; None if it failed.
    """

    schedule: Any
    seconds: float | None


class Search(Protocol):
    """Looks for schedules of one task."""

    def propose(self, count: int) -> list[Proposal]:
        """Up to `count` schedules that were not proposed before; none if there are none left."""
        ...

    def tell(self, proposal: Proposal, seconds: float | None) -> None:
        """What came of a proposal: seconds of one call, None if it failed."""
        ...


def proposal_of(task: Task, schedule: Any) -> Proposal:
    """A schedule of a task as a proposal."""
    trace = trace_json(schedule.trace)
    key = trial_key(task.workload.key, trace)
    trial = Trial(key=key, workload=task.workload, module=untraced(schedule))
    return Proposal(trial=trial, trace=trace, schedule=schedule)


def best_first(scores: Sequence[float]) -> list[int]:
    """Indices in descending order of the scores."""
    return sorted(range(len(scores)), key=lambda i: -scores[i])
