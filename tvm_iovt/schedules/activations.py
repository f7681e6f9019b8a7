"""The hyperbolic tangent of a softplus, as in Mish, with one exponential and no logarithm.

With e = exp(x), tanh(log(1 + e)) = ((1 + e)^2 - 1) / ((1 + e)^2 + 1) = p / (p + 2), p = e (e + 2).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tvm_iovt.schedules.tensors import array_of, constant, dtype_of, is_constant, op_name
from tvm_iovt.schedules.tvm_api import PyExprMutator, mutator, relax

_FLAT = 20.0
"""From here the tangent is 1 in float32, and e^2 is far from its largest number."""


@mutator
class SimplifyActivations(PyExprMutator):  # type: ignore[misc]
    """Rewrites both forms that exporters and the importer write a softplus in."""

    def visit_call_(self, call: Any) -> Any:
        """Rewrite one hyperbolic tangent, or leave it."""
        call = self.visit_expr_post_order(call)
        if op_name(call) != "relax.tanh" or dtype_of(call.args[0]) != "float32":
            return call
        x = self._of_softplus(call.args[0])
        if x is None:
            return call
        emit = self.builder_.emit
        e = emit(relax.op.exp(emit(relax.op.minimum(x, _scalar(_FLAT)))))
        part = emit(relax.op.multiply(e, emit(relax.op.add(e, _scalar(2)))))
        return relax.op.divide(part, emit(relax.op.add(part, _scalar(2))))

    def _value(self, expr: Any, operator: str) -> Any | None:
        """The call of `operator` that an expression stands for, or None."""
        value = self.lookup_binding(expr) if isinstance(expr, relax.Var) else expr
        return value if op_name(value) == operator else None

    def _operand(self, expr: Any, operator: str) -> Any | None:
        value = self._value(expr, operator)
        return None if value is None else value.args[0]

    def _other(self, expr: Any, operator: str, number: float) -> Any | None:
        """The operand of a commutative operator whose other operand is `number`."""
        value = self._value(expr, operator)
        if value is None:
            return None
        for one, other in (value.args, reversed(value.args)):
            if is_constant(one) and array_of(one).size == 1 and array_of(one).item() == number:
                return other
        return None

    def _log_of_one_and_exp(self, expr: Any) -> Any | None:
        """`z` of log(1 + exp(z))."""
        inside = self._operand(expr, "relax.log")
        power = None if inside is None else self._other(inside, "relax.add", 1.0)
        return None if power is None else self._operand(power, "relax.exp")

    def _of_softplus(self, expr: Any) -> Any | None:
        """`x` of log(1 + exp(x)), or of max(x, 0) + log(1 + exp(-|x|))."""
        plain = self._log_of_one_and_exp(expr)
        if plain is not None:
            return plain
        total = self._value(expr, "relax.add")
        for linear, rest in (total.args, reversed(total.args)) if total is not None else ():
            x = self._operand(linear, "relax.nn.relu")
            if x is None:
                x = self._other(linear, "relax.maximum", 0.0)
            negative = self._log_of_one_and_exp(rest)
            size = None if negative is None else self._operand(negative, "relax.negative")
            inner = None if size is None else self._operand(size, "relax.abs")
            if x is not None and inner is not None and inner.same_as(x):
                return x
        return None


def _scalar(value: float) -> Any:
    return constant(np.float32(value), "float32")


def simplify_activations(mod: Any) -> Any:
    """`main` with cheaper forms of activations; superseded operators are dead code."""
    simplified = SimplifyActivations(mod)
    function = simplified.visit_expr(mod["main"])
    mod = simplified.builder_.get()
    mod["main"] = function
    return mod
