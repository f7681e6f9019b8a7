"""Transcendental functions as arithmetic, so that they vectorise.

LLVM turns a vector exponential into one call of the C library per lane. The polynomial is that of
`expf` in the Cephes library (S. L. Moshier, netlib.org/cephes), with the argument reduced in two
steps; its relative error is below 2e-7.
"""

from __future__ import annotations

from typing import Any

from tvm_iovt.schedules.tvm_api import te, tirx, topi, tvm

_LOG2_E = 1.44269504088896341
_LN2_HIGH = 0.693359375
_LN2_LOW = -2.12194440e-4
_POLYNOMIAL = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
_SINH_SERIES = (1 / 362880, 1 / 5040, 1 / 120, 1 / 6, 1.0)
_LOWEST, _HIGHEST = -87.3365, 88.3762
"""Arguments with a normal result; beyond them the result saturates (1e-38, 2e38)."""


def exp(value: Any) -> Any:
    """The exponential of a float32 expression, saturating at the ends of its range."""

    def f(constant: float) -> Any:
        return tirx.const(constant, "float32")

    # Not-a-number passes: both comparisons are false, and the second operand is taken.
    x = tirx.max(f(_LOWEST), tirx.min(f(_HIGHEST), value))
    power = tirx.floor(x * f(_LOG2_E) + f(0.5))
    r = x - power * f(_LN2_HIGH) - power * f(_LN2_LOW)
    series = f(_POLYNOMIAL[0])
    for coefficient in _POLYNOMIAL[1:]:
        series = series * r + f(coefficient)
    mantissa = series * r * r + r + f(1.0)
    exponent = (tirx.Cast("int32", power) + tirx.const(127, "int32")) << tirx.const(23, "int32")
    return mantissa * tirx.reinterpret("float32", exponent)


def _logistic(value: Any) -> Any:
    one = tirx.const(1.0, "float32")
    return one / (one + exp(-value))


def sigmoid(x: Any) -> Any:
    """Logistic function of a float32 tensor."""
    return te.compute(x.shape, lambda *i: _logistic(x(*i)), name="sigmoid")


def silu(x: Any) -> Any:
    """`x * sigmoid(x)` of a float32 tensor."""
    return te.compute(x.shape, lambda *i: x(*i) * _logistic(x(*i)), name="silu")


def cosh(x: Any) -> Any:
    """Hyperbolic cosine of a float32 tensor; LLVM has none for vectors."""
    half = tirx.const(0.5, "float32")
    return te.compute(x.shape, lambda *i: half * (exp(x(*i)) + exp(-x(*i))), name="cosh")


def sinh(x: Any) -> Any:
    """Hyperbolic sine of a float32 tensor; a series near zero, where the exponentials cancel."""

    def element(value: Any) -> Any:
        square = value * value
        series = tirx.const(_SINH_SERIES[0], "float32")
        for coefficient in _SINH_SERIES[1:]:
            series = series * square + tirx.const(coefficient, "float32")
        large = tirx.const(0.5, "float32") * (exp(value) - exp(-value))
        return tirx.Select(square < tirx.const(1.0, "float32"), value * series, large)

    return te.compute(x.shape, lambda *i: element(x(*i)), name="sinh")


def softmax(x: Any, axis: int) -> Any:
    """Softmax of a float32 tensor along `axis`."""
    largest = topi.max(x, axis=axis, keepdims=True)

    def position(i: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(0 if k == axis else v for k, v in enumerate(i))

    powers = te.compute(x.shape, lambda *i: exp(x(*i) - largest(*position(i))), name="powers")
    total = topi.sum(powers, axis=axis, keepdims=True)
    return te.compute(x.shape, lambda *i: powers(*i) / total(*position(i)), name="softmax")


def _default(name: str) -> Any:
    return tvm.ir.Op.get(name).get_attr("FLegalize")


def legalize_map() -> dict[str, Any]:
    """Legalisations for `LegalizeOps` that replace TVM's for float32."""

    def unary(name: str, function: Any) -> Any:
        def legalize(builder: Any, call: Any) -> Any:
            if str(call.args[0].ty.dtype) != "float32":
                return _default(name)(builder, call)
            return builder.call_te(function, call.args[0], primfunc_name_hint=function.__name__)

        return legalize

    def legalize_softmax(builder: Any, call: Any) -> Any:
        if str(call.args[0].ty.dtype) != "float32":
            return _default("relax.nn.softmax")(builder, call)
        axis = int(call.attrs.axis) % len(call.args[0].ty.shape.values)
        return builder.call_te(softmax, call.args[0], axis=axis, primfunc_name_hint="softmax")

    return {
        "relax.sigmoid": unary("relax.sigmoid", sigmoid),
        "relax.nn.silu": unary("relax.nn.silu", silu),
        "relax.cosh": unary("relax.cosh", cosh),
        "relax.sinh": unary("relax.sinh", sinh),
        "relax.tanh": unary("relax.tanh", topi.fast_tanh),
        "relax.nn.softmax": legalize_softmax,
    }
