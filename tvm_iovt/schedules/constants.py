"""Evaluation of constant expressions with NumPy, and what only hides them: tuples, clip kernels.

Relax's own constant folding compiles a kernel per expression; data movement and the arithmetic of
folded normalisations are evaluated here instead, in microseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tvm_iovt.schedules.activations import simplify_activations
from tvm_iovt.schedules.affine import merge_affine
from tvm_iovt.schedules.template import blocks
from tvm_iovt.schedules.tensors import (
    array_of,
    constant,
    dtype_of,
    is_constant,
    op_name,
    shape_of,
)
from tvm_iovt.schedules.tvm_api import (
    PyExprMutator,
    Schedule,
    TensorLoad,
    mutator,
    relax,
    tirx,
    tvm,
)

_NUMPY_TYPES = frozenset(
    f"{kind}{bits}" for kind in ("int", "uint", "float") for bits in (8, 16, 32, 64)
) | {"bool"}

_ELEMENTWISE: dict[str, Callable[..., np.ndarray]] = {
    "relax.add": np.add,
    "relax.subtract": np.subtract,
    "relax.multiply": np.multiply,
    "relax.maximum": np.maximum,
    "relax.minimum": np.minimum,
    "relax.sqrt": np.sqrt,
    "relax.rsqrt": lambda x: (1 / np.sqrt(x)).astype(x.dtype),
    "relax.negative": np.negative,
    "relax.isnan": np.isnan,
    "relax.where": np.where,
}


def _dequantize(call: Any, data: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    shape = [1] * data.ndim
    if scale.size > 1:
        shape[int(call.attrs.axis)] = scale.size
    if zero.size > 1:
        zero = zero.reshape(
            [zero.size if i == int(call.attrs.axis) else 1 for i in range(data.ndim)]
        )
    scale = scale.reshape(shape) if scale.size > 1 else scale
    centred: np.ndarray = data.astype(np.int32) - zero.astype(np.int32)
    return np.asarray(centred.astype(scale.dtype) * scale)


def evaluate(call: Any) -> Any | None:
    """The constant that a call with constant arguments stands for, or None if not known here."""
    name, shape, dtype = op_name(call), shape_of(call), dtype_of(call)
    if not name or shape is None or dtype not in _NUMPY_TYPES:
        return None
    tensors = [a for a in call.args if isinstance(a.ty, relax.TensorType)]
    if not tensors or not all(is_constant(a) and dtype_of(a) in _NUMPY_TYPES for a in tensors):
        return None
    values = [array_of(a) for a in tensors]
    if name in _ELEMENTWISE:
        with np.errstate(all="ignore"):
            result = _ELEMENTWISE[name](*values)
    elif name == "relax.divide" and dtype.startswith("float"):
        with np.errstate(all="ignore"):
            result = np.divide(*values)
    elif name in ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten"):
        result = values[0].reshape(shape)
    elif name == "relax.broadcast_to":
        result = np.broadcast_to(values[0], shape)
    elif name == "relax.permute_dims":
        axes = call.attrs.axes
        result = values[0].transpose(None if axes is None else [int(a) for a in axes])
    elif name == "relax.dequantize" and dtype == "float32":
        result = _dequantize(call, *values)
    else:
        return None
    if result.shape != shape:
        return None
    return constant(result.astype(dtype), dtype)


def _clip_bound(function: Any) -> tuple[str, float | None] | None:
    """Whether a PrimFunc is `max(x, bound)` or `min(x, bound)`.

    Returns:
        The Relax operator, and the bound or None if the function takes it as second argument.
    """
    schedule = Schedule(function)
    found = blocks(schedule)
    if len(found) != 1:
        return None
    store = schedule.get(found[0]).body
    if not isinstance(store, tirx.BufferStore) or not isinstance(store.value, (tirx.Max, tirx.Min)):
        return None
    value, indices = store.value, store.indices
    name = "relax.maximum" if isinstance(value, tirx.Max) else "relax.minimum"
    if not isinstance(value.a, TensorLoad) or len(value.a.indices) != len(indices):
        return None
    if not all(i.same_as(j) for i, j in zip(value.a.indices, indices, strict=True)):
        return None
    if isinstance(value.b, tirx.FloatImm):
        return name, float(value.b.value)
    if isinstance(value.b, TensorLoad) and len(value.b.indices) == 0:
        return name, None
    return None


@mutator
class FoldConstants(PyExprMutator):  # type: ignore[misc]
    """Evaluates constant calls and turns the importer's clipping kernels into operators."""

    def __init__(self, mod: Any) -> None:
        super().__init__(mod)
        self.mod = mod
        self.known: dict[Any, Any] = {}
        self.tuples: dict[Any, Any] = {}

    def visit_var_binding_(self, binding: Any) -> None:
        """Remember constants instead of binding them, and the fields of tuples."""
        value = self.visit_expr(binding.value)
        internal = isinstance(binding.var, relax.DataflowVar)
        if isinstance(value, relax.TupleGetItem) and value.tuple_value in self.tuples:
            # The importer returns normalisations as tuples, of which one field is read.
            value = self.tuples[value.tuple_value].fields[int(value.index)]
            if internal and isinstance(value, relax.Var):
                self.set_var_remap(binding.var, value)
                return
        if is_constant(value) and internal:
            self.known[binding.var] = value
            return
        var = (
            self.builder_.emit(value)
            if isinstance(binding.var, relax.DataflowVar)
            or not self.builder_.current_block_is_dataflow()
            else self.builder_.emit_output(value)
        )
        self.set_var_remap(binding.var, var)
        if isinstance(value, relax.Tuple):
            self.tuples[var] = value

    def visit_dataflow_var_(self, var: Any) -> Any:
        """The constant that the variable stands for, if any."""
        return self.known[var] if var in self.known else super().visit_dataflow_var_(var)

    def visit_call_(self, call: Any) -> Any:
        """Evaluate."""
        call = self.visit_expr_post_order(call)
        if op_name(call) == "relax.call_tir":
            return self._restore_clip(call)
        normal = self.builder_.normalize(call)
        return evaluate(normal) or normal

    def _restore_clip(self, call: Any) -> Any:
        found = _clip_bound(self.mod[call.args[0]])
        data = list(call.args[1].fields)
        if found is None or not 1 <= len(data) <= 2:
            return call
        name, bound = found
        dtype = dtype_of(data[0])
        if bound is None:
            if len(data) != 2 or not is_constant(data[1]) or shape_of(data[1]) != ():
                return call
            bound = float(array_of(data[1]))
        if np.isinf(bound) and (bound < 0) == (name == "relax.maximum"):
            return data[0]
        operator = relax.op.maximum if name == "relax.maximum" else relax.op.minimum
        return operator(data[0], constant(np.asarray(bound, dtype), dtype))


def fold_constants(mod: Any) -> Any:
    """Evaluate constant expressions of `main`, restore clipping, simplify what is left."""
    functions = dict(mod.functions.items())
    functions[mod.get_global_var("main")] = FoldConstants(mod).visit_expr(mod["main"])
    folded = tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)
    simple = relax.transform.DeadCodeElimination()(simplify_activations(folded))
    return relax.transform.DeadCodeElimination()(merge_affine(simple))
