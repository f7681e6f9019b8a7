"""Which unit of a network a compiled kernel belongs to, so that measured kernels time units.

The compiler keeps neither names nor, where branches join, the order of operators. What stays is
what a kernel computes: its kind, and the size of what it writes. Kernels of one kind and size are
matched in order; where two of them changed places, they are alike and so are their times.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm_iovt.cost_graph import CostGraph, Unit
from tvm_iovt.stages.kernel_clock import TimedKernel

_BORDER = 12
"""Zeros around a result for the next kernel's window, both sides together, at most."""

_CONVOLUTIONS = ("conv", "pointwise", "depthwise", "grouped", "transposed")


def unit_seconds(graph: CostGraph, kernels: Sequence[TimedKernel]) -> tuple[float, ...]:
    """Seconds of each unit; they add up to those of the kernels.

    Convolutions, products, pools and reductions are matched with their kernels. Between two of
    those, the time of what is left (copies, changes of layout, element-wise kernels) goes to the
    units of that stretch that have no kernel yet, by their traffic; if there are none, to the unit
    before.
    """
    seconds = [0.0] * len(graph.units)
    if not graph.units:
        return ()
    waiting = {index for index, unit in enumerate(graph.units) if _family(unit)}
    place = -1  # the furthest unit that has a kernel
    pending = 0.0
    stretch_from = 0
    for kernel in kernels:
        found = _match(graph.units, kernel, waiting)
        if found is None:
            pending += kernel.seconds
            continue
        waiting.discard(found)
        seconds[found] += kernel.seconds
        if found > place:
            _spread(graph.units, seconds, range(stretch_from, found + 1), pending)
            pending, place, stretch_from = 0.0, found, found + 1
    _spread(graph.units, seconds, range(stretch_from, len(graph.units)), pending)
    return tuple(seconds)


def _match(units: Sequence[Unit], kernel: TimedKernel, waiting: set[int]) -> int | None:
    """The first unit without a kernel that this one may be of."""
    family = _family_of_kernel(kernel.name)
    if not family:
        return None
    for index in sorted(waiting):
        unit = units[index]
        if _family(unit) == family and (
            family not in ("conv", "depthwise") or _writes(unit, kernel.shape)
        ):
            return index
    return None


def _writes(unit: Unit, shape: Sequence[int]) -> bool:
    """Whether a kernel's result may be a unit's: as wide, and as large but for a border."""
    if not shape or unit.shape_out[1 if len(unit.shape_out) == 4 else -1] != shape[-1]:
        return False
    if len(unit.shape_out) != 4 or len(shape) != 4:
        return True
    return all(
        0 <= have - want <= _BORDER
        for want, have in zip(unit.shape_out[2:], shape[1:3], strict=True)
    )


def _spread(units: Sequence[Unit], seconds: list[float], stretch: range, spent_s: float) -> None:
    """Divide time over the units of a stretch that have no kernel, else give it to the last."""
    if not spent_s:
        return
    without = [index for index in stretch if seconds[index] == 0.0]
    shares = [float(units[index].nbytes) for index in without]
    total = sum(shares)
    if total:
        for index, share in zip(without, shares, strict=True):
            seconds[index] += spent_s * share / total
        return
    index = stretch[-1] if len(stretch) else stretch.start - 1
    seconds[max(index, 0)] += spent_s


def _family(unit: Unit) -> str:
    if unit.kind == "depthwise":
        return "depthwise"
    if unit.kind in _CONVOLUTIONS:
        return "conv"
    return unit.kind if unit.kind in ("matmul", "pool", "reduce") else ""


def _family_of_kernel(name: str) -> str:
    for word, family in (
        ("depthwise_conv", "depthwise"),
        ("conv", "conv"),
        ("matmul", "matmul"),
        ("dense", "matmul"),
        ("pool", "pool"),
        ("mean", "reduce"),
        ("softmax", "reduce"),
    ):
        if word in name:
            return family
    return ""
