"""Clips of clips, as one operator or none.

    Given:
        %1 = nn.relu(%x)
        %2 = clip(%1, min=0, max=6)
        %3 = nn.relu(%2)
    Result:
        %3 = clip(%x, min=0, max=6)

Exporters and converters leave such chains (an activation behind a clipped quantization range, a
ReLU behind a ReLU6). Each link is a clamp to an interval, and clamps compose:
clamp(clamp(x, a, b), c, d) = clamp(x, a', b') with a' and b' the ends a and b clamped to [c, d].
NaN passes through both.

Run it after `RestoreClip`, which gives clips their one form.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import tvm
from tvm import relax
from tvm.relax.expr_functor import mutator

from relay_passes.rewriter import OnDecision, Rewriter, is_call


@tvm.transform.module_pass(opt_level=0, name="FoldClip")
class FoldClip:
    """Merges chains of `nn.relu`, `clip`, `maximum` and `minimum` with constant bounds.

    Args:
        on_decision: Called with every merge made or refused.
    """

    def __init__(self, on_decision: OnDecision | None = None) -> None:
        self._on_decision = on_decision

    def transform_module(self, mod: Any, _ctx: Any) -> Any:
        """Merge in every Relax function of `mod`."""
        return _Rewriter(mod, "FoldClip", self._on_decision).rewrite_module()


class _Clamp(NamedTuple):
    """`min(max(operand, low), high)`."""

    operand: Any
    low: float
    high: float


@mutator
class _Rewriter(Rewriter):
    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        outer = _clamp(call)
        if outer is None:
            return call
        inner = _clamp(self.bound_once(outer.operand))
        if inner is None:
            if _clamp(self.bound(outer.operand)) is not None:
                self._decide(call, applied=False, reason="the inner clip has another consumer")
            return call
        if outer.low > outer.high or inner.low > inner.high:
            self._decide(call, applied=False, reason="a lower bound lies above the upper one")
            return call
        low, high = (min(max(end, outer.low), outer.high) for end in (inner.low, inner.high))
        self._decide(call, applied=True, reason=f"two clips make one to [{low:g}, {high:g}]")
        return _write(inner.operand, low, high)

    def _decide(self, call: Any, *, applied: bool, reason: str) -> None:
        shape = "x".join(str(size) for size in call.ty.shape)
        name = str(call.op.name).removeprefix("relax.")
        self.decide(f"{name} of {shape}", applied=applied, reason=reason)


def _clamp(call: Any) -> _Clamp | None:
    """What a call clamps to, if it is a clamp with constant bounds."""
    if is_call(call, "relax.nn.relu"):
        return _Clamp(call.args[0], 0.0, math.inf)
    if is_call(call, "relax.clip"):
        low, high = (_scalar(bound) for bound in call.args[1:3])
        return None if low is None or high is None else _Clamp(call.args[0], low, high)
    for op, side in (("relax.maximum", 0), ("relax.minimum", 1)):
        if is_call(call, op):
            bound = _scalar(call.args[1])
            if bound is None:
                return None
            return _Clamp(call.args[0], *((bound, math.inf) if side == 0 else (-math.inf, bound)))
    return None


def _write(operand: Any, low: float, high: float) -> Any:
    dtype = operand.ty.dtype
    if math.isinf(high):
        if low == 0:
            return relax.op.nn.relu(operand)
        return relax.op.maximum(operand, relax.const(low, dtype))
    if math.isinf(low):
        return relax.op.minimum(operand, relax.const(high, dtype))
    return relax.op.clip(operand, tvm.tirx.const(low, dtype), tvm.tirx.const(high, dtype))


def _scalar(expr: Any) -> float | None:
    if isinstance(expr, tvm.ir.GenericConst):
        value = expr.value.numpy()
        finite = value.size == 1 and not math.isnan(float(value.reshape(())))
        return float(value.reshape(())) if finite else None
    value = getattr(expr, "value", expr)
    value = getattr(value, "value", value)
    return float(value) if isinstance(value, (int, float)) else None
