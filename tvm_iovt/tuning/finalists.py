"""Which measured schedules are worth a look inside the network, and which are then chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tvm_iovt import _tvm
from tvm_iovt._version import __version__
from tvm_iovt.tuning.network_ranking import KernelTime
from tvm_iovt.tuning.schedule_records import SEARCH, DeviceKind, ScheduleChoice, TrialRecord
from tvm_iovt.tuning.session import TaskState, now

FINALISTS = 5
"""Schedules of a kernel that are tried in the network."""

TRIED_UP_TO = 1.05
"""A schedule that takes this many times as long as the template's alone may be faster in the
network, where its data comes from elsewhere."""

LEAST_GAIN = 0.01
"""Share of its time that a kernel must save in the network, besides the noise."""


def finalists(state: TaskState, trials: Sequence[TrialRecord]) -> tuple[TrialRecord, ...]:
    """The schedules of a task that are about as fast as its template alone, fastest first.

    Args:
        state: The task.
        trials: All recorded trials of it.
    """
    limit_s = float("inf")
    if state.template_s is not None:
        limit_s = state.template_s * TRIED_UP_TO
    found = [t for t in trials if t.valid and t.source == SEARCH and t.median_s < limit_s]
    return tuple(sorted(found, key=lambda t: t.median_s)[:FINALISTS])


def by_network_time(
    state: TaskState,
    candidates: Sequence[TrialRecord],
    times: Sequence[Mapping[str, KernelTime]],
) -> tuple[TrialRecord | None, float, float]:
    """The schedule of a task that is fastest inside the network.

    Args:
        state: The task.
        candidates: Its finalists.
        times: Of the network's functions: with the template's schedules, then with the first
            finalists, the second ones, and so on.

    Returns:
        The trial, None if the template's schedule stays; its seconds in a run of the network, and
        those of the template's schedule.
    """
    template = _total(state, times[0])
    best, best_time = None, template
    for candidate, found in zip(candidates, times[1:], strict=False):
        time = _total(state, found)
        least_s = max(LEAST_GAIN * template.median_s, time.spread_s + template.spread_s)
        if time.median_s < best_time.median_s and template.median_s - time.median_s > least_s:
            best, best_time = candidate, time
    return best, best_time.median_s, template.median_s


def _total(state: TaskState, times: Mapping[str, KernelTime]) -> KernelTime:
    """All functions that are this task; one that the virtual machine did not call took nothing."""
    found = [times[name] for name in state.task.functions if name in times]
    return KernelTime(
        median_s=sum(time.median_s for time in found),
        spread_s=sum(time.spread_s for time in found),
    )


def choice_of(
    state: TaskState,
    trial: TrialRecord | None,
    device: DeviceKind,
    *,
    network: str,
    network_s: float | None = None,
    template_network_s: float | None = None,
    reason: str,
) -> ScheduleChoice:
    """What was decided for a task, for the records.

    Args:
        state: The task.
        trial: The chosen schedule; None where the template's stays.
        device: What it holds for.
        network: Name of the network.
        network_s: Seconds inside of it; None if not measured there.
        template_network_s: The same of the template's schedule.
        reason: Why.
    """
    template_s = state.template_s if state.template_s is not None else float("inf")
    return ScheduleChoice(
        workload=state.task.workload.key,
        device=device,
        trial=trial.key if trial else "",
        trace=trial.trace if trial else None,
        alone_s=trial.median_s if trial else template_s,
        template_alone_s=template_s,
        network_s=network_s,
        template_network_s=template_network_s,
        network=network,
        trials=state.effort.valid,
        reason=reason,
        tvm_version=_tvm.installed_version("apache-tvm"),
        tool_version=__version__,
        date=now(),
    )


def keeps(old: ScheduleChoice | None, new: ScheduleChoice) -> bool:
    """Whether a recorded choice stays when another one was made.

    A network that gains nothing says little of a kernel that it shares with another one, which did.
    """
    if old is None or not old.trial or new.trial:
        return False
    return old.network != new.network
