"""One operator on two devices at once, split by rows of its output or by output channels.

CoDL (doi 10.1145/3498361.3538932) splits each operator between a CPU and a GPU:

    T = transfers + synchronisation + max(t_first, t_second)

The first device holds the operator's input and wants its output. By rows, the second one needs the
input rows that its output rows look at, the *halo* of a window included; by channels, it needs the
whole input. Weights are constants, and are there already. Kernels take whole rows and whole blocks
of channels, so there are few split points, and all of them are tried: the optimum is exact for any
time functions, those with steps included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tvm_iovt.cost_graph import Unit
from tvm_iovt.errors import IovtError
from tvm_iovt.partition.problem import Route
from tvm_iovt.types import Decision

AXES = ("rows", "channels")
_AXIS_OF = {"rows": 2, "channels": 1}  # NCHW
_KINDS = {
    "rows": ("conv", "pointwise", "depthwise", "grouped"),
    "channels": ("conv", "pointwise"),
}
_TRANSFORM = "SplitOperator"
_SHARED = Route()  # nothing has to move

Seconds = Callable[[float], float]
"""Seconds that a share of the operator's output, above 0 and up to 1, takes on one device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitCosts:
    """What a split costs, and what it may do.

    Attributes:
        first_s: Times on the device that has the input.
        second_s: Times on the other one.
        there: Way from the first device to the second; without hops where they share a memory.
        back: Way from the second device to the first.
        sync_s: Seconds to start the second device and to wait for it.
        granule: Rows, or channels of a block. The first part is made of whole ones, the second one
            gets the rest.
        margin: Least `gain` that counts: the noise of the times, say.

    Raises:
        IovtError: The granule is below 1, or the margin or `sync_s` is negative or NaN.
    """

    first_s: Seconds
    second_s: Seconds
    there: Route = _SHARED
    back: Route = _SHARED
    sync_s: float = 0.0
    granule: int = 1
    margin: float = 0.0

    def __post_init__(self) -> None:
        if self.granule < 1 or not self.sync_s >= 0 or not self.margin >= 0:
            raise IovtError(
                "The costs of splitting an operator are not valid",
                seen=f"granule {self.granule}, sync {self.sync_s} s, margin {self.margin}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPlan:
    """A split that pays.

    Attributes:
        unit: Its name.
        axis: One of `AXES`.
        parts: Rows or channels of the first and of the second device; both above 0.
        predicted_s: Seconds of the split operator, transfers included.
        alone_s: Seconds of the whole one on the better device, transfers included.
        halo_rows: Input rows that both parts read.
    """

    unit: str
    axis: str
    parts: tuple[int, ...]
    predicted_s: float
    alone_s: float
    halo_rows: int = 0

    @property
    def gain(self) -> float:
        """Share of `alone_s` that the split saves."""
        return 1 - self.predicted_s / self.alone_s

    def decision(self) -> Decision:
        """For the list of what was done."""
        reason = (
            f"{' + '.join(map(str, self.parts))} {self.axis} take {_ms(self.predicted_s)}, one "
            f"device alone {_ms(self.alone_s)}: {self.gain:.1%} less"
        )
        return Decision(transform=_TRANSFORM, subject=self.unit, applied=True, reason=reason)


def plan_split(unit: Unit, axis: str, costs: SplitCosts) -> SplitPlan | Decision:
    """The best split of an operator along one axis, or why it stays whole.

    Args:
        unit: With NCHW shapes.
        axis: One of `AXES`.
        costs: Times of shares and of transfers.

    Returns:
        The plan; or a decision that was not applied, with its reason.

    Raises:
        IovtError: There is no such axis, or a time is negative or NaN.
    """
    if axis not in AXES:
        raise IovtError(f"There is no axis {axis!r} to split along", seen=f"axes: {AXES}")
    refusal = _refusal(unit, axis, costs.granule)
    if refusal:
        return _whole(unit, refusal)
    total = unit.shape_out[_AXIS_OF[axis]]
    alone_s = min(
        _seconds(costs.first_s, 1.0),
        costs.sync_s + _moved_s(unit, axis, 0, costs) + _seconds(costs.second_s, 1.0),
    )
    predicted_s, size = min(
        (
            costs.sync_s
            + _moved_s(unit, axis, size, costs)
            + max(
                _seconds(costs.first_s, size / total),
                _seconds(costs.second_s, (total - size) / total),
            ),
            size,
        )
        for size in range(costs.granule, total, costs.granule)
    )
    if not predicted_s < alone_s or 1 - predicted_s / alone_s < costs.margin:
        enough = f", which is not {costs.margin:.0%} more" if predicted_s < alone_s else ""
        return _whole(
            unit,
            f"the best split, {size} + {total - size} {axis}, takes {_ms(predicted_s)}; one device "
            f"alone {_ms(alone_s)}{enough}",
        )
    return SplitPlan(
        unit=unit.name,
        axis=axis,
        parts=(size, total - size),
        predicted_s=predicted_s,
        alone_s=alone_s,
        halo_rows=halo_rows(unit, size) if axis == "rows" else 0,
    )


def best_split(unit: Unit, costs: Mapping[str, SplitCosts]) -> SplitPlan | Decision:
    """The best split of an operator over several axes, or why it stays whole.

    Args:
        unit: With NCHW shapes.
        costs: By axis; those that are not there are not tried.

    Raises:
        IovtError: As for `plan_split`, or there is no axis to try.
    """
    if not costs:
        raise IovtError(f"There is no axis to split {unit.name} along")
    found = {axis: plan_split(unit, axis, of_axis) for axis, of_axis in costs.items()}
    plans = [plan for plan in found.values() if isinstance(plan, SplitPlan)]
    if plans:
        return min(plans, key=lambda plan: plan.predicted_s)
    return _whole(
        unit,
        "; ".join(f"{a}: {why.reason}" for a, why in found.items() if isinstance(why, Decision)),
    )


def input_rows(unit: Unit, start: int, stop: int) -> tuple[int, int]:
    """First and past-the-last input row that output rows `start` to `stop` look at.

    A window's padding is what the shapes leave for it, the smaller half above.
    """
    height_in, height_out = unit.shape_in[2], unit.shape_out[2]
    kernel = unit.kernel[0] if unit.kernel else 1
    stride = unit.strides[0] if unit.strides else 1
    above = max((height_out - 1) * stride + kernel - height_in, 0) // 2
    first = min(max(start * stride - above, 0), height_in)
    past = min(max((stop - 1) * stride - above + kernel, first), height_in)
    return first, past


def halo_rows(unit: Unit, size: int) -> int:
    """Input rows that are read for the first `size` output rows and for the others, too."""
    _, past_first = input_rows(unit, 0, size)
    second, _ = input_rows(unit, size, unit.shape_out[2])
    return max(past_first - second, 0)


def _refusal(unit: Unit, axis: str, granule: int) -> str:
    if unit.kind not in _KINDS[axis]:
        if axis == "channels" and unit.kind in _KINDS["rows"]:
            return f"a {unit.kind} convolution in {unit.groups} groups has no channels to split"
        return f"it is of kind {unit.kind!r}; what can be split: {', '.join(_KINDS[axis])}"
    if axis == "channels" and unit.groups != 1:
        return f"a convolution in {unit.groups} groups has no channels to split"
    if len(unit.shape_out) != 4 or len(unit.shape_in) != 4:
        return f"its shapes are not those of images: {unit.shape_in} -> {unit.shape_out}"
    total = unit.shape_out[_AXIS_OF[axis]]
    if total <= granule:
        return f"too few {axis}: {total}, and a part has {granule} at least"
    return ""


def _moved_s(unit: Unit, axis: str, size: int, costs: SplitCosts) -> float:
    """Seconds of the transfers if the second device computes all but the first `size`."""
    total = unit.shape_out[_AXIS_OF[axis]]
    needed: float = unit.bytes_in  # by channels all of it, and of a residual more than needed
    if axis == "rows":
        first, past = input_rows(unit, size, total)
        needed = unit.bytes_in * (past - first) / unit.shape_in[2]
    made = unit.bytes_out * (total - size) / total
    return costs.there.latency_s(math.ceil(needed)) + costs.back.latency_s(math.ceil(made))


def _seconds(times: Seconds, share: float) -> float:
    seconds = times(share)
    if not seconds >= 0:
        raise IovtError("A share of an operator has no valid time", seen=f"{seconds} s")
    return seconds


def _whole(unit: Unit, reason: str) -> Decision:
    return Decision(transform=_TRANSFORM, subject=unit.name, applied=False, reason=reason)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f} ms"
