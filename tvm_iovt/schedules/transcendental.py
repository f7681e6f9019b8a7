"""Transcendental functions of float32 expressions as arithmetic, so that they vectorise.

LLVM turns a vector exponential, logarithm or error function into one call of the C library per
lane. The polynomials here are those of the Cephes library (S. L. Moshier, netlib.org/cephes:
`expf`, `logf`) and the rational functions those of Eigen (`ptanh_float`) and XLA (`ErfImpl32`). The
errors that the docstrings state bound the maxima over dense sweeps of the compiled code. Not-a-
number passes through all of them: where a comparison with it fails, the second operand of a minimum
or maximum is taken, and that is always the argument.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm_iovt.schedules.tvm_api import tirx

_LOG2_E = 1.44269504088896341
_LN2_HIGH = 0.693359375
_LN2_LOW = -2.12194440e-4
_EXP = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
_EXP_LOWEST, _EXP_HIGHEST = -87.6, 88.73
"""Beyond them the result is zero and infinity: 2^-127 and 2^128 have no normal form."""

_LOG = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
_SQRT_HALF_BITS = 0x3F3504F3
_SMALLEST_NORMAL = 1.17549435e-38

_ERF_ABOVE = (
    2.2905065861350646e-4,
    3.4082910107109506e-3,
    5.0955695062380861e-2,
    1.8520832239976145e-1,
    1.128379143519084,
)
_ERF_BELOW = (
    -1.1791602954361697e-7,
    2.3547966471313185e-5,
    1.0179625278914885e-3,
    1.4070470171167667e-2,
    1.1098505178285362e-1,
    4.9746925110067538e-1,
    1.0,
)
_ERF_FLAT = 3.7439211627767994
"""The error function is 1 in float32 from here."""

_TANH_ABOVE = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
_TANH_BELOW = (
    1.19825839466702e-06,
    1.18534705686654e-04,
    2.26843463243900e-03,
    4.89352518554385e-03,
)
_TANH_FLAT = 9.0

_SINH = (1 / 362880, 1 / 5040, 1 / 120, 1 / 6, 1.0)

_TANH_GELU = (0.7978845608028654, 0.044715)
"""sqrt(2 / pi) and the coefficient of the cube (Hendrycks and Gimpel, arXiv 1606.08415)."""


def real(value: float) -> Any:
    """A float32 constant."""
    return tirx.const(value, "float32")


def _once(value: Any, use: Callable[[Any], Any]) -> Any:
    """`use(value)` with the value bound to a name.

    Written out at every use, a chain of functions would grow exponentially with its length.
    """
    name = tirx.Var("value", "float32")
    return tirx.Let(name, value, use(name))


def _horner(coefficients: Sequence[float], x: Any) -> Any:
    series = real(coefficients[0])
    for coefficient in coefficients[1:]:
        series = series * x + real(coefficient)
    return series


def _ratio(above: Sequence[float], below: Sequence[float], flat: float, x: Any, square: Any) -> Any:
    """An odd function that is +-1 beyond +-`flat`, as x P(s) / Q(s) with s = x^2."""
    ratio = _once(
        tirx.min(real(flat * flat), square), lambda s: x * _horner(above, s) / _horner(below, s)
    )
    return tirx.max(real(-1.0), tirx.min(real(1.0), ratio))


def _exp_of_rest(r: Any, power: Any) -> Any:
    # Twice the exponential of the rest times half the power of two: that has a normal form up to
    # the largest number.
    twice = _horner([2 * c for c in _EXP], r) * (r * r) + (r * real(2.0) + real(2.0))
    half_power = (tirx.Cast("int32", power) + tirx.const(126, "int32")) << tirx.const(23, "int32")
    return twice * tirx.reinterpret("float32", half_power)


def exp(x: Any) -> Any:
    """Exponential; relative error below 2e-7, zero below -87, infinite from 88.73."""

    def of_bounded(x: Any) -> Any:
        return _once(
            tirx.floor(x * real(_LOG2_E) + real(0.5)),
            lambda power: _once(
                x - power * real(_LN2_HIGH) - power * real(_LN2_LOW),
                lambda r: _exp_of_rest(r, power),
            ),
        )

    return _once(tirx.max(real(_EXP_LOWEST), tirx.min(real(_EXP_HIGHEST), x)), of_bounded)


def log(x: Any) -> Any:
    """Natural logarithm; error below 2e-7 max(1, |log x|)."""

    def integer(value: int) -> Any:
        return tirx.const(value, "int32")

    def of_mantissa(r: Any, power: Any) -> Any:
        square = r * r
        series = _horner(_LOG, r) * r * square + power * real(_LN2_LOW)
        return r + (series - real(0.5) * square) + power * real(_LN2_HIGH)

    def of_value(x: Any) -> Any:
        tiny = x < real(_SMALLEST_NORMAL)
        bits = tirx.reinterpret("int32", tirx.Select(tiny, x * real(2.0**24), x))
        exponent = (bits - integer(_SQRT_HALF_BITS)) >> integer(23)
        mantissa = tirx.reinterpret("float32", bits - (exponent << integer(23)))
        power = tirx.Cast("float32", exponent) - tirx.Select(tiny, real(24.0), real(0.0))
        result = _once(
            power, lambda power: _once(mantissa - real(1.0), lambda r: of_mantissa(r, power))
        )
        infinity = tirx.infinity("float32")
        defined = tirx.Select(x == real(0.0), -infinity, tirx.Select(x == infinity, x, result))
        return tirx.Select(x >= real(0.0), defined, real(float("nan")))

    return _once(x, of_value)


def erf(x: Any) -> Any:
    """Error function; absolute and relative error below 4e-7."""
    return _once(x, lambda x: _ratio(_ERF_ABOVE, _ERF_BELOW, _ERF_FLAT, x, x * x))


def tanh(x: Any) -> Any:
    """Hyperbolic tangent; absolute and relative error below 4e-7."""
    return _once(x, lambda x: _ratio(_TANH_ABOVE, _TANH_BELOW, _TANH_FLAT, x, x * x))


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)); relative error below 3e-7."""
    return real(1.0) / (real(1.0) + exp(-x))


