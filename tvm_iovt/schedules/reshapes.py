"""Element-wise operators move before the reshape that separates them from their product.

Exporters write a dense layer on a sequence as reshape, product, reshape, bias, activation. A
product is fused only with element-wise operators that follow it directly, and a reshape costs
nothing where it stands alone (it is a view): `f(reshape(product))` becomes `reshape(f(product))`.
"""

from __future__ import annotations

from typing import Any

from tvm_iovt.schedules.layout_rules import BROADCAST, UNARY
from tvm_iovt.schedules.tensors import array_of, constant, dtype_of, is_constant, op_name, shape_of
from tvm_iovt.schedules.tvm_api import PyExprMutator, mutator, relax

_VIEWS = frozenset(
    f"relax.{name}" for name in ("reshape", "flatten", "squeeze", "expand_dims", "nn.batch_flatten")
)
_PRODUCTS = frozenset(("relax.matmul", "relax.nn.conv2d", "relax.nn.conv2d_transpose"))

Shape = tuple[int, ...]


@mutator
class SinkReshapes(PyExprMutator):  # type: ignore[misc]
    """Rewrites the element-wise operators that read a view of a product, and merges views."""

    def __init__(self, mod: Any) -> None:
        super().__init__(mod)
        self.sources: dict[Any, Any] = {}
        self.products: set[Any] = set()

    def visit_var_binding_(self, binding: Any) -> None:
        """Rewrite one operator; remember what it is a view of."""
        value = self.visit_expr(binding.value)
        source = None
        is_product = False
        if isinstance(value, relax.Call):
            name = op_name(value)
            if name in _VIEWS:
                value, source = self._view(value)
            elif name in UNARY or name in BROADCAST:
                source = self._on_source(value)
                if source is not None:
                    value = relax.op.reshape(source, shape_of(value))
                else:
                    is_product = any(
                        isinstance(a, relax.Var) and a in self.products for a in value.args
                    )
            else:
                is_product = name in _PRODUCTS
        internal = isinstance(binding.var, relax.DataflowVar)
        if internal and isinstance(value, relax.Var):
            self.set_var_remap(binding.var, value)
            return
        if internal or not self.builder_.current_block_is_dataflow():
            var = self.builder_.emit(value)
        else:
            var = self.builder_.emit_output(value)
        if source is not None:
            self.sources[var] = source
        if is_product:
            self.products.add(var)
        self.set_var_remap(binding.var, var)

    def _view(self, call: Any) -> tuple[Any, Any]:
        """A view as a reshape of what its argument is a view of, and that."""
        data, shape = call.args[0], shape_of(call)
        source = self.sources.get(data, data) if isinstance(data, relax.Var) else None
        if shape is None or source is None or shape_of(source) is None:
            return call, None
        same = shape_of(source) == shape
        return (source if same else relax.op.reshape(source, list(shape))), source

    def _on_source(self, call: Any) -> Any | None:
        """The operator applied to the product that an operand is a view of, or None."""
        shape = shape_of(call)
        for argument in call.args:
            source = self.sources.get(argument) if isinstance(argument, relax.Var) else None
            if source is None or source not in self.products or shape_of(argument) != shape:
                continue
            before = shape_of(source)
            if before is None or shape is None:
                continue
            operands = [self._operand(a, shape, before) for a in call.args]
            if any(o is None for o in operands):
                continue
            var = self.builder_.emit(relax.Call(call.op, operands, call.attrs))
            self.products.add(var)
            return var
        return None

    def _operand(self, expr: Any, after: Shape, before: Shape) -> Any | None:
        """What `expr`, broadcast to shape `after`, is to the same elements in shape `before`."""
        if not isinstance(expr.ty, relax.TensorType):
            return expr
        own = shape_of(expr)
        if own is None:
            return None
        source = self.sources.get(expr) if isinstance(expr, relax.Var) else None
        if own == after:
            if source is not None and shape_of(source) == before:
                return source
            return self._reshaped(expr, before)
        kept = [i for i, extent in enumerate(own) if extent != 1]
        tail = own[kept[0] :] if kept else ()
        # A broadcast operand must vary along the trailing axes only, and these be the same.
        count = len(tail)
        if tail != after[len(after) - count :] or tail != before[len(before) - count :]:
            return None
        return self._reshaped(expr, tail)

    def _reshaped(self, expr: Any, shape: Shape) -> Any:
        if shape_of(expr) == shape:
            return expr
        if is_constant(expr):
            return constant(array_of(expr).reshape(shape), dtype_of(expr))
        source = self.sources.get(expr, expr)

        return self.builder_.emit(relax.op.reshape(source, list(shape)))


def sink_reshapes(mod: Any) -> Any:
    """`main` with element-wise operators on their products; superseded operators are dead code."""
    sunk = SinkReshapes(mod)
    function = sunk.visit_expr(mod["main"])
    mod = sunk.builder_.get()
    mod["main"] = function
    return mod
