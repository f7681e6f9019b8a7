"""Networks of one or a few operators that show one number of a device each."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvm_iovt._tvm import relax
from tvm_iovt.cost_graph import Unit
from tvm_iovt.probe.chain_builder import ChainBuilder, Value

Shapes = tuple[tuple[int, ...], ...]


def copy(elements: int) -> tuple[Any, Shapes]:
    """Reads and writes a vector: 8 bytes an element."""
    shape = (1, 1, max(elements // 64, 1), 64)
    net = ChainBuilder(shape, np.random.default_rng(0))
    return net.finish(net.rectified(net.input)), (shape,)


def starts(count: int) -> tuple[Any, Shapes]:
    """So many kernels with nothing to do."""
    shape = (1, 8, 1, 1)
    net = ChainBuilder(shape, np.random.default_rng(0))
    x = net.input
    for _ in range(count):
        x = net.pool(x, 1, 1)
    return net.finish(x), (shape,)


def product(depth: int, channels: int, rows: int, columns: int) -> tuple[Any, Shapes]:
    """Arithmetic on operands that fit a level-2 cache."""
    shape = (1, depth, rows, columns)
    net = ChainBuilder(shape, np.random.default_rng(0))
    return net.finish(net.conv(net.input, channels, 1)), (shape,)


def chain(count: int, kind: str, channels: int, height: int, width: int) -> tuple[Any, Shapes]:
    """So many equal layers, one behind another."""
    net, x = _chain(count, kind, channels, height, width)
    return net.finish(x), (net.shape,)


def chain_units(count: int, kind: str, channels: int, height: int, width: int) -> tuple[Unit, ...]:
    """The units of `chain`."""
    net, x = _chain(count, kind, channels, height, width)
    net.finish(x)
    return tuple(net.units)


def _chain(
    count: int, kind: str, channels: int, height: int, width: int
) -> tuple[ChainBuilder, Value]:
    net = ChainBuilder((1, channels, height, width), np.random.default_rng(0))
    x = net.input
    for _ in range(count):
        if kind == "pool":
            x = net.pool(x, 3, 1)
        else:
            groups = channels if kind == "depthwise" else 1
            x = net.conv(x, channels, 1 if kind == "pointwise" else 3, groups=groups)
    return net, x


def layout_change(channels: int, height: int, width: int) -> tuple[Any, Shapes]:
    """From channels first to channels last."""
    builder = relax.BlockBuilder()
    shape = (1, channels, height, width)
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            changed = builder.emit_output(relax.op.permute_dims(x, [0, 2, 3, 1]))
        builder.emit_func_output(changed)
    return builder.get(), (shape,)
