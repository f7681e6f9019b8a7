"""Quantized convolutions and matrix products in exact integer arithmetic, scaled once at the end.

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

The same holds for matmul(%x, %w) with %w = [permute_dims](dequantize(wq, sw, zw)).

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

    Likewise matrix products whose right operand is a matrix of constants.

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


@dataclass(frozen=True, slots=True)
class _WholeWeights:
    """Weights as whole numbers, and what is known of them.

    Attributes:
        whole: OIHW, or (K, N) of a matrix.
        scale: Of shape () or one entry an output.
        magnitude: The largest sum of absolute weights that one output adds.
        outputs: Number of output channels.
    """

    whole: Array
    scale: Array
    magnitude: float
    outputs: int


@mutator
class _Rewriter(Rewriter):
    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        if not is_call(call, "relax.quantize"):
            return call
        value, rectified = self._strip_relu(call.args[0])
        product, bias = self._strip_bias(value)
        if not _is_product(product):
            return call
        name = str(product.op.name).rpartition(".")[2]
        subject = f"{name} {tuple(int(size) for size in product.ty.shape)}"
        try:
            result, reason = self._rewrite(call, product, bias, rectified)
        except _RefusedError as refusal:
            self.decide(subject, applied=False, reason=str(refusal))
            return call
        self.decide(subject, applied=True, reason=reason)
        return result

    def _rewrite(self, call: Any, product: Any, bias: Any, rectified: bool) -> tuple[Any, str]:
        data = self._dequantized(product.args[0], "input")
        is_conv = is_call(product, "relax.nn.conv2d")
        weights = self._conv_weights(product) if is_conv else self._matrix(product)
        if data.scale.size != 1 or data.zero_point.size != 1:
            raise _RefusedError("the input has several scales")
        in_scale = np.float32(data.scale.reshape(()))
        offset = float(data.zero_point.reshape(()))
        # float32 throughout, as integer runtimes compute the multiplier.
        sum_scale = (in_scale * weights.scale.astype(np.float32)).reshape(-1)
        out_scale = _constant(call.args[1], "output scale").astype(np.float32)
        if out_scale.size != 1:
            raise _RefusedError("the output has a scale for each channel")
        multiplier = sum_scale / out_scale.reshape(())

        emit = self.builder_.emit
        x = emit(relax.op.astype(data.values, "float32"))
        if offset:
            x = emit(relax.op.subtract(x, _float(offset)))
        y = emit(relax.Call(product.op, [x, _float(weights.whole)], product.attrs))
        channels = (1, -1, 1, 1) if is_conv else (-1,)
        bound = weights.magnitude * _largest_input(str(data.values.ty.dtype), offset)
        if bias is not None:
            whole_bias = self._whole_bias(bias, sum_scale, weights.outputs)
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

    def _conv_weights(self, conv: Any) -> _WholeWeights:
        if conv.attrs.data_layout != "NCHW" or conv.attrs.kernel_layout != "OIHW":
            raise _RefusedError(f"layout {conv.attrs.data_layout}/{conv.attrs.kernel_layout}")
        found = self._dequantized(conv.args[1], "weight")
        whole = _whole(found, (-1, 1, 1, 1))
        magnitude = float(np.abs(whole).sum(axis=(1, 2, 3)).max())
        return _WholeWeights(whole, found.scale, magnitude, whole.shape[0])

    def _matrix(self, matmul: Any) -> _WholeWeights:
        """The right operand (K, N), as it is or as the transposition that Gemm imports to."""
        expr = self.bound(matmul.args[1])
        turned = is_call(expr, "relax.permute_dims")
        if turned and expr.attrs.axes is not None and [int(a) for a in expr.attrs.axes] != [1, 0]:
            raise _RefusedError("the weight is no matrix")
        found = self._dequantized(expr.args[0] if turned else expr, "weight", 0 if turned else 1)
        if len(found.values.ty.shape) != 2:
            raise _RefusedError("the weight is no matrix")
        whole = _whole(found, (-1, 1) if turned else (1, -1))
        if turned:
            whole = np.ascontiguousarray(whole.T)
        magnitude = float(np.abs(whole).sum(axis=0).max())
        return _WholeWeights(whole, found.scale, magnitude, whole.shape[1])

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

    def _dequantized(self, expr: Any, role: str, outputs_axis: int = 0) -> _Dequantized:
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
        # One entry a channel means an output channel only along that axis.
        axis = int(call.attrs.axis) % max(len(call.args[0].ty.shape), 1)
        if max(found.scale.size, found.zero_point.size) > 1 and axis != outputs_axis:
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
            product = self.bound_once(first)
            if _is_product(product):
                return product, second
        return call, None


def _is_product(expr: Any) -> bool:
    return is_call(expr, "relax.nn.conv2d") or is_call(expr, "relax.matmul")


def _constant(expr: Any, role: str) -> Array:
    if not isinstance(expr, tvm.ir.GenericConst):
        raise _RefusedError(f"the {role} is not a constant")
    value: Array = expr.value.numpy()
    return value


def _float(value: Array | float) -> Any:
    return relax.const(np.asarray(value, dtype=np.float32), "float32")


def _whole(found: _Dequantized, per_channel: tuple[int, ...]) -> Array:
    """`values - zero_point` in float64; zero points of one entry a channel take that shape."""
    values = _constant(found.values, "weight").astype(np.float64)
    zero_point = found.zero_point.astype(np.float64)
    return values - (zero_point.reshape(per_channel if zero_point.size > 1 else ()))


def _largest_input(dtype: str, offset: float) -> float:
    limits = np.iinfo(dtype)
    return float(max(abs(limits.min - offset), abs(limits.max - offset)))
