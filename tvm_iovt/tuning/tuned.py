"""Chosen schedules for the kernels of a network that is being built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm_iovt.errors import IovtError
from tvm_iovt.tuning.schedule_records import ScheduleChoice
from tvm_iovt.tuning.tasks import module_of, workload_key
from tvm_iovt.tuning.traces import replayed


class ChosenSchedules:
    """`schedules.tuned.TunedSchedules` from records.

    Args:
        choices: By the key of the workload.

    Attributes:
        used: Kernels that got a schedule.
        problems: Choices that could not be used, as sentences.
    """

    def __init__(self, choices: Mapping[str, ScheduleChoice]) -> None:
        self.used = 0
        self.problems: list[str] = []
        self._choices = choices

    def scheduled(self, function: Any) -> tuple[Any, str] | None:
        """See `TunedSchedules`."""
        if not self._choices:
            return None
        module = module_of(function)
        choice = self._choices.get(workload_key(module))
        if choice is None or choice.trace is None:
            return None
        try:
            schedule = replayed(module, choice.trace)
        except IovtError as error:
            self.problems.append(f"{error.what} ({choice.workload}): {error.seen}")
            return None
        self.used += 1
        scheduled = schedule.mod["main"]
        if function.attrs is not None and "global_symbol" in function.attrs:
            scheduled = scheduled.with_attr("global_symbol", function.attrs["global_symbol"])
        else:
            scheduled = scheduled.without_attr("global_symbol")
        return scheduled, account(choice)


def account(choice: ScheduleChoice) -> str:
    """What a choice rests on, for the decision log."""
    where, seconds, before = "alone", choice.alone_s, choice.template_alone_s
    if choice.network_s is not None and choice.template_network_s is not None:
        where, seconds, before = "in a network", choice.network_s, choice.template_network_s
    return (
        f"tuned: {seconds * 1e3:.3g} ms {where} against {before * 1e3:.3g} ms untuned "
        f"(best of {choice.trials}, {choice.date[:10]})"
    )
