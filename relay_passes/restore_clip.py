"""The importer's expansion of ONNX Clip, back to one operator.

TVM's ONNX importer guards Clip's bounds against NaN and emits the comparison as TIR calls that no
other pass can look into:

    Given:
        %lo = where(isnan(0.0), -inf, 0.0)          # scalars
        %1  = call_tir(maximum, (%x, %lo))          # (N, C, H, W) float32
        %hi = where(isnan(6.0), inf, 6.0)
        %2  = call_tir(minimum, (%1, %hi))
    Result:
        %2  = clip(%x, min=0.0, max=6.0)

One-sided clips become `nn.relu` (lower bound 0), `maximum` or `minimum`. Bounds that are not
constants are left alone, and so are bounds in the wrong order: ONNX takes the upper one then,
TVM's `clip` the lower.

Run it right after the import, before any pass that looks at element-wise operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, topi
from tvm.relax.expr_functor import mutator

from relay_passes.rewriter import OnDecision, Rewriter, is_call


@tvm.transform.module_pass(opt_level=0, name="RestoreClip")
class RestoreClip:
    """Rewrites `call_tir` minimum/maximum with constant scalar bounds to `clip`.

    Args:
        on_decision: Called with every rewrite made or refused.
    """

    def __init__(self, on_decision: OnDecision | None = None) -> None:
        self._on_decision = on_decision

    def transform_module(self, mod: Any, _ctx: Any) -> Any:
        """Rewrite every Relax function of `mod`."""
        return _Rewriter(mod, "RestoreClip", self._on_decision).rewrite_module()


@mutator
class _Rewriter(Rewriter):
    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        side = self._side(call)
        if side is None:
            return call
        value, bound_expr = call.args[1].fields
        bound = self._constant_bound(bound_expr)
        if bound is None:
            self._decide(call, applied=False, reason=f"its {side} bound is not a constant")
            return call
        unbounded = -math.inf if side == "lower" else math.inf
        if math.isnan(bound) or bound == unbounded:
            self._decide(call, applied=True, reason=f"no {side} bound: removed")
            return value
        if side == "lower":
            return self._at_least(value, bound)
        return self._at_most(call, value, bound)

    def _at_least(self, value: Any, low: float) -> Any:
        if low == 0:
            return relax.op.nn.relu(value)
        return relax.op.maximum(value, relax.const(low, value.ty.dtype))

    def _at_most(self, call: Any, value: Any, high: float) -> Any:
        source, low = self._lower_bounded(value)
        dtype = value.ty.dtype
        if low is not None and low > high:
            self._decide(call, applied=False, reason=f"lower bound {low:g} above upper {high:g}")
            low = None
        if low is None:
            return relax.op.minimum(value, relax.const(high, value.ty.dtype))
        self._decide(call, applied=True, reason=f"clip to [{low:g}, {high:g}]")
        return relax.op.clip(source, tvm.tirx.const(low, dtype), tvm.tirx.const(high, dtype))

    def _lower_bounded(self, value: Any) -> tuple[Any, float | None]:
        """`(x, low)` when `value` is `maximum(x, low)` as this pass writes it."""
        call = self.bound(value)
        if is_call(call, "relax.nn.relu"):
            return call.args[0], 0.0
        if is_call(call, "relax.maximum"):
            return call.args[0], _scalar(call.args[1])
        return value, None

    def _side(self, call: Any) -> str | None:
        """`lower` or `upper` when the call is the importer's maximum or minimum, else None."""
        if call.op != tvm.ir.Op.get("relax.call_tir") or len(call.args[1].fields) != 2:
            return None
        name = call.args[0].name_hint
        for prefix, side, compute in (
            ("maximum", "lower", topi.maximum),
            ("minimum", "upper", topi.minimum),
        ):
            if name.startswith(prefix):
                value, bound = call.args[1].fields
                if bound.ty.ndim != 0:
                    return None
                # The name alone proves nothing: compare the code.
                same = tvm_ffi.structural_equal(
                    self.mod[call.args[0]], _importer_function(value.ty, bound.ty, compute)
                )
                return side if same else None
        return None

    def _constant_bound(self, bound: Any) -> float | None:
        expr = self.bound(bound)
        if is_call(expr, "relax.where"):
            guard = self.bound(expr.args[0])
            if not is_call(guard, "relax.isnan"):
                return None
            guarded, kept = _scalar(guard.args[0]), _scalar(expr.args[2])
            if guarded is None or kept is None:
                return None
            return _scalar(expr.args[1]) if math.isnan(guarded) else kept
        return _scalar(expr)

    def _decide(self, call: Any, *, applied: bool, reason: str) -> None:
        subject = f"{call.args[0].name_hint} {tuple(int(d) for d in call.ty_args[0].shape)}"
        self.decide(subject, applied=applied, reason=reason)


def _scalar(expr: Any) -> float | None:
    if isinstance(expr, tvm.ir.GenericConst) and expr.value.numpy().ndim == 0:
        return float(expr.value.numpy())
    return None


def _importer_function(value_type: Any, bound_type: Any, compute: Callable[..., Any]) -> Any:
    """The PrimFunc that the importer emits for `compute(value, bound)`."""
    builder = relax.BlockBuilder()
    value, bound = relax.Var("value", value_type), relax.Var("bound", bound_type)
    with builder.function("main", [value, bound]):
        builder.emit_func_output(builder.emit_te(compute, value, bound))
    functions = builder.get().functions.items()
    return next(f for var, f in functions if var.name_hint != "main")
