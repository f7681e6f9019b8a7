"""Which units of a synthetic network its kernels are, so that their times calibrate laws.

Units are known by construction, and kernels run in their order. A kernel is that of the next unit
of its family with as many channels; what the compiler adds behind one (a change of layout, a
reshape) counts for it, a border that is filled first, or bytes that are widened first, for the next
one. Units that were fused into another one's kernel give no sample.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tvm_iovt.cost_graph import Unit
from tvm_iovt.stages.kernel_clock import TimedKernel
from tvm_iovt.unit_times import UnitSample

_FAMILIES = (
    ("depthwise_conv", ("depthwise",)),
    ("conv2d", ("conv", "pointwise", "grouped", "transposed")),
    ("matmul", ("matmul",)),
    ("pool", ("pool",)),
    ("mean", ("reduce",)),
    ("softmax", ("reduce",)),
    ("concat", ("move",)),
    ("resize", ("move",)),
    ("multiply", ("elementwise",)),
    ("add", ("elementwise",)),
    ("quantize", ("elementwise",)),
)
_LAYOUT_CHANGE = re.compile(r"transpose\d*")
_PROLOGUE = re.compile(r"(pad|dequantize)\w*")
_AHEAD = 6
"""Units that can have vanished into other kernels, one after another."""


def samples_of(units: Sequence[Unit], kernels: Sequence[TimedKernel]) -> tuple[UnitSample, ...]:
    """The units with a kernel of their own, and its seconds."""
    spent: dict[int, float] = {}
    last = -1
    pending_s = 0.0
    for kernel in kernels:
        if _LAYOUT_CHANGE.fullmatch(kernel.name):
            continue  # at the network's ends: not what a unit inside pays for
        if _PROLOGUE.fullmatch(kernel.name):
            pending_s += kernel.seconds
            continue
        found = _next_unit(units, kernel, last + 1)
        if found is not None:
            spent[found] = kernel.seconds + pending_s
            last, pending_s = found, 0.0
        elif last in spent:
            spent[last] += kernel.seconds
    return tuple(UnitSample(unit=units[index], seconds=seconds) for index, seconds in spent.items())


def _next_unit(units: Sequence[Unit], kernel: TimedKernel, start: int) -> int | None:
    kinds = next((kinds for word, kinds in _FAMILIES if word in kernel.name), ())
    for index in range(start, min(start + _AHEAD, len(units))):
        unit = units[index]
        if unit.kind in kinds and (
            _channels(unit) == kernel.channels or unit.shape_out == kernel.shape
        ):
            return _end_of_fused(units, kernel, index)
    return None


def _end_of_fused(units: Sequence[Unit], kernel: TimedKernel, index: int) -> int:
    """The unit that a kernel spends its time on: scaling a map, not finding the factors."""
    follows = index + 1 < len(units) and units[index + 1].kind == "elementwise"
    if follows and kernel.name.rstrip("0123456789").endswith("sigmoid_multiply"):
        return index + 1
    if "resize" in kernel.name and "concat" in kernel.name and index + 1 < len(units):
        return index + 1 if units[index + 1].kind == "move" else index
    return index


def _channels(unit: Unit) -> int:
    return unit.shape_out[1] if len(unit.shape_out) == 4 else unit.shape_out[-1]
