"""Channels-last propagation: every convolution, and what is between them, becomes NHWC.

Walking forward, each tensor that exists in NHWC form is remembered next to its NCHW form, which is
a transposition of it. An operator with such an operand is rewritten to NHWC if its rule allows it;
transpositions that nobody reads are dead code afterwards. Weights stay OIHW constants.
"""

from __future__ import annotations

from typing import Any

from tvm_iovt.schedules.layout_rules import RULES, TO_NCHW, TO_NHWC, Exit
from tvm_iovt.schedules.reshapes import sink_reshapes
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
from tvm_iovt.schedules.views import Permuted, Segment, regrouped, segments
from tvm_iovt.schedules.weaving import woven

_RESHAPES = frozenset(
    f"relax.{name}" for name in ("reshape", "flatten", "squeeze", "expand_dims", "nn.batch_flatten")
)


@mutator
class ChannelsLast(PyExprMutator):  # type: ignore[misc]
    """The pass; convolutions start a region of NHWC tensors."""

    def __init__(self, mod: Any) -> None:
        super().__init__(mod)
        self.mod = mod
        self.nhwc: dict[Any, Any] = {}
        self.parts: dict[Any, list[Any]] = {}
        self.views: dict[Any, Permuted] = {}
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
        view = None
        if form is None and isinstance(value, relax.Call):
            view = self._moved(value)
            form = self._image(view)
        if isinstance(form, Exit):
            value, form, view = form.value, None, None
            if isinstance(value, relax.Var) and isinstance(binding.var, relax.DataflowVar):
                self.set_var_remap(binding.var, value)
                return
        if isinstance(form, list):  # a split: the parts are looked up one by one
            var = self.builder_.emit(value)
            self.parts[var] = form
            self.set_var_remap(binding.var, var)
            return
        if form is not None:
            self.rewritten += 1
            form = self.builder_.emit(form)
            value = relax.op.permute_dims(form, list(TO_NCHW))
        elif view is not None:
            value = relax.op.permute_dims(view.source, list(view.order))
        if (
            isinstance(binding.var, relax.DataflowVar)
            or not self.builder_.current_block_is_dataflow()
        ):
            var = self.builder_.emit(value)
        else:
            var = self.builder_.emit_output(value)
        if form is not None:
            self.nhwc[var] = form
        elif view is not None:
            self.views[var] = view
        self.set_var_remap(binding.var, var)

    def _view_of(self, expr: Any) -> Permuted | None:
        if self.known(expr):
            return Permuted(self.nhwc[expr], TO_NCHW, image=True)
        return self.views.get(expr) if isinstance(expr, relax.Var) else None

    def _moved(self, call: Any) -> Permuted | None:
        """What a permutation, or a reshape of one, is a permutation of."""
        name = op_name(call)
        if name == "relax.permute_dims" and isinstance(call.args[0], relax.Var):
            data = call.args[0]
            rank = len(shape_of(call) or ())
            axes = permutation(call) or tuple(reversed(range(rank)))
            known = self._view_of(data) or Permuted(data, tuple(range(rank)))
            return known.permuted(tuple(axis % rank for axis in axes)) if rank else None
        if name not in _RESHAPES:
            return None
        view = self._view_of(call.args[0])
        before, after = shape_of(call.args[0]), shape_of(call)
        if view is None or before is None or after is None:
            return None
        found = regrouped(view.order, before, after)
        if found is not None:
            shape, order = found
            source = self.builder_.emit(relax.op.reshape(view.source, list(shape)))
            return Permuted(source, order, view.image)
        parts = segments(before, after)
        if (
            not view.image
            or len(after) != len(TO_NHWC)
            or parts is None
            or any(len(p.after) != 1 or not p.before for p in parts)
        ):
            return None
        # The axes of an image, but some are woven together: one permutation makes them whole.
        merged = [[view.order[axis] for axis in parts[i].before] for i in TO_NHWC]
        return Permuted(self.builder_.emit(self._woven(view.source, merged)), TO_NCHW, image=True)

    def _woven(self, source: Any, axes: list[list[int]]) -> Any:
        """The kernel that merges `axes` of a tensor, which may be a reshape of another one."""
        pieces = shape_of(source) or ()
        data = source
        binding = self.lookup_binding(source)
        if op_name(binding) == "relax.reshape":
            data = binding.args[0]
        split = segments(shape_of(data) or (), pieces)
        if split is None or any(len(p.before) != 1 or not p.after for p in split):
            data = source
            split = [Segment((i,), (i,)) for i in range(len(pieces))]

        def interleave(tensor: Any) -> Any:
            return woven(tensor, split, pieces, axes)

        return self.builder_.call_te(interleave, data, primfunc_name_hint="interleave")

    def _image(self, view: Permuted | None) -> Any | None:
        """The NHWC form of a call that `view` describes; an exit if nothing is permuted at all."""
        if view is None:
            return None
        if view.order == tuple(range(len(view.order))):
            return Exit(view.source)
        return view.source if view.order == TO_NCHW else None

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
    return relax.transform.DeadCodeElimination()(sink_reshapes(mod))