def silu(x: Any) -> Any:
    """`x sigmoid(x)`; relative error below 3e-7."""
    return _once(x, lambda x: x / (real(1.0) + exp(-x)))


def gelu(x: Any) -> Any:
    """`x (1 + erf(x / sqrt 2)) / 2`; absolute error below 3e-7 max(1, |x|)."""

    def of_value(x: Any) -> Any:
        scaled, square = x * real(0.5**0.5), real(0.5) * x * x
        half = real(0.5) * x
        return half * _ratio(_ERF_ABOVE, _ERF_BELOW, _ERF_FLAT, scaled, square) + half

    return _once(x, of_value)


def gelu_tanh(x: Any) -> Any:
    """`x (1 + tanh u) / 2` with u = sqrt(2 / pi) (x + 0.044715 x^3), as x sigmoid(2 u).

    Absolute error below 3e-7 max(1, |x|); zero below -10.
    """
    scale, cubic = _TANH_GELU

    def of_value(x: Any) -> Any:
        twice_u = x * (x * x * real(2 * scale * cubic) + real(2 * scale))
        return x / (real(1.0) + exp(-twice_u))

    return _once(x, of_value)


def softplus(x: Any) -> Any:
    """log(1 + exp(x)) as max(x, 0) + log(1 + exp(-|x|)); absolute error below 2e-7 max(1, |x|)."""
    return _once(
        x,
        lambda x: tirx.max(real(0.0), x) + log(real(1.0) + exp(real(0.0) - tirx.abs(x))),
    )


def cosh(x: Any) -> Any:
    """Hyperbolic cosine."""
    return _once(x, lambda x: real(0.5) * (exp(x) + exp(-x)))


def sinh(x: Any) -> Any:
    """Hyperbolic sine: a series near zero, where the exponentials cancel."""

    def of_value(x: Any) -> Any:
        large = real(0.5) * (exp(x) - exp(-x))
        return tirx.Select(x * x < real(1.0), x * _horner(_SINH, x * x), large)

    return _once(x, of_value)
