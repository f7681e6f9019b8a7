"""What of a function is computed in reduced precision, and how its tensors are stored.

Everything here reads the function as it is; `reduced_precision` rewrites it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_iovt.schedules.convolution import Conv2d
from tvm_iovt.schedules.dot_instructions import (
    bf16_instruction,
    integer_instruction,
    is_generated,
)
from tvm_iovt.schedules.layout_rules import TO_NHWC
from tvm_iovt.schedules.tensors import (
    array_of,
    dtype_of,
    is_constant,
    op_name,
    permutation,
    shape_of,
)
from tvm_iovt.schedules.tiles import lanes_of
from tvm_iovt.schedules.tvm_api import relax
from tvm_iovt.types import CpuSpec

HALF_ARITHMETIC = "asimdhp"
"""Flag of `/proc/cpuinfo` of ARM cores that multiply and add float16 vectors."""

_LARGEST_SUM = 2**31 - 1
_LARGEST_HALF = 65504.0

_POINTWISE = frozenset(
    f"relax.{name}"
    for name in (
        *("add", "subtract", "multiply", "divide", "maximum", "minimum", "clip", "sigmoid"),
        *("tanh", "exp", "erf", "abs", "negative", "concat", "mean", "nn.relu", "nn.relu6"),
        *("nn.silu", "nn.gelu", "nn.leakyrelu", "nn.prelu", "nn.gelu_tanh"),
    )
)
"""Operators whose kernels read a tensor element by element: they widen it as they go."""


@dataclass(frozen=True, slots=True)
class Integers:
    """A float32 tensor that is `values - zero_point`, `values` being 8-bit integers."""

    values: Any
    zero_point: int
    channels_first: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """How to compute one convolution or matrix product.

    Attributes:
        kind: `integer`; `rounded` to the precision that was asked for; or `depthwise`, which
            widens 8-bit integers or rounded numbers and computes in float32.
        call: The call, in variables of the original function.
        data: The variable with its data.
        channels_first: Whether that is an NCHW image.
        zero_point: Subtracted from the integers.
    """

    kind: str
    call: Any
    data: Any
    channels_first: bool = False
    zero_point: int = 0


class _Function:
    """What is bound to each variable of a function, and who reads it."""

    def __init__(self, function: Any) -> None:
        self.bound: dict[Any, Any] = {}
        self.readers: dict[Any, list[Any]] = {}
        for block in function.body.blocks:
            for binding in block.bindings:
                self.bound[binding.var] = binding.value
                for var in _variables(binding.value):
                    self.readers.setdefault(var, []).append(binding.var)

    def binding(self, var: Any) -> Any:
        """What is bound to a variable; None for parameters."""
        return self.bound.get(var)

    def value(self, expr: Any) -> Any:
        """What a variable stands for, or the expression itself."""
        return self.bound.get(expr, expr) if isinstance(expr, relax.Var) else expr

    def integers(self, expr: Any) -> Integers | None:
        """The 8-bit integers that a float32 tensor was converted from, if it was."""
        zero_point, channels_first = 0.0, False
        value = self.value(expr)
        for name in ("relax.permute_dims", "relax.subtract", "relax.permute_dims"):
            if op_name(value) != name:
                continue
            if name == "relax.subtract":
                if not is_constant(value.args[1]) or array_of(value.args[1]).size != 1:
                    return None
                zero_point = float(array_of(value.args[1]).reshape(()))
            elif permutation(value) != TO_NHWC or channels_first:
                return None
            else:
                channels_first = True
            value = self.value(value.args[0])
        if op_name(value) != "relax.astype" or dtype_of(value.args[0]) not in ("int8", "uint8"):
            return None
        limits = np.iinfo(dtype_of(value.args[0]))
        if zero_point != int(zero_point) or not limits.min <= zero_point <= limits.max:
            return None
        return Integers(value.args[0], int(zero_point), channels_first)


def _variables(value: Any) -> Iterator[Any]:
    if isinstance(value, relax.Var):
        yield value
    elif isinstance(value, relax.Call):
        for argument in value.args:
            yield from _variables(argument)
    elif isinstance(value, relax.Tuple):
        for field in value.fields:
            yield from _variables(field)
    elif isinstance(value, relax.TupleGetItem):
        yield from _variables(value.tuple_value)


def geometry(call: Any) -> Conv2d:
    """The geometry of a call of `relax.nn.conv2d` with static shapes, NHWC data, OIHW weights."""
    a = call.attrs
    batch, rows, cols, channels = shape_of(call.args[0]) or (0, 0, 0, 0)
    out_channels, _, kernel_rows, kernel_cols = shape_of(call.args[1]) or (0, 0, 0, 0)
    top, left, bottom, right = (int(v) for v in a.padding)
    return Conv2d(
        batch=batch,
        in_size=(rows, cols),
        in_channels=channels,
        out_channels=out_channels,
        kernel=(kernel_rows, kernel_cols),
        strides=(int(a.strides[0]), int(a.strides[1])),
        padding=(top, left, bottom, right),
        dilation=(int(a.dilation[0]), int(a.dilation[1])),
        groups=int(a.groups),
    )


def _is_whole(weights: np.ndarray) -> bool:
    """Whether weights are 8-bit integers whose sums of products stay below 2^31."""
    fits = (
        weights.min() >= -128 and weights.max() <= 127 and np.array_equal(weights, np.rint(weights))
    )
    columns = weights if weights.ndim == 2 else weights.reshape(len(weights), -1).T
    return bool(fits and 256 * np.abs(columns.astype(np.int64)).sum(axis=0).max() < _LARGEST_SUM)


class Planner:
    """Decides for every convolution and matrix product of a function how to compute it.

    Args:
        function: `main`, in data-flow form, channels last.
        cpu: The CPU; what it has instructions for decides.
        precision: What float32 convolutions and products are to be rounded to, if anything.

    Attributes:
        function: What is bound to each variable, and who reads it.
        integer: The instruction for 8-bit integers, or None.
        plans: By the variable that the result is bound to.
        stored: Variables to keep in the narrow format.
        moved: Variables of quantized numbers to store with the other signedness, and by how much
            they move: then no kernel has to move what it reads.
    """

    def __init__(self, function: Any, cpu: CpuSpec, precision: str) -> None:
        self.function = _Function(function)
        self.cpu = cpu
        self.integer = integer_instruction(cpu)
        self.rounds = _has_kernels(cpu, precision)
        self.half = precision == "fp16"
        self.plans: dict[Any, Plan] = {}
        for var, value in self.function.bound.items():
            plan = self._plan(value)
            if plan is not None:
                self.plans[var] = plan
        outputs = set(_variables(function.body.body))
        # Without a rounded product there is no kernel to bring the conversions' code along.
        rounded = any(plan.kind == "rounded" for plan in self.plans.values())
        self.stored = {
            var
            for var, readers in self.function.readers.items()
            if rounded
            and var not in outputs
            and isinstance(var, relax.DataflowVar)
            and isinstance(self.function.binding(var), relax.Call)
            and any(self._reads_rounded(reader, var) for reader in readers)
            and all(self._can_widen(reader, var) for reader in readers)
        }
        for var in self.stored:
            for reader in self.function.readers[var]:
                if reader not in self.plans and self._is_depthwise(reader, var):
                    self.plans[reader] = Plan("depthwise", self.function.bound[reader], var)
        self.moved = {
            var: shift
            for var, readers in self.function.readers.items()
            if var not in outputs
            and isinstance(var, relax.DataflowVar)
            and (shift := self._shift(var))
            and all(self._can_shift(reader, var) for reader in readers)
        }

    def _shift(self, var: Any) -> int:
        """What has to be added to quantized numbers to make them operands; 0 if nothing."""
        call = self.function.binding(var)
        if self.integer is None or op_name(call) != "relax.quantize":
            return 0
        zero_point, dtype = call.args[2], dtype_of(call)
        if dtype not in ("int8", "uint8") or dtype == self.integer.data:
            return 0
        if not is_constant(zero_point) or array_of(zero_point).size != 1:
            return 0
        return 128 if self.integer.data == "uint8" else -128

    def _can_shift(self, reader: Any, var: Any) -> bool:
        if reader in self.plans:
            return bool(self.plans[reader].data.same_as(var))
        call = self.function.binding(reader)
        if op_name(call) == "relax.dequantize":
            return is_constant(call.args[2]) and array_of(call.args[2]).size == 1
        return op_name(call) == "relax.astype" and dtype_of(call) == "float32"

    def _reads_rounded(self, reader: Any, var: Any) -> bool:
        """Whether a kernel that rounds what it reads, or is glad of half the bytes, reads `var`."""
        plan = self.plans.get(reader)
        if plan is None:
            return self._is_depthwise(reader, var)
        return plan.kind == "rounded" and bool(plan.data.same_as(var))

    def _can_widen(self, reader: Any, var: Any) -> bool:
        if self._reads_rounded(reader, var):
            return True
        return op_name(self.function.binding(reader)) in _POINTWISE

    def _is_depthwise(self, reader: Any, var: Any) -> bool:
        call = self.function.binding(reader)
        if not self.rounds or op_name(call) != "relax.nn.conv2d" or not _is_plain(call):
            return False
        return bool(call.args[0].same_as(var)) and geometry(call).is_depthwise

    def _plan(self, call: Any) -> Plan | None:
        if op_name(call) not in ("relax.nn.conv2d", "relax.matmul") or not _is_plain(call):
            return None
        if op_name(call) == "relax.matmul":
            return self._matmul(call)
        conv = geometry(call)
        found = self._integers(call)
        if found is not None:
            values, zero_point = found.values, found.zero_point
            if conv.is_depthwise:
                if found.channels_first:
                    return None
                return Plan("depthwise", call, values, zero_point=zero_point)
            if not _suits(conv, lanes_of(self.cpu), 4):
                return None
            return Plan("integer", call, values, found.channels_first, zero_point)
        lanes = lanes_of(self.cpu, 16 if self.half else 32)
        if conv.is_depthwise or not self._can_round(call) or not _suits(conv, lanes, 2):
            return None
        source = self.function.value(call.args[0])
        if (
            op_name(source) == "relax.permute_dims"
            and permutation(source) == TO_NHWC
            and isinstance(source.args[0], relax.Var)
        ):
            return Plan("rounded", call, source.args[0], channels_first=True)
        return Plan("rounded", call, call.args[0])

    def _matmul(self, call: Any) -> Plan | None:
        if len(shape_of(call.args[0]) or ()) < 2 or len(shape_of(call.args[1]) or ()) != 2:
            return None
        found = self._integers(call)
        if found is not None:
            if found.channels_first:
                return None
            return Plan("integer", call, found.values, zero_point=found.zero_point)
        if not isinstance(call.args[0], relax.Var) or not self._can_round(call):
            return None
        return Plan("rounded", call, call.args[0])

    def _can_round(self, call: Any) -> bool:
        if not self.half:
            return self.rounds
        # Sums of integers are beyond float16, and so may weights be.
        fits = float(np.abs(array_of(call.args[1])).max()) <= _LARGEST_HALF
        return self.rounds and fits and self.function.integers(call.args[0]) is None

    def _integers(self, call: Any) -> Integers | None:
        """The integers that a call reads, if instructions can multiply them by its weights."""
        found = self.function.integers(call.args[0])
        usable = self.integer is not None and _is_whole(array_of(call.args[1]))
        return found if usable else None


def _has_kernels(cpu: CpuSpec, precision: str) -> bool:
    if precision == "bf16":
        return bf16_instruction(cpu) is not None
    has = HALF_ARITHMETIC in cpu.features and is_generated("fullfp16")
    return precision == "fp16" and has


def _is_plain(call: Any) -> bool:
    """Whether a convolution or matrix product is of float32, with constant weights, channels last.

    Empty tensors are none of our business.
    """
    if not is_constant(call.args[1]):
        return False
    if any(dtype_of(e) != "float32" or 0 in (shape_of(e) or (0,)) for e in (call, *call.args)):
        return False
    if op_name(call) == "relax.matmul":
        return True
    return str(call.attrs.data_layout) == str(call.attrs.out_layout) == "NHWC"


def _suits(conv: Conv2d, lanes: int, run: int) -> bool:
    """Whether the groups of a convolution fill registers of `lanes` outputs, `run` inputs each."""
    if conv.groups == 1:
        return True
    return conv.out_channels // conv.groups >= lanes and conv.in_channels // conv.groups >= run
