"""Networks to calibrate with: drawn at random from how vision networks are built.

None is a real network. Widths and resolutions cover what those have, small and odd ones too, and
kernels run in a network's company: their inputs were just written by another kernel, and their
weights have been pushed out of the caches since the last run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_iovt.cost_graph import Unit
from tvm_iovt.probe.chain_builder import ChainBuilder, Value
from tvm_iovt.probe.quantized_chain import Bytes, QuantizedChain


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticNetwork:
    """A network and what it consists of.

    Attributes:
        name: For messages.
        module: Relax module with `main`.
        units: In the order in which they run.
        shape: Of its input.
        precision: What it computes in, see `lower_for_cpu`.
    """

    name: str
    module: Any
    units: tuple[Unit, ...]
    shape: tuple[int, ...]
    precision: str = "fp32"


FAMILIES = ("inverted", "residual", "quantized", "pyramid", "shallow")
"""Names for `network_plan`."""


def network_plan(family: str, turn: int, seed: int = 0) -> SyntheticNetwork:
    """A network of a family; each turn is another one, the same each time."""
    rng = np.random.default_rng([seed, turn, *family.encode()])
    builder, outputs = _MAKERS[family](rng)
    module = builder.finish(*outputs)
    return SyntheticNetwork(
        name=f"{family} {turn}", units=tuple(builder.units), shape=builder.shape, module=module
    )


def residual(rng: np.random.Generator) -> tuple[ChainBuilder, list[Value]]:
    """Dense 3x3 convolutions with shortcuts and bottlenecks, as ResNet and RepVGG have them."""
    size = int(rng.choice([160, 192, 224]))
    net = ChainBuilder((1, 3, size, size), rng)
    width = _width(rng, 16, 64)
    x = net.conv(net.input, width, int(rng.choice([3, 7])), 2)
    x = net.pool(x)
    for stage in range(4):
        width = min(round(width * rng.uniform(1.2, 2.1) / 8) * 8, 512)
        x = net.conv(x, width, 3, 2 if stage else 1)
        for _ in range(2):
            y = net.conv(x, width, 3)
            x = net.conv(y, width, 3, activation="relu", residual=x)
        narrow = max(width // int(rng.choice([2, 4])), 8)
        y = net.conv(x, narrow, 1)
        y = net.conv(y, narrow, 3)
        x = net.conv(y, width, 1, residual=x)
    x = net.global_mean(x)
    return net, [net.matmul(x, int(rng.choice([10, 100, 1000])))]


def inverted(rng: np.random.Generator) -> tuple[ChainBuilder, list[Value]]:
    """Inverted residuals with depthwise convolutions, as in MobileNet and EfficientNet."""
    size = int(rng.choice([160, 192, 224, 256]))
    net = ChainBuilder((1, 3, size, size), rng)
    activation = str(rng.choice(["relu6", "hardswish", "relu"]))
    width = _width(rng, 8, 32)
    x = net.conv(net.input, width, 3, 2, activation=activation)
    for _stage in range(5):
        grown = round(width * rng.uniform(1.1, 1.9) / 4) * 4
        kernel = int(rng.choice([3, 5]))
        times = int(rng.choice([2, 3, 4, 6]))
        attention = bool(rng.random() < 0.5)
        for block in range(3):
            y = net.conv(x, width * times, 1, activation=activation)
            stride = 2 if block == 0 and min(y.shape[2:]) > 7 else 1
            y = net.conv(
                y, width * times, kernel, stride, groups=width * times, activation=activation
            )
            if attention:
                factors = net.global_mean(y)
                factors = net.conv(factors, max(width * times // 4, 8), 1)
                factors = net.conv(factors, width * times, 1, activation="sigmoid")
                y = net.scale(y, factors)
            if block == 0:
                x = net.conv(y, grown, 1, activation="none")
                width = grown
            else:
                x = net.conv(y, width, 1, activation="none", residual=x)
    x = net.conv(x, int(rng.choice([width * 4, 960, 1280])), 1, activation=activation)
    x = net.global_mean(x)
    return net, [net.matmul(x, int(rng.choice([10, 1000, 1000])))]


def pyramid(rng: np.random.Generator) -> tuple[ChainBuilder, list[Value]]:
    """A detector's or segmenter's parts: branches that join, up-sampling, groups, shuffles."""
    size = int(rng.choice([128, 192, 256, 320]))
    net = ChainBuilder((1, 3, size, size), rng)
    width = _width(rng, 16, 48)
    x = net.conv(net.input, width, 3, 2, activation="leaky")
    x = net.pool(x, int(rng.choice([2, 3])))
    levels = []
    for _ in range(3):
        groups = int(rng.choice([2, 4]))
        wide = width * 2
        y = net.conv(x, wide, 3, 2, groups=groups, activation="leaky")
        z = net.conv(y, wide, 5, groups=wide, activation="leaky")
        z = net.conv(z, width, 1, activation="leaky")
        q = net.pool(y, 3, 1, average=True)
        q = net.conv(q, width, 1, activation="leaky")
        x = net.concatenate(z, q)
        width = wide
        levels.append(x)
    neck = _width(rng, 24, 96)
    outputs = []
    deep = net.conv(levels[-1], neck, 1, activation="leaky")
    for level in reversed(levels[:-1]):
        side = net.conv(level, neck, 1, activation="leaky")
        up = net.upsample(deep)
        deep = net.concatenate(side, up)
        deep = net.conv(deep, neck, 3, activation="leaky")
        y = net.conv(deep, neck, 3, groups=neck, activation="leaky")
        outputs.append(net.conv(y, int(rng.choice([12, 33, 85])), 1, activation="none"))
    big = net.transposed(deep, max(neck // 2, 8))
    return net, [*outputs, net.conv(big, 1, 3, activation="sigmoid")]


def shallow(rng: np.random.Generator) -> tuple[ChainBuilder, list[Value]]:
    """Small networks for digits, faces and lines of text, where starting kernels counts."""
    height, width = [(28, 28), (32, 96), (48, 192)][int(rng.integers(3))]
    net = ChainBuilder((1, int(rng.choice([1, 3])), height, width), rng)
    x = net.conv(net.input, _width(rng, 4, 16), 3, int(rng.choice([1, 2])))
    for _ in range(3):
        channels = _width(rng, 8, 48)
        y = net.conv(x, channels, 1, activation="hardswish")
        stride = [(2, 1), (2, 2), (1, 1)][int(rng.integers(3))]
        kernel = int(rng.choice([3, 5]))
        y = net.conv(y, channels, kernel, stride, groups=channels, activation="hardswish")
        x = net.conv(y, channels, 3)
        y = net.conv(x, channels, 3, groups=channels, activation="hardswish")
        x = net.conv(y, channels, 1, residual=x)
        if min(x.shape[2:]) > 4:
            x = net.pool(x, 2)
    x = net.conv(x, _width(rng, 32, 128), 3, 2 if min(x.shape[2:]) > 2 else 1)
    x = net.conv(x, x.shape[1], 3)
    x = net.matmul(x, int(rng.choice([32, 128])), activation="relu")
    x = net.matmul(x, int(rng.choice([2, 10])))
    return net, [net.softmax(x)]


def quantized(rng: np.random.Generator) -> tuple[QuantizedChain, list[Bytes]]:
    """Layers of bytes: inverted residuals and dense convolutions by turns, and how they join."""
    size = int(rng.choice([192, 224, 256]))
    net = QuantizedChain((1, 3, size, size), rng)
    width = _eighths(rng, 16, 32)
    x = net.conv(net.input, width, 3, 2, activation=str(rng.choice(["relu", "hardswish"])))
    x = net.conv(x, width, 3, groups=width)
    wide = _eighths(rng, 3 * width, 6 * width)
    y = net.conv(x, wide, 1)
    y = net.conv(y, wide, 3, 2, groups=wide)
    y = net.conv(y, width, 1, activation="none")
    side = net.pool(net.conv(net.input, _eighths(rng, 16, 64), 7, 2))
    x = net.concatenate(y, side)
    for stage in range(3):
        grown = min(_eighths(rng, 24, 64) << stage, 320)
        if stage < 2:
            x = net.conv(x, grown, 3, 2)
        wide = _eighths(rng, 3 * grown, 6 * grown)
        activation = str(rng.choice(["relu", "relu", "hardswish"]))
        kernel, stride = int(rng.choice([3, 3, 5])), 2 if stage == 2 else 1
        y = net.conv(x, wide, 1, activation=activation)
        y = net.conv(y, wide, kernel, stride, groups=wide, activation=activation)
        if stage == 1:
            y = net.attention(y, grown)
        x = net.conv(y, grown, 1, activation="none", residual=x if stride == 1 else None)
        if stage == 0:
            branch = net.conv(net.pool(x, 3, 1, average=True), grown, 3, groups=grown // 8)
            x = y = net.add(x, branch)  # a kernel of its own, as the branch is read twice
        else:
            y = net.conv(x, _eighths(rng, grown, grown * 2), 5 if stage == 1 else 3)
        x = net.conv(y, grown, 3, residual=x)
    x = net.conv(x, int(rng.choice([480, 960, 1280])), 1)
    x = net.matmul(net.global_mean(x), int(rng.choice([128, 512, 1024])), activation="relu")
    logits = net.matmul(x, int(rng.choice([10, 100, 1000, 1000])))
    return net, [logits, net.global_mean(branch)]


def _eighths(rng: np.random.Generator, least: int, most: int) -> int:
    """A multiple of 8, as likely small as large."""
    return max(round(float(np.exp(rng.uniform(np.log(least), np.log(most)))) / 8) * 8, 8)


def _width(rng: np.random.Generator, least: int, most: int) -> int:
    """A number of channels, as likely small as large, mostly a multiple of 8."""
    found = float(np.exp(rng.uniform(np.log(least), np.log(most))))
    step = 8 if rng.random() < 0.7 else 1
    return max(round(found / step) * step, least)


_MAKERS: dict[str, Callable[[np.random.Generator], tuple[Any, list[Any]]]] = {
    "inverted": inverted,
    "residual": residual,
    "pyramid": pyramid,
    "shallow": shallow,
    "quantized": quantized,
}
