"""Relax networks put together layer by layer, with the units that they consist of.

A layer here is what the compiler makes one kernel of, so that units are known by construction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_iovt._tvm import relax
from tvm_iovt.cost_graph import Unit

FLOAT = 4
"""Bytes of an element."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the network under construction, and its shape (NCHW, or a matrix's)."""

    expr: Any
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Its size in float32."""
        return math.prod(self.shape) * FLOAT


class ChainBuilder:
    """Emits layers into a function `main` and keeps their units.

    Weights are drawn so that activations keep their size from layer to layer: numbers that shrink
    to denormal ones would make any kernel slow.

    Args:
        shape: Of the network's input.
        rng: Draws the weights.
    """

    def __init__(self, shape: tuple[int, ...], rng: np.random.Generator) -> None:
        self._rng = rng
        self._builder = relax.BlockBuilder()
        self._input = relax.Var("x", relax.TensorType(shape, "float32"))
        self._steps: list[Any] = []
        self.units: list[Unit] = []
        self.shape = shape
        self._function = self._builder.function("main", [self._input])
        self._function.__enter__()
        self._dataflow = self._builder.dataflow()
        self._dataflow.__enter__()
        self.input = Value(self._input, shape)

    def finish(self, *outputs: Value) -> Any:
        """The module; the builder cannot be used after that."""
        results = [self._builder.emit_output(value.expr) for value in outputs]
        self._dataflow.__exit__(None, None, None)
        self._builder.emit_func_output(results[0] if len(results) == 1 else results)
        self._function.__exit__(None, None, None)
        return self._builder.get()

    def conv(
        self,
        x: Value,
        channels: int,
        kernel: int,
        stride: int | tuple[int, int] = 1,
        *,
        groups: int = 1,
        activation: str = "relu",
        residual: Value | None = None,
    ) -> Value:
        """A convolution with bias, padded to keep its size, as `residual + conv`, activated."""
        batch, depth, height, width = x.shape
        weight = self._weight((channels, depth // groups, kernel, kernel))
        pad = kernel // 2
        strides = (stride, stride) if isinstance(stride, int) else stride
        expr = relax.op.nn.conv2d(
            x.expr, weight, strides=strides, padding=(pad, pad, pad, pad), groups=groups
        )
        expr = self._emit(relax.op.add(self._emit(expr), self._bias(channels)))
        sizes = zip((height, width), strides, strict=True)
        out = (batch, channels, *((n + 2 * pad - kernel) // step + 1 for n, step in sizes))
        inputs = [x]
        flops = 2 * math.prod(out) * kernel * kernel * (depth // groups)
        if residual is not None:
            expr = self._emit(relax.op.add(expr, residual.expr))
            inputs.append(residual)
            flops += math.prod(out)
        expr, extra = self._activated(expr, activation)
        kind = "depthwise" if groups == depth > 1 else "grouped" if groups > 1 else "conv"
        if kind == "conv" and kernel == 1:
            kind = "pointwise"
        weights = math.prod((channels, depth // groups, kernel, kernel)) + channels
        window = {"kernel": (kernel, kernel), "strides": strides, "groups": groups}
        return self._done(
            expr, out, kind, inputs, flops + extra * math.prod(out), weights=weights, **window
        )

    def transposed(self, x: Value, channels: int, kernel: int = 2, stride: int = 2) -> Value:
        """A transposed convolution without padding."""
        batch, depth, height, width = x.shape
        weight = self._weight((depth, channels, kernel, kernel), depth * (kernel // stride) ** 2)
        expr = self._emit(relax.op.nn.conv2d_transpose(x.expr, weight, strides=(stride, stride)))
        expr = self._emit(relax.op.add(expr, self._bias(channels)))
        expr, extra = self._activated(expr, "relu")
        out = (batch, channels, *((n - 1) * stride + kernel for n in (height, width)))
        flops = 2 * math.prod(x.shape) * channels * kernel * kernel + (1 + extra) * math.prod(out)
        weights = math.prod((depth, channels, kernel, kernel)) + channels
        window: dict[str, Any] = {"kernel": (kernel, kernel), "strides": (stride, stride)}
        return self._done(expr, out, "transposed", [x], flops, weights=weights, **window)

    def pool(self, x: Value, kernel: int = 3, stride: int = 2, *, average: bool = False) -> Value:
        """Maximum or average of windows."""
        pad = kernel // 2 if kernel % 2 else 0
        operator = relax.op.nn.avg_pool2d if average else relax.op.nn.max_pool2d
        expr = operator(
            x.expr,
            pool_size=(kernel, kernel),
            strides=(stride, stride),
            padding=(pad, pad, pad, pad),
        )
        size = ((n + 2 * pad - kernel) // stride + 1 for n in x.shape[2:])
        out = (*x.shape[:2], *size)
        flops = math.prod(out) * kernel * kernel
        window: dict[str, Any] = {"kernel": (kernel, kernel), "strides": (stride, stride)}
        return self._done(self._emit(expr), out, "pool", [x], flops, **window)

    def global_mean(self, x: Value) -> Value:
        """Means of channels, 1x1."""
        expr = self._emit(relax.op.mean(x.expr, axis=[2, 3], keepdims=True))
        return self._done(expr, (*x.shape[:2], 1, 1), "reduce", [x], math.prod(x.shape))

    def softmax(self, x: Value) -> Value:
        """Over the last axis."""
        expr = self._emit(relax.op.nn.softmax(x.expr, axis=-1))
        return self._done(expr, x.shape, "reduce", [x], 15 * math.prod(x.shape))

    def rectified(self, x: Value) -> Value:
        """Negative numbers replaced by zero."""
        expr = self._emit(relax.op.nn.relu(x.expr))
        return self._done(expr, x.shape, "elementwise", [x], math.prod(x.shape))

    def scale(self, x: Value, factors: Value) -> Value:
        """Channels times factors, as squeeze-and-excitation does."""
        expr = self._emit(relax.op.multiply(x.expr, factors.expr))
        return self._done(expr, x.shape, "elementwise", [x, factors], math.prod(x.shape))

    def add(self, x: Value, y: Value) -> Value:
        """A sum that is a kernel of its own if neither operand comes from a convolution alone."""
        expr = self._emit(relax.op.add(x.expr, y.expr))
        return self._done(expr, x.shape, "elementwise", [x, y], math.prod(x.shape))

    def concatenate(self, *parts: Value) -> Value:
        """Channels side by side."""
        expr = self._emit(relax.op.concat([part.expr for part in parts], axis=1))
        first = parts[0].shape
        out = (first[0], sum(part.shape[1] for part in parts), *first[2:])
        return self._done(expr, out, "move", list(parts), 0)

    def upsample(self, x: Value, factor: int = 2) -> Value:
        """Nearest neighbours."""
        out = (*x.shape[:2], *(n * factor for n in x.shape[2:]))
        expr = relax.op.image.resize2d(
            x.expr,
            relax.ShapeExpr(out[2:]),
            layout="NCHW",
            method="nearest_neighbor",
            coordinate_transformation_mode="asymmetric",
            rounding_method="floor",
        )
        return self._done(self._emit(expr), out, "move", [x], 0)

    def matmul(self, x: Value, columns: int, activation: str = "none") -> Value:
        """A matrix product with constant weights and a bias; images are flattened first."""
        expr, rows = x.expr, x.shape[0]
        if len(x.shape) == 4:
            expr = self._emit(relax.op.reshape(expr, (rows, math.prod(x.shape[1:]))))
        depth = math.prod(x.shape[1:])
        weight = self._weight((depth, columns), depth)
        expr = self._emit(relax.op.matmul(expr, weight))
        expr = self._emit(relax.op.add(expr, self._constant(np.zeros(columns))))
        expr, extra = self._activated(expr, activation)
        flops = 2 * rows * depth * columns + (1 + extra) * rows * columns
        return self._done(
            expr, (rows, columns), "matmul", [x], flops, weights=(depth + 1) * columns
        )

    def _done(
        self,
        expr: Any,
        shape: tuple[int, ...],
        kind: str,
        inputs: list[Value],
        flops: int,
        *,
        weights: int = 0,
        **window: Any,
    ) -> Value:
        value = Value(expr, shape)
        index = len(self.units)
        self.units.append(
            Unit(
                index=index,
                name=f"{kind}_{index}",
                operators=(f"{kind}_{index}",),
                kind=kind,
                flops=flops,
                bytes_in=sum({id(part.expr): part.nbytes for part in inputs}.values()),
                bytes_out=value.nbytes,
                bytes_weights=FLOAT * weights,
                shape_in=inputs[0].shape,
                shape_out=shape,
                **window,
            )
        )
        return value

    def _activated(self, expr: Any, activation: str) -> tuple[Any, int]:
        """The activated expression, and its FLOPs an element."""
        if activation == "relu":
            return self._emit(relax.op.nn.relu(expr)), 1
        if activation == "relu6":
            return self._emit(relax.op.clip(expr, 0.0, 6.0)), 2
        if activation == "hardswish":
            gate = self._emit(relax.op.add(expr, self._constant(np.float32(3))))
            gate = self._emit(relax.op.clip(gate, 0.0, 6.0))
            gate = self._emit(relax.op.multiply(gate, self._constant(np.float32(1 / 6))))
            return self._emit(relax.op.multiply(expr, gate)), 5
        if activation == "sigmoid":
            return self._emit(relax.op.sigmoid(expr)), 8
        if activation == "leaky":
            return self._emit(relax.op.nn.leakyrelu(expr, 0.1)), 2
        return expr, 0

    def _weight(self, shape: tuple[int, ...], depth: int = 0) -> Any:
        depth = depth or math.prod(shape[1:])
        values = self._rng.standard_normal(shape) * math.sqrt(1.5 / depth)
        return self._constant(values)

    def _bias(self, channels: int) -> Any:
        return self._constant(self._rng.standard_normal((1, channels, 1, 1)) * 0.1)

    def _constant(self, values: Any) -> Any:
        return relax.const(np.asarray(values, np.float32), "float32")

    def _emit(self, expr: Any) -> Any:
        return self._builder.emit(expr)
