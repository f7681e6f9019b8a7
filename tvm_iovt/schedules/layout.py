"""Channels-last propagation: every convolution, and what is between them, becomes NHWC.

Walking forward, each tensor that exists in NHWC form is remembered next to its NCHW form, which is
a transposition of it. An operator with such an operand is rewritten to NHWC if its rule allows it;
transpositions that nobody reads are dead code afterwards. Weights stay OIHW constants.
"""

from __future__ import annotations

from typing import Any

from tvm_iovt.schedules.layout_rules import RULES, TO_NCHW, TO_NHWC, Exit
from tvm_iovt.schedules.tensors import (
    array_of,
    constant,
    dtype_of,
    is_constant,
    op_name,
    permutation,
    shape_of,
)
from tvm_iovt.schedules.tvm_api import PyExprMutator, mutator, relax


@mutator
class ChannelsLast(PyExprMutator):  # type: ignore[misc]
    """The pass; convolutions start a region of NHWC tensors."""

    def __init__(self, mod: Any) -> None:
        super().__init__(mod)
        self.mod = mod
        self.nhwc: dict[Any, Any] = {}
        self.parts: dict[Any, list[Any]] = {}
        self.rewritten = 0

    def visit_var_binding_(self, binding: Any) -> None:
        """Rewrite one operator and remember both forms of its result."""
        value = self.visit_expr(binding.value)
        form: Any = None
        if isinstance(value, relax.TupleGetItem):
            parts = self.parts.get(value.tuple_value)
            form = parts[int(value.index)] if parts is not None else None
        elif isinstance(value, relax.Call):
            form = self._rewrite(value)
        if isinstance(form, Exit):
            value, form = form.value, None
        if isinstance(form, list):  # a split: the parts are looked up one by one
            var = self.builder_.emit(value)
            self.parts[var] = form
            self.set_var_remap(binding.var, var)
            return
        if form is not None:
            self.rewritten += 1
            form = self.builder_.emit(form)
            value = relax.op.permute_dims(form, list(TO_NCHW))
        elif op_name(value) == "relax.permute_dims" and permutation(value) == TO_NCHW:
            form = value.args[0]
        if (
            isinstance(binding.var, relax.DataflowVar)
            or not self.builder_.current_block_is_dataflow()
        ):
            var = self.builder_.emit(value)
        else:
            var = self.builder_.emit_output(value)
        if form is not None:
            self.nhwc[var] = form
        self.set_var_remap(binding.var, var)

    def _rewrite(self, call: Any) -> Any | None:
        """The NHWC form of a call, or None if it has none."""
        name = op_name(call)
        rule = RULES.get(name)
        if rule is None or not call.args:
            return None
        return rule(self, call)

    def form(self, expr: Any) -> Any:
        """The NHWC form of a 4-D tensor; transposed now if it has none yet."""
        if expr in self.nhwc:
            return self.nhwc[expr]
        if is_constant(expr):
            return constant(array_of(expr).transpose(TO_NHWC), dtype_of(expr))
        var = self.builder_.emit(relax.op.permute_dims(expr, list(TO_NHWC)))
        self.nhwc[expr] = var
        return var

    def known(self, expr: Any) -> bool:
        """Whether the NHWC form of a tensor exists."""
        return isinstance(expr, relax.Var) and expr in self.nhwc

    def operand(self, expr: Any) -> Any | None:
        """A broadcast operand for NHWC arithmetic, or None if it cannot be had without a copy."""
        if not isinstance(expr.ty, relax.TensorType):
            return expr
        shape = shape_of(expr)
        if shape is None:
            return None
        if all(extent == 1 for extent in shape) and len(shape) <= 4:
            return expr
        if is_constant(expr) and len(shape) <= 4:
            value = array_of(expr).reshape((1,) * (4 - len(shape)) + shape)
            return constant(value.transpose(TO_NHWC), dtype_of(expr))
        return self.form(expr) if len(shape) == 4 else None


def propagate_channels_last(mod: Any) -> Any:
    """`main` with channels-last convolutions; its inputs and outputs keep their layout."""
    mutated = ChannelsLast(mod)
    function = mutated.visit_expr(mod["main"])
    mod = mutated.builder_.get()
    mod["main"] = function
    return relax.transform.DeadCodeElimination()(mod)
