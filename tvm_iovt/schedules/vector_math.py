"""Legalisations of operators whose default form does not vectorise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm_iovt.schedules import transcendental
from tvm_iovt.schedules.concatenation import concatenate_last
from tvm_iovt.schedules.pooling import Window, max_pool, pays
from tvm_iovt.schedules.softmax import log_softmax, softmax
from tvm_iovt.schedules.tensors import array_of, is_constant, shape_of
from tvm_iovt.schedules.transcendental import real
from tvm_iovt.schedules.tvm_api import relax, te, tirx, tvm

_UNARY: dict[str, Callable[[Any], Any]] = {
    "relax.exp": transcendental.exp,
    "relax.log": transcendental.log,
    "relax.erf": transcendental.erf,
    "relax.tanh": transcendental.tanh,
    "relax.sigmoid": transcendental.sigmoid,
    "relax.cosh": transcendental.cosh,
    "relax.sinh": transcendental.sinh,
    "relax.nn.silu": transcendental.silu,
    "relax.nn.gelu": transcendental.gelu,
    "relax.nn.gelu_tanh": transcendental.gelu_tanh,
}

_MAX_MULTIPLIED_POWER = 16
"""Whole exponents up to this are computed by repeated squaring."""


def _default(name: str, builder: Any, call: Any) -> Any:
    return tvm.ir.Op.get(name).get_attr("FLegalize")(builder, call)


def _is_float32(call: Any) -> bool:
    return all(str(a.ty.dtype) == "float32" for a in call.args)


def _unary(name: str, function: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    hint = function.__name__

    def tensor(x: Any) -> Any:
        return te.compute(x.shape, lambda *i: function(x(*i)), name=hint)

    def legalize(builder: Any, call: Any) -> Any:
        if not _is_float32(call):
            return _default(name, builder, call)
        return builder.call_te(tensor, call.args[0], primfunc_name_hint=hint)

    return legalize


def _softplus(builder: Any, call: Any) -> Any:
    """log(1 + exp(beta x)) / beta; the attribute `threshold` only says where that is x."""
    if not _is_float32(call):
        return _default("relax.nn.softplus", builder, call)
    beta = float(call.attrs.beta)

    def softplus(x: Any) -> Any:
        def element(*i: Any) -> Any:
            if beta == 1.0:
                return transcendental.softplus(x(*i))
            return transcendental.softplus(x(*i) * real(beta)) * real(1 / beta)

        return te.compute(x.shape, element, name="softplus")

    return builder.call_te(softplus, call.args[0], primfunc_name_hint="softplus")


def power_of(x: Any, exponent: float) -> Any:
    """A float32 expression to a constant power.

    Whole exponents up to 16 and halves are multiplications, one square root and one division at
    most; others are exp(exponent log x): relative error of about 1e-7 (1 + |exponent log x|).
    """
    if exponent < 0:
        return real(1.0) / power_of(x, -exponent)
    if exponent == 0:
        return real(1.0)
    whole = math.floor(exponent)
    if whole <= _MAX_MULTIPLIED_POWER and exponent - whole in (0.0, 0.5):
        result = None if exponent == whole else tirx.sqrt(x)
        square, left = x, whole
        while left:
            if left & 1:
                result = square if result is None else result * square
            left >>= 1
            if left:
                square = square * square
        return result
    magnitude = transcendental.exp(transcendental.log(tirx.abs(x)) * real(exponent))
    if exponent != whole:
        return tirx.Select(x >= real(0.0), magnitude, real(float("nan")))
    return tirx.Select(x < real(0.0), -magnitude, magnitude) if whole % 2 else magnitude


def _power(builder: Any, call: Any) -> Any:
    base, exponent = call.args
    if not _is_float32(call) or not is_constant(exponent) or array_of(exponent).size != 1:
        return _default("relax.power", builder, call)
    value = float(array_of(exponent).reshape(()))
    rank = array_of(exponent).ndim
    if not math.isfinite(value) or rank > len(base.ty.shape.values):
        return _default("relax.power", builder, call)

    def power(x: Any) -> Any:
        return te.compute(x.shape, lambda *i: power_of(x(*i), value), name="power")

    return builder.call_te(power, base, primfunc_name_hint="power")


def _softmax(name: str, function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    def legalize(builder: Any, call: Any) -> Any:
        if not _is_float32(call):
            return _default(name, builder, call)
        axis = int(call.attrs.axis) % len(call.args[0].ty.shape.values)
        return builder.call_te(
            function, call.args[0], axis=axis, primfunc_name_hint=function.__name__
        )

    return legalize


def _concat(builder: Any, call: Any) -> Any:
    fields = list(call.args[0].fields) if isinstance(call.args[0], relax.Tuple) else []
    shapes = [shape_of(field) for field in fields]
    axis = call.attrs.axis
    rank = len(shapes[0] or ()) if shapes else 0
    if not fields or None in shapes or not rank or int(axis or 0) % rank != rank - 1:
        return _default("relax.concat", builder, call)

    def concatenate(*parts: Any) -> Any:
        return concatenate_last(parts)

    return builder.call_te(concatenate, *fields, primfunc_name_hint="concatenate")


def _max_pool(builder: Any, call: Any) -> Any:
    a = call.attrs
    before, after = shape_of(call.args[0]), shape_of(call)
    if not _is_float32(call) or str(a.layout) != "NHWC" or before is None or after is None:
        return _default("relax.nn.max_pool2d", builder, call)
    rows, cols = (
        Window(
            size=int(a.pool_size[i]),
            step=int(a.strides[i]),
            dilation=int(a.dilation[i]),
            before=int(a.padding[i]),
        )
        for i in (0, 1)
    )
    size = (after[1], after[2])
    met = rows.meets(before[1], size[0]) and cols.meets(before[2], size[1])
    if not met or not pays(rows, cols):
        return _default("relax.nn.max_pool2d", builder, call)

    def max_pool2d(data: Any) -> Any:
        return max_pool(data, rows, cols, size)

    return builder.call_te(max_pool2d, call.args[0], primfunc_name_hint="max_pool2d")


def legalize_map() -> dict[str, Any]:
    """Legalisations for `LegalizeOps` that replace TVM's, for float32 where they compute."""
    return {
        **{name: _unary(name, function) for name, function in _UNARY.items()},
        "relax.nn.softplus": _softplus,
        "relax.power": _power,
        "relax.concat": _concat,
        "relax.nn.max_pool2d": _max_pool,
        "relax.nn.softmax": _softmax("relax.nn.softmax", softmax),
        "relax.nn.log_softmax": _softmax("relax.nn.log_softmax", log_softmax),
    }
