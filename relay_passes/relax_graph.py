"""A Relax function as the fusion rules see it, and their results as Relax calls."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from relay_passes.rewriter import is_call
from tvm_iovt.fusion import convolution as algebra
from tvm_iovt.fusion.convolution import Convolution, InexactError, Pair
from tvm_iovt.fusion.linear_graph import Blocked, LinearOperator, Term, Value
from tvm_iovt.fusion.rules import Fusion

Array = npt.NDArray[Any]

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
        self._bound = bound
        self._uses = uses
        self._constant_uses = constant_uses
        self._visited: Any = None
        self._variable: Any = None
        self._inner_sums: frozenset[Any] = frozenset()

    def enter(self, function: Any) -> None:
        """Look at a function before it is rewritten."""
        self._inner_sums = _inner_sums(function, self._uses)

    def visit(self, expr: Any, variable: Any) -> None:
        """Make an expression known that is to be bound to a variable."""
        self._visited, self._variable = expr, variable

    def feeds_sum(self, value: Any) -> bool:
        """See `LinearGraph.feeds_sum`."""
        return (self._variable if value is self._visited else value) in self._inner_sums

    def uses(self, value: Any) -> int:
        """See `LinearGraph.uses`."""
        return self._uses(value)

    def weight_uses(self, weight: Any) -> int:
        """See `LinearGraph.weight_uses`."""
        return self._constant_uses(weight)

    def image_hw(self, value: Any) -> Pair | None:
        """See `LinearGraph.image_hw`."""
        shape = _static_shape(value)
        if len(shape) == 2:
            return 1, 1
        height, width = (shape[self.layout.index(axis)] for axis in "HW")
        return (height, width) if height is not None and width is not None else None

    def element_bytes(self, value: Any) -> int:
        """See `LinearGraph.element_bytes`."""
        return int(np.dtype(_numpy_dtype(str(value.ty.dtype))).itemsize)

    def terms(self, value: Any) -> tuple[Term, ...] | Blocked | None:
        """See `LinearGraph.terms`."""
        call = self._bound(value)
        signs = {"relax.add": (1, 1), "relax.subtract": (1, -1)}
        for op, pair in signs.items():
            if is_call(call, op):
                operands = tuple(call.args)
                if any(self._constant(operand) is not None for operand in operands):
                    return None
                shapes = [_static_shape(operand) for operand in operands]
                if len(shapes[0]) not in (2, 4) or shapes[0] != shapes[1]:
                    reason = "the operands have different shapes"
                    return Blocked(reason=reason, name=self._name(value), operands=operands)
                return tuple(Term(o, sign) for o, sign in zip(operands, pair, strict=True))
        return None

    def operator(self, value: Any) -> LinearOperator | Blocked:
        """See `LinearGraph.operator`."""
        expr = self._bound(value)
        if isinstance(expr, relax.TupleGetItem):
            return self._batch_norm(value, expr)
        if not isinstance(expr, relax.Call) or not isinstance(expr.op, tvm.ir.Op):
            return Blocked(reason="it is an input of the graph")
        if _rank(value) not in (2, 4):
            return self._blocked(expr, f"{_op_name(expr)} on {_rank(value)} axes lies between")
        if str(value.ty.dtype) not in _FLOATS:
            return self._blocked(expr, f"{_op_name(expr)} gives {value.ty.dtype}")
        read = _READERS.get(expr.op.name)
        if read is None:
            return self._blocked(expr, f"{_op_name(expr)} lies between")
        return read(self, value, expr)

    def write(self, fusion: Fusion, emit: Callable[[Any], Any]) -> Any:
        """The expression that replaces the fused operators.

        Args:
            fusion: Made by a rule on this graph.
            emit: Binds an expression to a new variable.

        Raises:
            InexactError: A fused weight is too large for the operator's type.
        """
        call: Any = fusion.carrier.node
        dtype = str(call.args[1].ty.dtype)
        total = fusion.convolution
        if fusion.carrier.kind == "conv2d_transpose":
            weight = self._scaled_transpose(call, total, dtype)
            result = relax.Call(call.op, [call.args[0], weight], call.attrs)
        elif fusion.carrier.kind == "dense":
            matrix = _constant_of(total.kernel[:, :, 0, 0].T, dtype)
            result = relax.op.matmul(fusion.source, matrix)
        else:
            order = ["OIHW".index(axis) for axis in call.attrs.kernel_layout]
            result = relax.op.nn.conv2d(
                fusion.source,
                _constant_of(total.kernel.transpose(order), dtype),
                strides=total.strides,
                padding=total.padding,
                dilation=total.dilation,
                groups=total.groups,
                data_layout=call.attrs.data_layout,
                kernel_layout=call.attrs.kernel_layout,
                out_layout=call.attrs.out_layout,
                out_dtype=call.attrs.out_dtype,
            )
        if total.has_bias:
            dense = fusion.carrier.kind == "dense"
            bias = total.bias.reshape(1, -1) if dense else self._to_layout(total.bias)
            result = relax.op.add(emit(result), _constant_of(bias, dtype))
        for term in fusion.rest:
            combine = relax.op.add if term.sign > 0 else relax.op.subtract
            result = combine(emit(result), term.value)
        return result

    # What each operator means.

    def _conv2d(self, value: Any, call: Any) -> LinearOperator | Blocked:
        attrs = call.attrs
        if attrs.data_layout != self.layout or attrs.out_layout not in ("", self.layout):
            return self._blocked(call, f"conv2d has the layout {attrs.data_layout}")
        if sorted(attrs.kernel_layout) != sorted("OIHW"):
            return self._blocked(call, f"conv2d has the kernel layout {attrs.kernel_layout}")
        found = self._weight(call)
        if isinstance(found, Blocked):
            return found
        kernel, weight = found

        def convolution() -> Convolution:
            order = [attrs.kernel_layout.index(axis) for axis in "OIHW"]
            values = _finite(kernel).transpose(order)
            return Convolution(
                kernel=values,
                bias=np.zeros((values.shape[0], 1, 1)),
                strides=_pair(attrs.strides),
                padding=_four(attrs.padding),
                dilation=_pair(attrs.dilation),
                groups=int(attrs.groups),
            )

        return self._linear("conv2d", value, call, convolution, weight)

    def _conv2d_transpose(self, value: Any, call: Any) -> LinearOperator | Blocked:
        if call.attrs.data_layout != self.layout:
            return self._blocked(call, f"conv2d_transpose has the layout {call.attrs.data_layout}")
        if sorted(call.attrs.kernel_layout) != sorted("IOHW"):
            return self._blocked(call, f"the kernel layout is {call.attrs.kernel_layout}")
        found = self._weight(call)
        if isinstance(found, Blocked):
            return found
        kernel, weight = found

        def convolution() -> Convolution:
            _finite(kernel)
            raise InexactError("a transposed convolution cannot be merged with another")

        return self._linear("conv2d_transpose", value, call, convolution, weight)

    def _matmul(self, value: Any, call: Any) -> LinearOperator | Blocked:
        if _rank(call.args[0]) != 2 or _rank(call.args[1]) != 2:
            return self._blocked(call, "matmul of more than two axes lies between")
        found = self._weight(call)
        if isinstance(found, Blocked):
            return found
        matrix, weight = found

        def convolution() -> Convolution:
            values = _finite(matrix).T[:, :, np.newaxis, np.newaxis]
            return Convolution(kernel=values, bias=np.zeros((values.shape[0], 1, 1)))

        return self._linear("dense", value, call, convolution, weight)

    def _batch_norm(self, value: Any, item: Any) -> LinearOperator | Blocked:
        call = self._bound(item.tuple_value)
        if not is_call(call, "relax.nn.batch_norm") or int(item.index) != 0:
            return Blocked(reason="a tuple lies between")
        rank = _rank(call.args[0])
        if rank not in (2, 4):
            return self._blocked(call, f"the batch norm has {rank} axes")
        attrs = call.attrs
        axis = int(attrs.axis) % rank
        if axis != self._channel_axis(rank):
            return self._blocked(call, f"the batch norm normalises axis {axis}")
        if bool(attrs.training):
            return self._blocked(call, "the batch norm is in training mode")
        parameters = [self._constant(argument) for argument in call.args[1:5]]
        if any(parameter is None for parameter in parameters):
            return self._blocked(call, "the batch norm's parameters are not constants")

        def convolution() -> Convolution:
            gamma, beta, mean, variance = (np.asarray(p, np.float64) for p in parameters)
            if not attrs.scale:
                gamma = np.ones_like(gamma)
            if not attrs.center:
                beta = np.zeros_like(beta)
            return algebra.batch_norm(gamma, beta, mean, variance, _epsilon(attrs))

        return self._linear("batch_norm", value, call, convolution)

    def _affine(self, value: Any, call: Any) -> LinearOperator | Blocked:
        """add, subtract, multiply and divide with a constant."""
        left, right = (self._constant(argument) for argument in call.args)
        op = call.op.name.removeprefix("relax.")
        if left is None and right is None:
            two = "a sum" if op in ("add", "subtract") else f"{op} of two tensors"
            return self._blocked(call, f"{two} lies between")
        if left is not None and right is not None:
            return Blocked(reason="it is a constant")
        constant = left if right is None else right
        operand = call.args[1] if right is None else call.args[0]
        reversed_ = right is None
        if op == "divide" and reversed_:
            return self._blocked(call, "a constant divided by a tensor lies between")
        if _static_shape(operand) != _static_shape(value):
            return self._blocked(call, f"{_op_name(call)} broadcasts the image")
        per_channel = self._per_channel(constant, value)
        if per_channel is None:
            return self._blocked(call, f"{_op_name(call)} has a constant for each pixel")
        if op in ("multiply", "divide") and per_channel.shape[1:] != (1, 1):
            return self._blocked(call, f"{_op_name(call)} has a constant for each pixel")

        def convolution() -> Convolution:
            finite = _finite(per_channel)
            channels = finite.shape[0]
            if op in ("multiply", "divide"):
                with np.errstate(divide="ignore"):
                    factor = finite if op == "multiply" else 1 / finite
                return algebra.scale(_finite(factor), np.zeros(channels))
            sign = -1.0 if op == "subtract" and reversed_ else 1.0
            shift = -finite if op == "subtract" and not reversed_ else finite
            unshifted = algebra.scale(np.full(channels, sign), np.zeros(channels))
            return Convolution(kernel=unshifted.kernel, bias=shift, groups=channels)

        kind = "shift" if op == "add" or (op == "subtract" and not reversed_) else "scale"
        return self._linear(kind, value, call, convolution, operand=operand)

    def _negative(self, value: Any, call: Any) -> LinearOperator | Blocked:
        channels = self._channels(value)
        if channels is None:
            return self._blocked(call, "the number of channels is not static")
        return self._linear(
            "scale", value, call, lambda: algebra.scale(np.full(channels, -1.0), np.zeros(channels))
        )

    def _avg_pool2d(self, value: Any, call: Any) -> LinearOperator | Blocked:
        attrs = call.attrs
        channels = self._channels(value)
        if attrs.layout != self.layout or channels is None:
            return self._blocked(call, f"avg_pool2d has the layout {attrs.layout}")
        padding, size, strides = _four(attrs.padding), _pair(attrs.pool_size), _pair(attrs.strides)
        if any(padding) and not attrs.count_include_pad:
            return self._blocked(
                call, "avg_pool2d leaves its padding out of the average (count_include_pad)"
            )
        if _pair(attrs.dilation) != (1, 1):
            return self._blocked(call, "avg_pool2d is dilated")
        pool = algebra.average_pool(channels, size, strides, padding)
        image = self.image_hw(call.args[0])
        if attrs.ceil_mode and (image is None or pool.result_hw(image) != self.image_hw(value)):
            return self._blocked(call, "avg_pool2d has incomplete windows (ceil_mode)")
        return self._linear("avg_pool2d", value, call, lambda: pool)

    def _pad(self, value: Any, call: Any) -> LinearOperator | Blocked:
        attrs = call.attrs
        rank = _rank(value)
        widths = [int(w) for w in attrs.pad_width]
        axes = {axis: (widths[2 * i], widths[2 * i + 1]) for i, axis in enumerate(self.layout)}
        if rank != 4 or axes["N"] != (0, 0) or axes["C"] != (0, 0):
            return self._blocked(call, "nn.pad of batch or channels lies between")
        if attrs.pad_mode != "constant" or float(attrs.pad_value) != 0:
            return self._blocked(call, "nn.pad with other values than zero lies between")
        channels = self._channels(value)
        if channels is None:
            return self._blocked(call, "the number of channels is not static")
        (top, bottom), (left, right) = axes["H"], axes["W"]
        padding = (top, left, bottom, right)
        return self._linear("pad", value, call, lambda: algebra.pad(channels, padding))

    def _crop(self, value: Any, call: Any) -> LinearOperator | Blocked:
        before, after = _static_shape(call.args[0]), _static_shape(value)
        channels = self._channels(value)
        ranges = _slices(call)
        if channels is None or ranges is None or None in before or len(before) != 4:
            return self._blocked(call, "strided_slice lies between")
        padding = {"H": (0, 0), "W": (0, 0)}
        for axis, (begin, stride) in ranges.items():
            size = before[axis]
            assert size is not None
            begin = min(begin + size if begin < 0 else begin, size)
            letter, kept = self.layout[axis], after[axis] or 0
            if stride != 1 or letter not in padding:
                return self._blocked(call, f"strided_slice along {letter} lies between")
            padding[letter] = (-begin, begin + kept - size)
        (top, bottom), (left, right) = padding["H"], padding["W"]
        return self._linear(
            "crop", value, call, lambda: algebra.pad(channels, (top, left, bottom, right))
        )

    # Helpers.

    def _linear(
        self,
        kind: str,
        value: Any,
        call: Any,
        convolution: Callable[[], Convolution],
        weight: Hashable = None,
        operand: Value = None,
    ) -> LinearOperator:
        return LinearOperator(
            kind=kind,
            name=self._name(value),
            operand=call.args[0] if operand is None else operand,
            result=value,
            node=call,
            convolution=_Once(convolution),
            weight=weight,
        )

    def _blocked(self, call: Any, reason: str) -> Blocked:
        operands = tuple(a for a in call.args if isinstance(a, relax.Var))
        return Blocked(reason=reason, name=_op_name(call), operands=operands)

    def _name(self, value: Any) -> str:
        variable = self._variable if value is self._visited else value
        return str(variable.name) if isinstance(variable, relax.Var) else ""

    def _weight(self, call: Any) -> tuple[Array, Hashable] | Blocked:
        expr = self._bound(call.args[1])
        array = self._constant(expr)
        if array is not None:
            dtypes = {str(e.ty.dtype) for e in (*call.args, call)} - {"None"}
            if len(dtypes) > 1:
                return self._blocked(call, f"{_op_name(call)} mixes {' and '.join(sorted(dtypes))}")
            holder = expr.args[0] if isinstance(expr, relax.Call) else expr
            return array, self._bound(holder)
        if is_call(expr, "relax.dequantize"):
            reason = f"the weight of {_op_name(call)} is quantized"
        elif expr is None:
            reason = f"the weight of {_op_name(call)} is an input of the graph"
        else:
            reason = f"the weight of {_op_name(call)} is computed in the graph"
        return self._blocked(call, reason)

    def _constant(self, expr: Any) -> Array | None:
        """The value of a constant, also of a transposed or reshaped one."""
        found = self._bound(expr)
        if isinstance(found, tvm.ir.GenericConst):
            return _read(found)
        if is_call(found, "relax.permute_dims"):
            inner = self._constant(found.args[0])
            axes = found.attrs.axes
            order = None if axes is None else [int(axis) for axis in axes]
            return None if inner is None else np.transpose(inner, order)
        if is_call(found, "relax.reshape") and None not in _static_shape(found):
            inner = self._constant(found.args[0])
            shape = [size or 0 for size in _static_shape(found)]
            return None if inner is None else np.reshape(inner, shape)
        return None

    def _channel_axis(self, rank: int) -> int:
        return 1 if rank == 2 else self.layout.index("C")

    def _channels(self, value: Any) -> int | None:
        shape = _static_shape(value)
        return shape[self._channel_axis(len(shape))] if len(shape) in (2, 4) else None

    def _per_channel(self, constant: Array | None, value: Any) -> Array | None:
        """A broadcast constant as `[C, 1, 1]` or `[C, H, W]`; None if it differs in the batch."""
        assert constant is not None
        shape = _static_shape(value)
        channels = self._channels(value)
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

    def _to_layout(self, bias: Array) -> Array:
        return bias[np.newaxis] if self.layout == "NCHW" else bias.transpose(1, 2, 0)[np.newaxis]

    def _scaled_transpose(self, call: Any, affine: Convolution, dtype: str) -> Any:
        """The weight of a transposed convolution with its output channels scaled."""
        layout, groups = call.attrs.kernel_layout, int(call.attrs.groups)
        weight = self._constant(call.args[1])
        assert weight is not None
        kernel = _finite(weight).transpose([layout.index(axis) for axis in "IOHW"])
        inputs, outputs = kernel.shape[:2]
        factor = affine.kernel.reshape(groups, 1, outputs, 1, 1)
        scaled = kernel.reshape(groups, inputs // groups, outputs, *kernel.shape[2:]) * factor
        order = ["IOHW".index(axis) for axis in layout]
        return _constant_of(scaled.reshape(kernel.shape).transpose(order), dtype)


class _Once:
    """A function without arguments that is called once at most."""

    def __init__(self, function: Callable[[], Convolution]) -> None:
        self._function = function
        self._result: Convolution | None = None

    def __call__(self) -> Convolution:
        if self._result is None:
            self._result = self._function()
        return self._result


_Reader = Callable[[RelaxGraph, Any, Any], "LinearOperator | Blocked"]

_READERS: dict[str, _Reader] = {
    "relax.nn.conv2d": RelaxGraph._conv2d,
    "relax.nn.conv2d_transpose": RelaxGraph._conv2d_transpose,
    "relax.matmul": RelaxGraph._matmul,
    "relax.add": RelaxGraph._affine,
    "relax.subtract": RelaxGraph._affine,
    "relax.multiply": RelaxGraph._affine,
    "relax.divide": RelaxGraph._affine,
    "relax.negative": RelaxGraph._negative,
    "relax.nn.avg_pool2d": RelaxGraph._avg_pool2d,
    "relax.nn.pad": RelaxGraph._pad,
    "relax.strided_slice": RelaxGraph._crop,
}


def _inner_sums(function: Any, uses: Callable[[Any], int]) -> frozenset[Any]:
    """Variables whose only reader adds or subtracts them and a tensor of their shape."""
    inner: set[Any] = set()

    def visit(expr: Any) -> None:
        if is_call(expr, "relax.add") or is_call(expr, "relax.subtract"):
            left, right = expr.args
            if all(isinstance(a, relax.Var) for a in expr.args) and (
                _static_shape(left) == _static_shape(right)
            ):
                inner.update(a for a in expr.args if uses(a) == 1)

    relax.analysis.post_order_visit(function, visit)
    return frozenset(inner)


def _epsilon(attrs: Any) -> float:
    """The epsilon as it was written: 1e-5 comes back from float32 as 9.9999997e-06."""
    return float(str(np.float32(attrs.epsilon)))


def _read(constant: Any) -> Array:
    array: Array = constant.value.numpy()
    return array


def _finite(array: Array) -> Array:
    values = np.asarray(array, np.float64)
    if not np.isfinite(values).all():
        raise InexactError("its constants hold NaN or infinity")
    return values


def _constant_of(array: Array, dtype: str) -> Any:
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(array.astype(_numpy_dtype(dtype)))
    if not np.isfinite(cast.astype(np.float64)).all():
        raise InexactError(f"the fused weights overflow {dtype}")
    return relax.const(cast, dtype)


def _numpy_dtype(dtype: str) -> Any:
    if dtype == "bfloat16":
        import ml_dtypes

        return ml_dtypes.bfloat16
    return dtype


def _slices(call: Any) -> dict[int, tuple[int, int]] | None:
    """Begin and stride by axis of a `strided_slice` with constant arguments."""
    try:
        axes, begins = ([int(v.value) for v in call.args[i].fields] for i in (1, 2))
        strides = (
            [int(v.value) for v in call.args[4].fields] if len(call.args) > 4 else [1] * len(axes)
        )
    except AttributeError:
        return None
    rank = _rank(call.args[0])
    return {a % rank: (b, s) for a, b, s in zip(axes, begins, strides, strict=True)}


def _static_shape(value: Any) -> tuple[int | None, ...]:
    """Sizes along each axis, None where symbolic; empty when the rank is unknown."""
    shape = getattr(value.ty, "shape", None)
    if shape is None:
        return ()
    return tuple(int(size) if isinstance(size, tvm.tirx.IntImm) else None for size in shape)


def _rank(value: Any) -> int:
    return int(getattr(value.ty, "ndim", -1))


def _op_name(call: Any) -> str:
    return str(call.op.name).removeprefix("relax.")


def _pair(values: Any) -> Pair:
    first, second = (int(v) for v in values)
    return first, second


def _four(values: Any) -> tuple[int, int, int, int]:
    top, left, bottom, right = (int(v) for v in values)
    return top, left, bottom, right
