"""Channels-last propagation: every convolution, and what is between them, becomes NHWC.

Walking forward, each tensor that exists in NHWC form is remembered next to its NCHW form, which is
a transposition of it. An operator with such an operand is rewritten to NHWC if its rule below
allows it; transpositions that nobody reads are dead code afterwards. Weights stay OIHW constants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm_iovt.schedules.template import blocks, is_reduction
from tvm_iovt.schedules.tensors import (
    array_of,
    constant,
    dtype_of,
    is_constant,
    op_name,
    permutation,
    shape_of,
)
from tvm_iovt.schedules.tvm_api import PyExprMutator, Schedule, mutator, relax

TO_NHWC = (0, 2, 3, 1)
TO_NCHW = (0, 3, 1, 2)

_UNARY = frozenset(
    f"relax.{name}"
    for name in (
        *("abs", "acos", "asin", "astype", "atan", "ceil", "clip", "cos", "cosh", "erf", "exp"),
        *("floor", "isnan", "log", "logical_not", "negative", "round", "rsqrt", "sigmoid", "sign"),
        *("sin", "sinh", "sqrt", "square", "tan", "tanh"),
        *("nn.gelu", "nn.gelu_tanh", "nn.leakyrelu", "nn.relu", "nn.relu6", "nn.silu"),
        "nn.softplus",
    )
)
_BROADCAST = frozenset(
    f"relax.{name}"
    for name in (
        *("add", "divide", "equal", "floor_divide", "floor_mod", "greater", "greater_equal"),
        *("less", "less_equal", "logical_and", "logical_or", "maximum", "minimum", "mod"),
        *("multiply", "not_equal", "power", "subtract", "where"),
    )
)
_REDUCE = frozenset("relax." + name for name in ("mean", "sum", "max", "min", "prod"))
_POOL = frozenset(
    "relax.nn." + name for name in ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d")
)


@dataclass(frozen=True, slots=True)
class _Exit:
    """A rewritten result that is not NHWC: it has the axes of the original."""

    value: Any


def _as_nhwc(pixel_axis: int) -> int:
    """Where an axis of an NCHW tensor lies in its NHWC form."""
    return TO_NHWC.index(pixel_axis % 4)


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
        if isinstance(form, _Exit):
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
        rule = _RULES.get(name)
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


def _unary(p: ChannelsLast, call: Any) -> Any | None:
    if not p.known(call.args[0]):
        return None
    return relax.Call(call.op, [p.form(call.args[0]), *call.args[1:]], call.attrs)


def _broadcast(p: ChannelsLast, call: Any) -> Any | None:
    shapes = [shape_of(a) for a in call.args]
    if not any(p.known(a) for a in call.args) or any(s is None for s in shapes):
        return None
    known = [s for a, s in zip(call.args, shapes, strict=True) if p.known(a)]
    widest = max((s for s in shapes if s is not None), key=lambda s: _volume(s))
    # Transposing a large operand for the sake of a small one costs more than it saves.
    if not any(s is not None and _volume(s) == _volume(widest) for s in known):
        return None
    operands = [p.operand(a) for a in call.args]
    if any(o is None for o in operands):
        return None
    return relax.Call(call.op, operands, call.attrs)


def _volume(shape: tuple[int, ...]) -> int:
    result = 1
    for extent in shape:
        result *= extent
    return result


def _conv2d(p: ChannelsLast, call: Any) -> Any | None:
    a = call.attrs
    if (a.data_layout, a.kernel_layout, a.out_layout) != ("NCHW", "OIHW", "NCHW"):
        return None
    if not is_constant(call.args[1]) or dtype_of(call) != "float32" or shape_of(call) is None:
        return None
    if dtype_of(call.args[0]) != "float32" or dtype_of(call.args[1]) != "float32":
        return None
    return relax.op.nn.conv2d(
        p.form(call.args[0]),
        call.args[1],
        strides=[int(v) for v in a.strides],
        padding=[int(v) for v in a.padding],
        dilation=[int(v) for v in a.dilation],
        groups=int(a.groups),
        data_layout="NHWC",
        kernel_layout="OIHW",
        out_layout="NHWC",
        out_dtype="float32",
    )


def _conv2d_transpose(p: ChannelsLast, call: Any) -> Any | None:
    a = call.attrs
    if (a.data_layout, a.kernel_layout, a.out_layout) != ("NCHW", "IOHW", "NCHW"):
        return None
    if not is_constant(call.args[1]) or int(a.groups) != 1 or shape_of(call) is None:
        return None
    if any(dtype_of(e) != "float32" for e in (call, *call.args)):
        return None
    return relax.op.nn.conv2d_transpose(
        p.form(call.args[0]),
        call.args[1],
        strides=[int(v) for v in a.strides],
        padding=[int(v) for v in a.padding],
        output_padding=[int(v) for v in a.output_padding],
        dilation=[int(v) for v in a.dilation],
        groups=1,
        data_layout="NHWC",
        kernel_layout="IOHW",
        out_layout="NHWC",
        out_dtype="float32",
    )


def _pool(p: ChannelsLast, call: Any) -> Any | None:
    a = call.attrs
    if not p.known(call.args[0]) or (a.layout, a.out_layout) != ("NCHW", "NCHW"):
        return None
    data = p.form(call.args[0])
    name = op_name(call)
    if name == "relax.nn.adaptive_avg_pool2d":
        size = [int(v) for v in a.output_size]
        return relax.op.nn.adaptive_avg_pool2d(data, size, layout="NHWC", out_layout="NHWC")
    operator = relax.op.nn.max_pool2d if "max" in name else relax.op.nn.avg_pool2d
    return operator(
        data,
        pool_size=[int(v) for v in a.pool_size],
        strides=[int(v) for v in a.strides],
        padding=[int(v) for v in a.padding],
        dilation=[int(v) for v in a.dilation],
        ceil_mode=bool(a.ceil_mode),
        count_include_pad=bool(a.count_include_pad),
        layout="NHWC",
        out_layout="NHWC",
    )


def _reduce(p: ChannelsLast, call: Any) -> Any | None:
    if not p.known(call.args[0]) or call.attrs.axis is None:
        return None
    axes = sorted(int(v) % 4 for v in call.attrs.axis)
    keep = bool(call.attrs.keepdims)
    # Without the reduced axes the others must keep their order.
    if not keep and [i for i in TO_NHWC if i not in axes] != [i for i in range(4) if i not in axes]:
        return None
    operator = getattr(relax.op, op_name(call).removeprefix("relax."))
    result = operator(p.form(call.args[0]), axis=[_as_nhwc(v) for v in axes], keepdims=keep)
    return result if keep else _Exit(result)


def _concat(p: ChannelsLast, call: Any) -> Any | None:
    fields = list(call.args[0].fields) if isinstance(call.args[0], relax.Tuple) else []
    if not fields or any(len(shape_of(f) or ()) != 4 for f in fields):
        return None
    ready = sum(_volume(shape_of(f) or ()) for f in fields if p.known(f))
    if 2 * ready < sum(_volume(shape_of(f) or ()) for f in fields):
        return None
    return relax.op.concat([p.form(f) for f in fields], axis=_as_nhwc(int(call.attrs.axis)))


def _split(p: ChannelsLast, call: Any) -> Any | None:
    if not p.known(call.args[0]):
        return None
    sections = call.attrs.indices_or_sections
    cuts: Any = (
        [int(v) for v in sections]
        if isinstance(sections, (list, tuple)) or hasattr(sections, "__len__")
        else int(sections)
    )
    out = p.builder_.emit(
        relax.op.split(p.form(call.args[0]), cuts, axis=_as_nhwc(int(call.attrs.axis)))
    )
    return [relax.TupleGetItem(out, i) for i in range(len(out.ty.fields))]


def _resize(p: ChannelsLast, call: Any) -> Any | None:
    a = call.attrs
    if not p.known(call.args[0]) or a.layout != "NCHW":
        return None
    return relax.op.image.resize2d(
        p.form(call.args[0]),
        call.args[1],
        roi=[float(v) for v in a.roi],
        layout="NHWC",
        method=a.method,
        coordinate_transformation_mode=a.coordinate_transformation_mode,
        rounding_method=a.rounding_method,
        cubic_alpha=float(a.cubic_alpha),
        cubic_exclude=int(a.cubic_exclude),
        extrapolation_value=float(a.extrapolation_value),
        out_dtype=a.out_dtype or None,
    )


def _prelu(p: ChannelsLast, call: Any) -> Any | None:
    if not p.known(call.args[0]):
        return None
    axis = _as_nhwc(int(call.attrs.axis))
    return relax.op.nn.prelu(p.form(call.args[0]), call.args[1], axis=axis)


def _softmax(p: ChannelsLast, call: Any) -> Any | None:
    if not p.known(call.args[0]):
        return None
    operator = getattr(relax.op.nn, op_name(call).removeprefix("relax.nn."))
    return operator(p.form(call.args[0]), axis=_as_nhwc(int(call.attrs.axis)))


def _quantize(p: ChannelsLast, call: Any) -> Any | None:
    if not p.known(call.args[0]):
        return None
    operator = relax.op.quantize if op_name(call) == "relax.quantize" else relax.op.dequantize
    return operator(
        p.form(call.args[0]),
        call.args[1],
        call.args[2],
        axis=_as_nhwc(int(call.attrs.axis)),
        out_dtype=str(call.attrs.out_dtype),
    )


def _pad(p: ChannelsLast, call: Any) -> Any | None:
    if not p.known(call.args[0]) or str(call.attrs.pad_mode) != "constant":
        return None
    width = [int(v) for v in call.attrs.pad_width]
    order = [v for i in TO_NHWC for v in (width[2 * i], width[2 * i + 1])]
    return relax.op.nn.pad(
        p.form(call.args[0]), order, pad_value=float(call.attrs.pad_value), pad_mode="constant"
    )


def _permute(p: ChannelsLast, call: Any) -> Any | None:
    data = call.args[0]
    if not p.known(data) or call.attrs.axes is None:
        return None
    axes = [_as_nhwc(int(v)) for v in call.attrs.axes]
    form = p.form(data)
    return _Exit(form if axes == [0, 1, 2, 3] else relax.op.permute_dims(form, axes))


def _reshape(p: ChannelsLast, call: Any) -> Any | None:
    data = call.args[0]
    shape, out = shape_of(data), shape_of(call)
    # A tensor with one pixel, or with one channel, has the same elements in the same order.
    if not p.known(data) or shape is None or out is None or len(out) == 4:
        return None
    if shape[1] != 1 and shape[2] * shape[3] != 1:
        return None
    return _Exit(relax.op.reshape(p.form(data), list(out)))


def _kernel(p: ChannelsLast, call: Any) -> Any | None:
    """A kernel that the importer made directly, such as padding: its buffers are transposed."""
    data = list(call.args[1].fields) if isinstance(call.args[1], relax.Tuple) else []
    images = [i for i, d in enumerate(data) if shape_of(d) != ()]
    shape = shape_of(call)
    if len(images) != 1 or not p.known(data[images[0]]) or shape is None or len(shape) != 4:
        return None
    schedule = Schedule(p.mod[call.args[0]])
    found = blocks(schedule)
    if len(found) != 1 or is_reduction(schedule, found[0]):
        return None
    node = schedule.get(found[0])
    reads = [i for i, r in enumerate(node.reads) if len(r.region) == 4]
    if len(node.writes) != 1 or len(reads) != 1 or len(schedule.get_loops(found[0])) != 4:
        return None
    try:
        for buffer in (("read", reads[0]), ("write", 0)):
            schedule.transform_layout(
                found[0], buffer, lambda n, c, h, w: (n, h, w, c), assume_injective_transform=True
            )
        n, c, h, w = schedule.get_loops(found[0])
        schedule.reorder(n, h, w, c)
    except Exception:  # TVM raises unrelated classes; the kernel then keeps its layout
        return None
    var = p.builder_.add_func(schedule.mod["main"], f"{call.args[0].name_hint}_nhwc")
    data[images[0]] = p.form(data[images[0]])
    out = relax.TensorType(tuple(shape[i] for i in TO_NHWC), dtype_of(call))
    return relax.call_tir(var, relax.Tuple(data), out)


_RULES: dict[str, Callable[[ChannelsLast, Any], Any | None]] = {
    **dict.fromkeys(_UNARY, _unary),
    **dict.fromkeys(_BROADCAST, _broadcast),
    **dict.fromkeys(_REDUCE, _reduce),
    **dict.fromkeys(_POOL, _pool),
    "relax.nn.conv2d": _conv2d,
    "relax.nn.conv2d_transpose": _conv2d_transpose,
    "relax.call_tir": _kernel,
    "relax.concat": _concat,
    "relax.split": _split,
    "relax.image.resize2d": _resize,
    "relax.nn.prelu": _prelu,
    "relax.nn.softmax": _softmax,
    "relax.nn.log_softmax": _softmax,
    "relax.quantize": _quantize,
    "relax.dequantize": _quantize,
    "relax.nn.pad": _pad,
    "relax.permute_dims": _permute,
    "relax.reshape": _reshape,
    "relax.squeeze": _reshape,
    "relax.flatten": _reshape,
}


def propagate_channels_last(mod: Any) -> Any:
    """`main` with channels-last convolutions; its inputs and outputs keep their layout."""
    mutated = ChannelsLast(mod)
    function = mutated.visit_expr(mod["main"])
    mod = mutated.builder_.get()
    mod["main"] = function
    return relax.transform.DeadCodeElimination()(mod)
