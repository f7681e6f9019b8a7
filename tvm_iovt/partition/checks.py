"""What a planner refuses: requests that make no sense, and networks that fit nowhere."""

from __future__ import annotations

from collections.abc import Sequence

from tvm_iovt.errors import TargetError, UsageError
from tvm_iovt.partition.evaluate import ENERGY, OBJECTIVES, Evaluation
from tvm_iovt.partition.problem import Problem


def check_request(
    problem: Problem, objective: str, order: Sequence[int] | None, noise: float
) -> None:
    """Refuse arguments of `planner.plan` that make no sense.

    Raises:
        UsageError: An argument is wrong.
        TargetError: Energy is to be minimised, and a device states no watts.
    """
    if objective not in OBJECTIVES:
        raise UsageError(
            "Nothing is known about this objective", seen=objective, do=" or ".join(OBJECTIVES)
        )
    if not 0 <= noise < 1:
        raise UsageError(
            "A noise is a share of the time", seen=str(noise), do="state it from 0 to below 1"
        )
    if not problem.graph.units:
        raise UsageError("There is nothing to plan", seen="a network without operators")
    if order is not None:
        check_devices(problem, order)
    used = problem.devices if order is None else [problem.devices[device] for device in order]
    silent = [device.name for device in used if not device.active_w]
    if objective == ENERGY and silent:
        raise TargetError(
            "Energy cannot be planned without the watts of every target",
            seen=f"none for {', '.join(silent)}",
            do="state `active_w` in the target's file",
        )


def check_devices(problem: Problem, devices: Sequence[int]) -> None:
    """Refuse devices that do not exist or are named twice.

    Raises:
        UsageError: With what was named.
    """
    if (
        not devices
        or sorted(set(devices)) != sorted(devices)
        or not (0 <= min(devices) <= max(devices) < len(problem.devices))
    ):
        raise UsageError(
            "These are no different devices of the problem",
            seen=f"{list(devices)} of {len(problem.devices)}",
        )


def nothing_fits(whole: Sequence[Evaluation]) -> TargetError:
    """The error for a network that has no feasible placement, from those on single devices."""
    alone = "; ".join(one.obstacle for one in whole)
    return TargetError(
        "The network cannot run on these targets, whole or cut",
        seen=f"alone, {alone}",
        do="name another target, or raise a target's `memory_bytes` if it has more",
    )
