"""Chains of arithmetic with constants, such as a decomposed batch norm, as a scale and a shift.

`(x - mean) / sqrt(variance) * scale + bias` becomes `x * a + b` with `a` and `b` computed in
float64 and rounded once. A division by a constant becomes a multiplication, which the vector unit
does an order of magnitude faster; the result differs by one unit in the last place at most.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_iovt.schedules.tensors import (
    array_of,
    constant,
    dtype_of,
    is_constant,
    op_name,
    shape_of,
)
from tvm_iovt.schedules.tvm_api import PyExprMutator, mutator, relax

_STEPS = frozenset(
    f"relax.{name}"
    for name in (
        *("ceil", "equal", "floor", "floor_divide", "floor_mod", "greater", "greater_equal"),
        *("less", "less_equal", "mod", "not_equal", "quantize", "round", "sign", "trunc"),
        *("astype", "argmax", "argmin"),
    )
)
"""Operators that turn a difference in the last place into a whole step."""


@dataclass(frozen=True, slots=True)
class _Affine:
    """`base * scale + shift`, both in float64 and broadcast to the shape of `base`."""

    base: Any
    scale: np.ndarray
    shift: np.ndarray
    steps: int


def _usage(function: Any) -> tuple[Counter[Any], set[Any]]:
    """How often each variable is read, and which ones a step function reads."""
    reads: Counter[Any] = Counter()
    stepped: set[Any] = set()

    def visit(expr: Any) -> None:
        if isinstance(expr, relax.Call):
            arguments = [
                v for a in expr.args for v in (a.fields if isinstance(a, relax.Tuple) else [a])
            ]
            reads.update(a for a in arguments if isinstance(a, relax.Var))
            if op_name(expr) in _STEPS:
                stepped.update(arguments)
        elif isinstance(expr, relax.Tuple):
            reads.update(f for f in expr.fields if isinstance(f, relax.Var))
        elif isinstance(expr, relax.SeqExpr) and isinstance(expr.body, relax.Var):
            reads[expr.body] += 1

    relax.analysis.post_order_visit(function, visit)
    return reads, stepped


def _step(call: Any) -> tuple[Any, np.ndarray, np.ndarray] | None:
    """The variable operand of a call, and the scale and shift that the constant one stands for."""
    name = op_name(call)
    if name not in ("relax.add", "relax.subtract", "relax.multiply", "relax.divide"):
        return None
    first, second = call.args
    swapped = is_constant(first)
    data, fixed = (second, first) if swapped else (first, second)
    if not isinstance(data, relax.Var) or not is_constant(fixed):
        return None
    if dtype_of(call) != "float32" or dtype_of(data) != "float32":
        return None
    if shape_of(data) is None or shape_of(data) != shape_of(call):
        return None
    value = array_of(fixed).astype(np.float64)
    one, zero = np.float64(1), np.float64(0)
    scale, shift = np.asarray(one), np.asarray(zero)
    if name == "relax.add":
        shift = value
    elif name == "relax.subtract":
        scale, shift = (np.asarray(-one), value) if swapped else (scale, -value)
    elif name == "relax.multiply":
        scale = value
    elif swapped:
        return None
    else:
        with np.errstate(all="ignore"):
            scale = one / value
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return None
    return data, scale, shift


@mutator
class MergeAffine(PyExprMutator):  # type: ignore[misc]
    """Rewrites every operator that ends a chain; what comes before it is dead code then."""

    def __init__(self, mod: Any, function: Any) -> None:
        super().__init__(mod)
        self.reads, self.stepped = _usage(function)
        self.chains: dict[Any, _Affine] = {}

    def visit_var_binding_(self, binding: Any) -> None:
        """Extend the chain of the operand, or begin one."""
        found = _step(binding.value) if isinstance(binding.value, relax.Call) else None
        dataflow = self.builder_.current_block_is_dataflow()
        if found is None or binding.var in self.stepped or not dataflow:
            super().visit_var_binding_(binding)
            return
        data, scale, shift = found
        before = self.chains.get(data)
        # What somebody else reads is computed anyway; then one more step from there is cheapest.
        if before is None or self.reads[data] > 1:
            chain = _Affine(self.visit_expr(data), scale, shift, 1)
        else:
            chain = _Affine(
                before.base, before.scale * scale, before.shift * scale + shift, before.steps + 1
            )
        self.chains[binding.var] = chain
        is_division = op_name(binding.value) == "relax.divide"
        value = self._emitted(chain) if chain.steps > 1 or is_division else None
        if value is None:
            super().visit_var_binding_(binding)
            return
        internal = isinstance(binding.var, relax.DataflowVar)
        emit = self.builder_.emit if internal else self.builder_.emit_output
        self.set_var_remap(binding.var, emit(value))

    def _emitted(self, chain: _Affine) -> Any | None:
        """The chain as at most two operators, or None if its numbers do not fit float32."""
        with np.errstate(all="ignore"):
            scale, shift = chain.scale.astype(np.float32), chain.shift.astype(np.float32)
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            return None
        value = chain.base
        if (scale != 1).any():
            value = relax.op.multiply(value, constant(scale, "float32"))
        if (shift != 0).any():
            value = self.builder_.emit(value) if value is not chain.base else value
            value = relax.op.add(value, constant(shift, "float32"))
        return value


def merge_affine(mod: Any) -> Any:
    """`main` with its chains of arithmetic with constants merged; the old ones are dead code."""
    merged = MergeAffine(mod, mod["main"])
    function = merged.visit_expr(mod["main"])
    mod = merged.builder_.get()
    mod["main"] = function
    return mod
