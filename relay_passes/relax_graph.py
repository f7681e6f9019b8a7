"""A Relax function as the fusion rules see it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import tvm
from tvm import relax

from relay_passes.relax_constants import Array, numpy_dtype
from relay_passes.relax_operators import READERS, read_batch_norm
from relay_passes.relax_tensors import op_name, rank, same_shape, static_shape
from relay_passes.rewriter import is_call
from tvm_iovt.fusion.convolution import Convolution, Pair
from tvm_iovt.fusion.linear_graph import Blocked, LinearOperator, Term, Value

LAYOUTS = ("NCHW", "NHWC")
_FLOATS = ("float16", "bfloat16", "float32", "float64")


class RelaxGraph:
    """The bindings of one Relax function; values are variables, or the call being visited.

    Args:
        layout: Layout of the images that count; operators in another one block a chain.
        bound: What a variable is bound to.
        uses: How many operators of the function read a variable.
        constant_uses: How many operators read a constant.
    """

    canonical: frozenset[tuple[str, ...]] = frozenset(
        {
            ("shift", "conv2d"),
            ("shift", "conv2d_transpose"),
            ("shift", "dense"),
        }
    )

    def __init__(
        self,
        layout: str,
        bound: Callable[[Any], Any],
        uses: Callable[[Any], int],
        constant_uses: Callable[[Any], int],
    ) -> None:
        self.layout = layout
        self.bound = bound
        self._uses = uses
        self._constant_uses = constant_uses
        self._visited: Any = None
        self._variable: Any = None
        self._readers: dict[Any, Any] = {}

    def enter(self, function: Any) -> None:
        """Look at a function before it is rewritten."""
        self._readers = _readers(function)

    def visit(self, expr: Any, variable: Any) -> None:
        """Make an expression known that is to be bound to a variable."""
        self._visited, self._variable = expr, variable

    def reader(self, value: Any) -> Any:
        """See `LinearGraph.reader`."""
        variable = self._variable if value is self._visited else value
        return self._readers.get(variable) if self._uses(variable) == 1 else None

    def uses(self, value: Any) -> int:
        """See `LinearGraph.uses`."""
        return self._uses(value)

    def weight_uses(self, weight: Any) -> int:
        """See `LinearGraph.weight_uses`."""
        return self._constant_uses(weight)

    def image_hw(self, value: Any) -> Pair | None:
        """See `LinearGraph.image_hw`."""
        shape = static_shape(value)
        if len(shape) != 4:
            return (1, 1) if len(shape) == 2 else None
        height, width = (shape[self.layout.index(axis)] for axis in "HW")
        return (height, width) if height is not None and width is not None else None

    def element_bytes(self, value: Any) -> int:
        """See `LinearGraph.element_bytes`."""
        return int(np.dtype(numpy_dtype(str(value.ty.dtype))).itemsize)

    def terms(self, value: Any) -> tuple[Term, ...] | Blocked | None:
        """See `LinearGraph.terms`."""
        call = self.bound(value)
        signs = {"relax.add": (1, 1), "relax.subtract": (1, -1)}
        for op, pair in signs.items():
            if is_call(call, op):
                operands = tuple(call.args)
                if any(self.constant(operand) is not None for operand in operands):
                    return None
                if rank(operands[0]) not in (2, 4) or not same_shape(*operands):
                    reason = "the operands have different shapes"
                    return Blocked(reason=reason, name=self.name(value), operands=operands)
                return tuple(Term(o, sign) for o, sign in zip(operands, pair, strict=True))
        return None

    def operator(self, value: Any) -> LinearOperator | Blocked:
        """See `LinearGraph.operator`."""
        expr = self.bound(value)
        if isinstance(expr, relax.TupleGetItem):
            return read_batch_norm(self, value, expr)
        if not isinstance(expr, relax.Call) or not isinstance(expr.op, tvm.ir.Op):
            return Blocked(reason="it is an input of the graph")
        if not isinstance(value.ty, relax.TensorType):
            return self.blocked(expr, f"{op_name(expr)} gives no tensor")
        if rank(value) not in (2, 4):
            return self.blocked(expr, f"{op_name(expr)} on {rank(value)} axes lies between")
        if str(value.ty.dtype) not in _FLOATS:
            return self.blocked(expr, f"{op_name(expr)} gives {value.ty.dtype}")
        read = READERS.get(expr.op.name)
        if read is None:
            return self.blocked(expr, f"{op_name(expr)} lies between")
        return read(self, value, expr)

    def linear(
        self,
        kind: str,
        value: Any,
        call: Any,
        convolution: Callable[[], Convolution],
        weight: Hashable = None,
        operand: Value = None,
    ) -> LinearOperator:
        """The operator that a call is; it reads the first argument unless told otherwise."""
        return LinearOperator(
            kind=kind,
            name=self.name(value),
            operand=call.args[0] if operand is None else operand,
            result=value,
            node=call,
            convolution=functools.cache(convolution),
            weight=weight,
        )

    def blocked(self, call: Any, reason: str, kind: str = "") -> Blocked:
        """Why a call ends a chain, with what it reads."""
        operands = tuple(a for a in call.args if isinstance(a, relax.Var))
        return Blocked(reason=reason, name=op_name(call), kind=kind, operands=operands)

    def name(self, value: Any) -> str:
        """Name of the variable that holds, or is going to hold, a value."""
        variable = self._variable if value is self._visited else value
        return str(variable.name) if isinstance(variable, relax.Var) else ""

    def weight(self, value: Any, call: Any) -> tuple[Array, Hashable] | Blocked:
        """The weight of a call and the constant that holds it, or why it has none."""
        label = self.name(value) or op_name(call)
        expr = self.bound(call.args[1])
        array = self.constant(expr)
        if array is not None:
            dtypes = {str(e.ty.dtype) for e in (*call.args, call)} - {"None"}
            if len(dtypes) > 1:
                return self.blocked(call, f"{label} mixes {' and '.join(sorted(dtypes))}")
            holder = expr.args[0] if isinstance(expr, relax.Call) else expr
            return array, self.bound(holder)
        if is_call(expr, "relax.dequantize"):
            reason = f"the weight of {label} is quantized"
        elif expr is None:
            reason = f"the weight of {label} is an input of the graph"
        else:
            reason = f"the weight of {label} is computed in the graph"
        return self.blocked(call, reason)

    def constant(self, expr: Any) -> Array | None:
        """The value of a constant, also of a transposed or reshaped one."""
        found = self.bound(expr)
        if isinstance(found, tvm.ir.GenericConst):
            return np.asarray(found.value.numpy())
        if is_call(found, "relax.permute_dims"):
            inner = self.constant(found.args[0])
            axes = found.attrs.axes
            order = None if axes is None else [int(axis) for axis in axes]
            return None if inner is None else np.transpose(inner, order)
        if is_call(found, "relax.reshape") and None not in static_shape(found):
            inner = self.constant(found.args[0])
            shape = [size or 0 for size in static_shape(found)]
            return None if inner is None else np.reshape(inner, shape)
        return None

    def channel_axis(self, axes: int) -> int:
        """The axis of the channels among two or four."""
        return 1 if axes == 2 else self.layout.index("C")

    def channels(self, value: Any) -> int | None:
        """Number of channels; None if it is not static."""
        shape = static_shape(value)
        return shape[self.channel_axis(len(shape))] if len(shape) in (2, 4) else None

    def per_channel(self, constant: Array | None, value: Any) -> Array | None:
        """A broadcast constant as `[C, 1, 1]` or `[C, H, W]`; None if it differs in the batch."""
        assert constant is not None
        shape = static_shape(value)
        channels = self.channels(value)
        if channels is None or constant.ndim > len(shape):
            return None
        full: Array = constant.reshape((1,) * (len(shape) - constant.ndim) + constant.shape)
        if full.shape[0] != 1:
            return None
        if len(shape) == 2:
            image: Array = full.reshape(-1, 1, 1)
        else:
            image = np.moveaxis(full[0], self.layout.index("C") - 1, 0)
        if image.shape[1:] not in ((1, 1), self.image_hw(value)):
            return None
        if image.shape[0] not in (1, channels):
            return None
        return np.ascontiguousarray(np.broadcast_to(image, (channels, *image.shape[1:])))


def _readers(function: Any) -> dict[Any, Any]:
    """One of the variables that are computed from each variable."""
    readers: dict[Any, Any] = {}
    items: dict[Any, Any] = {}
    for block in getattr(function.body, "blocks", ()):
        for binding in block.bindings:
            value = getattr(binding, "value", None)
            if isinstance(value, relax.TupleGetItem) and int(value.index) == 0:
                items[value.tuple_value] = binding.var
            for argument in value.args if isinstance(value, relax.Call) else ():
                readers[argument] = binding.var
    # Of a tuple (a batch norm's), the first item is what counts.
    return {read: items.get(reader, reader) for read, reader in readers.items()}
