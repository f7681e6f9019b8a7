"""Quantized convolutions in exact integer arithmetic, scaled once at the end.

A quantized (QDQ) ONNX graph surrounds a float convolution with conversions:

    Given:
        %x = dequantize(%xq, sx, zx)                # (N, C, H, W) int8 -> float32
        %w = dequantize(wq, sw, zw)                 # (O, I, kh, kw) int8 -> float32
        %c = conv2d(%x, %w)
        %b = add(%c, reshape(dequantize(bq, sx * sw, 0)))
        %y = quantize([relu](%b), sy, zy)
    Result:
        %c = conv2d(float(%xq) - zx, wq - zw)       # whole numbers
        %b = add(%c, bq)
        %y = quantize([relu](%b * (sx * sw / sy)), 1, zy)

As long as its sums stay below 2^24, float32 adds whole numbers without rounding, in any order. The
scaled form rounds differently with each order, and a last-bit difference before the rounding of
`quantize` becomes a whole step after it, which the layers behind amplify. The rewritten form is
what integer kernels compute (ONNX Runtime's requantization multiplies by the same float32
`sx * sw / sy`), so the results agree bit for bit and no longer depend on the schedule.

Scheme and arithmetic: Jacob et al., arXiv 1712.05877. Run it while weights and scales are still
constants of `dequantize` calls, that is before any constant folding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax
from tvm.relax.expr_functor import mutator

from relay_passes.rewriter import OnDecision, Rewriter, is_call

Array = npt.NDArray[Any]

# float32 represents every whole number up to here.
EXACT_SUM = 2**24

# Other types (float8, 4-bit) are no whole numbers, or come packed.
WHOLE_TYPES = ("int8", "uint8", "int16", "uint16", "int32")


@tvm.transform.module_pass(opt_level=0, name="DequantizeAfterConv")
class DequantizeAfterConv:
    """Rewrites quantize(conv2d(dequantize, dequantize)) to a convolution of whole numbers.

    Args:
        on_decision: Called with every rewrite made or refused.
    """

    def __init__(self, on_decision: OnDecision | None = None) -> None:
        self._on_decision = on_decision

    def transform_module(self, mod: Any, _ctx: Any) -> Any:
        """Rewrite every Relax function of `mod`."""
        return _Rewriter(mod, "DequantizeAfterConv", self._on_decision).rewrite_module()


class _RefusedError(Exception):
    """A convolution between quantizations that cannot be rewritten; the text is the reason."""


@dataclass(frozen=True, slots=True)
class _Dequantized:
    """The operand `(values - zero_point) * scale`; both of shape () or one entry a channel."""

    values: Any
    scale: Array
    zero_point: Array


@mutator
class _Rewriter(Rewriter):
    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        if not is_call(call, "relax.quantize"):
            return call
        value, rectified = self._strip_relu(call.args[0])
        conv, bias = self._strip_bias(value)
        if not is_call(conv, "relax.nn.conv2d"):
            return call
        subject = f"conv2d {tuple(int(size) for size in conv.ty.shape)}"
        try:
            result, reason = self._rewrite(call, conv, bias, rectified)
        except _RefusedError as refusal:
            self.decide(subject, applied=False, reason=str(refusal))
            return call
        self.decide(subject, applied=True, reason=reason)
        return result

    def _rewrite(self, call: Any, conv: Any, bias: Any, rectified: bool) -> tuple[Any, str]:
        if conv.attrs.data_layout != "NCHW" or conv.attrs.kernel_layout != "OIHW":
            raise _RefusedError(f"layout {conv.attrs.data_layout}/{conv.attrs.kernel_layout}")
        data = self._dequantized(conv.args[0], "input")
        weight = self._dequantized(conv.args[1], "weight")
        weights = _constant(weight.values, "weight").astype(np.float64)
        per_channel = (-1, 1, 1, 1)
        whole = weights - weight.zero_point.astype(np.float64).reshape(per_channel)
        if data.scale.size != 1 or data.zero_point.size != 1:
            raise _RefusedError("the input has several scales")
        in_scale = np.float32(data.scale.reshape(()))
        offset = float(data.zero_point.reshape(()))
        # float32 throughout, as integer runtimes compute the multiplier.
        sum_scale = (in_scale * weight.scale.astype(np.float32)).reshape(-1)
        out_scale = _constant(call.args[1], "output scale").astype(np.float32)
        if out_scale.size != 1:
            raise _RefusedError("the output has a scale for each channel")
        multiplier = sum_scale / out_scale.reshape(())

        emit = self.builder_.emit
        x = emit(relax.op.astype(data.values, "float32"))
        if offset:
            x = emit(relax.op.subtract(x, _float(offset)))
        y = emit(relax.Call(conv.op, [x, _float(whole)], conv.attrs))
        channels = (1, -1, 1, 1)
        bound = _largest_sum(whole, str(data.values.ty.dtype), offset)
        if bias is not None:
            whole_bias = self._whole_bias(bias, sum_scale, whole.shape[0])
            bound += float(np.abs(whole_bias).max())
            y = emit(relax.op.add(y, _float(whole_bias.reshape(channels))))
        y = emit(relax.op.multiply(y, _float(multiplier.reshape(channels))))
        if rectified:
            y = emit(relax.op.nn.relu(y))
        result = relax.op.quantize(
            y, _float(1.0), call.args[2], axis=call.attrs.axis, out_dtype=call.attrs.out_dtype
        )
        exact = bound < EXACT_SUM
        return result, "exact sums" if exact else f"sums up to {bound:.3g} may round in float32"

    def _whole_bias(self, bias: Any, sum_scale: Array, channels: int) -> Array:
        """The bias in units of the accumulated products, one entry a channel."""
        expr = self.bound(bias)
        if is_call(expr, "relax.reshape"):
            expr = self.bound(expr.args[0])
        found = self._dequantized(expr, "bias")
        values = _constant(found.values, "bias").astype(np.float64).reshape(-1)
        if values.size != channels:
            raise _RefusedError("the bias is not one number a channel")
        if found.zero_point.any():
            raise _RefusedError("the bias has a zero point")
        if not np.allclose(found.scale.reshape(-1), sum_scale, rtol=1e-4, atol=0):
            raise _RefusedError("the bias has another scale than the products")
        return values

    def _dequantized(self, expr: Any, role: str) -> _Dequantized:
        call = self.bound(expr)
        if not is_call(call, "relax.dequantize"):
            raise _RefusedError(f"the {role} is not quantized")
        dtype = str(call.args[0].ty.dtype)
        if dtype not in WHOLE_TYPES:
            raise _RefusedError(f"the {role} is quantized to {dtype}")
        found = _Dequantized(
            call.args[0],
            _constant(call.args[1], f"{role} scale"),
            _constant(call.args[2], f"{role} zero point"),
        )
        # One entry a channel means an output channel only along the first axis.
        if max(found.scale.size, found.zero_point.size) > 1 and int(call.attrs.axis) != 0:
            raise _RefusedError(f"the {role} has scales along axis {int(call.attrs.axis)}")
        return found

    def _strip_relu(self, value: Any) -> tuple[Any, bool]:
        call = self.bound_once(value)
        return (call.args[0], True) if is_call(call, "relax.nn.relu") else (value, False)

    def _strip_bias(self, value: Any) -> tuple[Any, Any]:
        call = self.bound_once(value)
        if not is_call(call, "relax.add"):
            return call, None
        for first, second in (call.args, reversed(call.args)):
            conv = self.bound_once(first)
            if is_call(conv, "relax.nn.conv2d"):
                return conv, second
        return call, None


def _constant(expr: Any, role: str) -> Array:
    if not isinstance(expr, tvm.ir.GenericConst):
        raise _RefusedError(f"the {role} is not a constant")
    value: Array = expr.value.numpy()
    return value


def _float(value: Array | float) -> Any:
    return relax.const(np.asarray(value, dtype=np.float32), "float32")


def _largest_sum(whole: Array, dtype: str, offset: float) -> float:
    """The largest magnitude that the accumulated products of one output can reach."""
    limits = np.iinfo(dtype)
    largest_input = max(abs(limits.min - offset), abs(limits.max - offset))
    return float(np.abs(whole).sum(axis=(1, 2, 3)).max() * largest_input)
