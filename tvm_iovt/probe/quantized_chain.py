"""Quantized networks put together layer by layer, as the compiler sees them behind its passes.

    %w = subtract(astype(%x), zero_point)     # bytes, widened
    %a = multiply(add(conv2d(%w, w), b), m)   # whole numbers in, and once scaled
    %y = quantize(%a, 1, zero_point)          # bytes again

What becomes one unit here is not known by construction: the units are those that `AnnotateCost`
finds, as in a quantized model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

import relay_passes
from tvm_iovt._tvm import relax
from tvm_iovt.cost_graph import Unit

SCALE = 0.05
"""Of all tensors: what a step of a byte stands for."""

_LIMIT = 127
_WEIGHT_STEPS = _LIMIT / math.sqrt(3)
_STEPS = 57.0
"""Usual distance of a byte from its zero point."""

_WANTED_STEPS = 80.0
"""Deviation of a result before it is cut off at a byte's ends."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """A tensor of bytes, its shape (NCHW, or a matrix's), and the byte that stands for zero."""

    expr: Any
    shape: tuple[int, ...]
    zero_point: int


class QuantizedChain:
    """Emits quantized layers into a function `main`; its input and results are float32.

    Args:
        shape: Of the network's input.
        rng: Draws the weights.
    """

    def __init__(self, shape: tuple[int, ...], rng: np.random.Generator) -> None:
        self._rng = rng
        self._builder = relax.BlockBuilder()
        variable = relax.Var("x", relax.TensorType(shape, "float32"))
        self.units: list[Unit] = []
        """Known once it is finished."""
        self.shape = shape
        self._function = self._builder.function("main", [variable])
        self._function.__enter__()
        self._dataflow = self._builder.dataflow()
        self._dataflow.__enter__()
        self.input = self._bytes(variable, shape, 0)

    def finish(self, *outputs: Bytes) -> Any:
        """The module, whose results are widened; the builder cannot be used after that."""
        results = [
            self._builder.emit_output(_dequantized(value.expr, value.zero_point))
            for value in outputs
        ]
        self._dataflow.__exit__(None, None, None)
        self._builder.emit_func_output(results[0] if len(results) == 1 else results)
        self._function.__exit__(None, None, None)
        module = self._builder.get()
        self.units = list(relay_passes.cost_graph(module).units)
        return module

    def conv(
        self,
        x: Bytes,
        channels: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        activation: str = "relu",
        residual: Bytes | None = None,
    ) -> Bytes:
        """A convolution, padded to keep its size, cut off at zero, `hardswish`, or `none`.

        With a residual, the sum of both is quantized once more.
        """
        batch, depth, height, width = x.shape
        pad = kernel // 2
        out = (batch, channels, *((n + 2 * pad - kernel) // stride + 1 for n in (height, width)))
        weight = self._weight((channels, depth // groups, kernel, kernel))
        expr = self._emit(
            relax.op.nn.conv2d(
                self._widened(x),
                weight,
                strides=(stride, stride),
                padding=(pad, pad, pad, pad),
                groups=groups,
            )
        )
        zero_point = -128 if activation == "relu" and residual is None else 0
        taps = depth // groups * kernel * kernel
        y = self._scaled(expr, out, taps, (1, channels, 1, 1), zero_point)
        if residual is not None:
            return self.add(residual, y, activation=activation)
        return self._hard_swish(y) if activation == "hardswish" else y

    def matmul(self, x: Bytes, columns: int, activation: str = "none") -> Bytes:
        """A product with constant weights; images are flattened first."""
        depth = math.prod(x.shape[1:])
        if len(x.shape) == 4:
            flat = self._emit(relax.op.reshape(self._float(x), (x.shape[0], depth)))
            x = self._bytes(flat, (x.shape[0], depth), x.zero_point)
        expr = self._emit(relax.op.matmul(self._widened(x), self._weight((depth, columns))))
        zero_point = -128 if activation == "relu" else 0
        return self._scaled(expr, (x.shape[0], columns), depth, (columns,), zero_point)

    def add(self, x: Bytes, y: Bytes, activation: str = "none") -> Bytes:
        """A sum."""
        both = self._emit(relax.op.add(self._float(x), self._float(y)))
        return self._bytes(both, x.shape, -128 if activation == "relu" else 0)

    def pool(self, x: Bytes, kernel: int = 3, stride: int = 2, *, average: bool = False) -> Bytes:
        """Maximum or average of windows."""
        pad = kernel // 2 if kernel % 2 else 0
        operator = relax.op.nn.avg_pool2d if average else relax.op.nn.max_pool2d
        expr = operator(
            self._float(x),
            pool_size=(kernel, kernel),
            strides=(stride, stride),
            padding=(pad, pad, pad, pad),
        )
        size = ((n + 2 * pad - kernel) // stride + 1 for n in x.shape[2:])
        return self._bytes(self._emit(expr), (*x.shape[:2], *size), x.zero_point)

    def concatenate(self, *parts: Bytes) -> Bytes:
        """Channels side by side."""
        expr = self._emit(relax.op.concat([self._float(part) for part in parts], axis=1))
        first = parts[0].shape
        out = (first[0], sum(part.shape[1] for part in parts), *first[2:])
        return self._bytes(expr, out, parts[0].zero_point)

    def global_mean(self, x: Bytes) -> Bytes:
        """Means of channels, 1x1."""
        return self._mean(self._float(x), x)

    def attention(self, x: Bytes, narrow: int) -> Bytes:
        """Channels times factors that follow from all of them (squeeze and excitation)."""
        wide = self._float(x)  # that both the means and the product read
        factors = self.conv(self._mean(wide, x), narrow, 1)
        factors = self.conv(factors, x.shape[1], 1, activation="none")
        product = self._emit(relax.op.multiply(self._gate(factors), wide))
        return self._bytes(product, x.shape, x.zero_point)

    def _mean(self, wide: Any, x: Bytes) -> Bytes:
        expr = self._emit(relax.op.mean(wide, axis=[2, 3], keepdims=True))
        return self._bytes(expr, (*x.shape[:2], 1, 1), x.zero_point)

    def _hard_swish(self, x: Bytes) -> Bytes:
        product = self._emit(relax.op.multiply(self._float(x), self._gate(x)))
        return self._bytes(product, x.shape, 0)

    def _gate(self, x: Bytes) -> Any:
        """`clip(x / 6 + 1/2, 0, 1)`, in bytes and widened."""
        scaled = self._emit(relax.op.multiply(self._float(x), _constant(1 / 6)))
        gate = self._emit(relax.op.add(scaled, _constant(0.5)))
        return self._float(self._bytes(self._emit(relax.op.clip(gate, 0.0, 1.0)), x.shape, -128))

    def _scaled(
        self,
        expr: Any,
        shape: tuple[int, ...],
        taps: int,
        channels: tuple[int, ...],
        zero_point: int,
    ) -> Bytes:
        """Sums of products of whole numbers as bytes, each channel with a factor of its own."""
        usual = _WEIGHT_STEPS * _STEPS * math.sqrt(taps)
        bias = np.round(self._rng.standard_normal(channels) * 0.1 * usual)
        factors = self._rng.uniform(0.8, 1.2, channels) * _WANTED_STEPS / usual
        expr = self._emit(relax.op.add(expr, _constant(bias)))
        expr = self._emit(relax.op.multiply(expr, _constant(factors)))
        return self._bytes(expr, shape, zero_point, scale=1.0)

    def _bytes(
        self, expr: Any, shape: tuple[int, ...], zero_point: int, scale: float = SCALE
    ) -> Bytes:
        point = relax.const(np.int8(zero_point), "int8")
        found = relax.op.quantize(expr, _constant(scale), point, axis=1, out_dtype="int8")
        return Bytes(self._emit(found), shape, zero_point)

    def _widened(self, x: Bytes) -> Any:
        """The whole numbers that bytes are, as what convolutions read."""
        wide = self._emit(relax.op.astype(x.expr, "float32"))
        if not x.zero_point:
            return wide
        return self._emit(relax.op.subtract(wide, _constant(float(x.zero_point))))

    def _float(self, x: Bytes) -> Any:
        return self._emit(_dequantized(x.expr, x.zero_point))

    def _weight(self, shape: tuple[int, ...]) -> Any:
        return _constant(self._rng.integers(-_LIMIT, _LIMIT + 1, shape))

    def _emit(self, expr: Any) -> Any:
        return self._builder.emit(expr)


def _dequantized(expr: Any, zero_point: int) -> Any:
    point = relax.const(np.int8(zero_point), "int8")
    return relax.op.dequantize(expr, _constant(SCALE), point, axis=1, out_dtype="float32")


def _constant(values: Any) -> Any:
    return relax.const(np.asarray(values, np.float32), "float32")
