"""How each operator is written on channels-last tensors.

A rule takes a call on NCHW tensors and returns the call on their NHWC forms, an `Exit` if the
result has the axes of the original, a list for the parts of a split, or None for no change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from tvm_iovt.schedules.template import blocks, is_reduction, volume
from tvm_iovt.schedules.tensors import dtype_of, is_constant, op_name, shape_of
from tvm_iovt.schedules.tvm_api import Schedule, relax

TO_NHWC = (0, 2, 3, 1)
TO_NCHW = (0, 3, 1, 2)


class Forms(Protocol):
    """What a rule asks of the pass that calls it."""

    mod: Any
    builder_: Any

    def known(self, expr: Any) -> bool:
        """Whether the NHWC form of a tensor exists."""
        ...

    def form(self, expr: Any) -> Any:
        """The NHWC form of a 4-D tensor; transposed now if it has none yet."""
        ...

    def operand(self, expr: Any) -> Any | None:
        """A broadcast operand for NHWC arithmetic, or None if it cannot be had without a copy."""
        ...


UNARY = frozenset(
    f"relax.{name}"
    for name in (
        *("abs", "acos", "asin", "astype", "atan", "ceil", "clip", "cos", "cosh", "erf", "exp"),
        *("floor", "isnan", "log", "logical_not", "negative", "round", "rsqrt", "sigmoid", "sign"),
        *("sin", "sinh", "sqrt", "square", "tan", "tanh"),
        *("nn.gelu", "nn.gelu_tanh", "nn.leakyrelu", "nn.relu", "nn.relu6", "nn.silu"),
        "nn.softplus",
    )
)
"""Element-wise operators of one tensor."""

BROADCAST = frozenset(
    f"relax.{name}"
    for name in (
        *("add", "divide", "equal", "floor_divide", "floor_mod", "greater", "greater_equal"),
        *("less", "less_equal", "logical_and", "logical_or", "maximum", "minimum", "mod"),
        *("multiply", "not_equal", "power", "subtract", "where"),
    )
)
"""Element-wise operators of several tensors, which may broadcast."""

_REDUCE = frozenset("relax." + name for name in ("mean", "sum", "max", "min", "prod"))
_POOL = frozenset(
    "relax.nn." + name for name in ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d")
)


@dataclass(frozen=True, slots=True)
class Exit:
    """A rewritten result that is not NHWC: it has the axes of the original."""

    value: Any


def _as_nhwc(pixel_axis: int) -> int:
    """Where an axis of an NCHW tensor lies in its NHWC form."""
    return TO_NHWC.index(pixel_axis % 4)


def _unary(p: Forms, call: Any) -> Any | None:
    if not p.known(call.args[0]):
        return None
    return relax.Call(call.op, [p.form(call.args[0]), *call.args[1:]], call.attrs)


def _broadcast(p: Forms, call: Any) -> Any | None:
    shapes = [shape_of(a) for a in call.args]
    if not any(p.known(a) for a in call.args) or any(s is None for s in shapes):
        return None
    known = [s for a, s in zip(call.args, shapes, strict=True) if p.known(a)]
    widest = max((s for s in shapes if s is not None), key=lambda s: volume(s))
    # Transposing a large operand for the sake of a small one costs more than it saves.
    if not any(s is not None and volume(s) == volume(widest) for s in known):
        return None
    operands = [p.operand(a) for a in call.args]
    if any(o is None for o in operands):
        return None
    return relax.Call(call.op, operands, call.attrs)


def _conv2d(p: Forms, call: Any) -> Any | None:
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


def _conv2d_transpose(p: Forms, call: Any) -> Any | None:
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


def _pool(p: Forms, call: Any) -> Any | None:
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


def _reduce(p: Forms, call: Any) -> Any | None:
    if not p.known(call.args[0]) or call.attrs.axis is None:
        return None
    axes = sorted(int(v) % 4 for v in call.attrs.axis)
    keep = bool(call.attrs.keepdims)
    # Without the reduced axes the others must keep their order.
    if not keep and [i for i in TO_NHWC if i not in axes] != [i for i in range(4) if i not in axes]:
        return None
    operator = getattr(relax.op, op_name(call).removeprefix("relax."))
    result = operator(p.form(call.args[0]), axis=[_as_nhwc(v) for v in axes], keepdims=keep)
    return result if keep else Exit(result)


def _concat(p: Forms, call: Any) -> Any | None:
    fields = list(call.args[0].fields) if isinstance(call.args[0], relax.Tuple) else []
    if not fields or any(len(shape_of(f) or ()) != 4 for f in fields):
        return None
    ready = sum(volume(shape_of(f) or ()) for f in fields if p.known(f))
    if 2 * ready < sum(volume(shape_of(f) or ()) for f in fields):
        return None
    return relax.op.concat([p.form(f) for f in fields], axis=_as_nhwc(int(call.attrs.axis)))


def _split(p: Forms, call: Any) -> Any | None:
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


def _resize(p: Forms, call: Any) -> Any | None:
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


def _prelu(p: Forms, call: Any) -> Any | None:
    if not p.known(call.args[0]):
        return None
    axis = _as_nhwc(int(call.attrs.axis))
    return relax.op.nn.prelu(p.form(call.args[0]), call.args[1], axis=axis)


def _softmax(p: Forms, call: Any) -> Any | None:
    if not p.known(call.args[0]):
        return None
    operator = getattr(relax.op.nn, op_name(call).removeprefix("relax.nn."))
    return operator(p.form(call.args[0]), axis=_as_nhwc(int(call.attrs.axis)))


def _quantize(p: Forms, call: Any) -> Any | None:
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


def _pad(p: Forms, call: Any) -> Any | None:
    if not p.known(call.args[0]) or str(call.attrs.pad_mode) != "constant":
        return None
    width = [int(v) for v in call.attrs.pad_width]
    order = [v for i in TO_NHWC for v in (width[2 * i], width[2 * i + 1])]
    return relax.op.nn.pad(
        p.form(call.args[0]), order, pad_value=float(call.attrs.pad_value), pad_mode="constant"
    )


def _reshape(p: Forms, call: Any) -> Any | None:
    data = call.args[0]
    shape, out = shape_of(data), shape_of(call)
    # A tensor with one pixel, or with one channel, has the same elements in the same order.
    if not p.known(data) or shape is None or out is None or len(out) == 4:
        return None
    if shape[1] != 1 and shape[2] * shape[3] != 1:
        return None
    return Exit(relax.op.reshape(p.form(data), list(out)))


def _kernel(p: Forms, call: Any) -> Any | None:
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


RULES: dict[str, Callable[[Forms, Any], Any | None]] = {
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(BROADCAST, _broadcast),
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
    "relax.reshape": _reshape,
    "relax.squeeze": _reshape,
    "relax.flatten": _reshape,
}
