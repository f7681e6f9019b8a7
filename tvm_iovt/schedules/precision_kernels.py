"""Kernels in reduced precision: each is a hint, a TE function and the constants it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_iovt.schedules.convolution import (
    Conv2d,
    conv2d_packed,
    depthwise_packed,
    matmul_packed,
    pack_depthwise_weights,
    pack_weights,
)
from tvm_iovt.schedules.dot_instructions import DotInstruction, narrow, round_to_bf16, widen
from tvm_iovt.schedules.dot_product import conv2d_dot, matmul_dot, pack_dot_weights
from tvm_iovt.schedules.tiles import (
    ceil_div,
    contraction_tile,
    lanes_of,
    vector_width,
    window_cols,
)
from tvm_iovt.schedules.tvm_api import te, tirx
from tvm_iovt.types import CpuSpec


@dataclass(frozen=True, slots=True)
class Format:
    """How the tensors between rounded convolutions are stored.

    Attributes:
        label: For the names of kernels.
        narrow: From a TIR float32.
        widen: To a TIR float32, exactly.
    """

    label: str
    narrow: Callable[[Any], Any]
    widen: Callable[[Any], Any]


FORMATS = {
    "bf16": Format("bf16", narrow, widen),
    "fp16": Format("fp16", lambda x: tirx.Cast("float16", x), lambda x: tirx.Cast("float32", x)),
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel to be.

    Attributes:
        hint: Of its name.
        build: From the TE tensors of the data and of the constants to that of the result.
        constants: Arrays that it takes behind the data, each with its TVM type.
    """

    hint: str
    build: Callable[..., Any]
    constants: tuple[tuple[np.ndarray, str], ...]


def dot_conv2d(
    weights: np.ndarray,
    conv: Conv2d,
    dot: DotInstruction,
    cpu: CpuSpec,
    *,
    zero_point: int = 0,
    channels_first: bool = False,
) -> Kernel:
    """Convolution with a dot-product instruction.

    Args:
        weights: OIHW float32; whole numbers for an instruction of integers.
        conv: The geometry.
        dot: The instruction.
        cpu: The CPU to choose the register tile for.
        zero_point: What stands for zero in the numbers that the instruction reads.
        channels_first: The data is an NCHW image.
    """
    tile = contraction_tile(*conv.out_size, conv.out_channels // conv.groups, cpu, dot.lanes)
    packed = pack_dot_weights(_operand(weights, dot), conv.groups, tile.channels, dot.group)

    def build(image: Any, weight: Any, offsets: Any = None) -> Any:
        return conv2d_dot(
            image,
            weight,
            conv,
            tile,
            dot,
            padding=zero_point,
            channels_first=channels_first,
            offsets=offsets,
        )

    offsets = _offsets(weights.reshape(len(weights), -1).T, zero_point, dot)
    return Kernel(f"{_label(dot)}_conv2d", build, ((packed, dot.weight), *offsets))


def dot_matmul(
    weights: np.ndarray, rows: int, dot: DotInstruction, cpu: CpuSpec, *, zero_point: int = 0
) -> Kernel:
    """Matrix product with weights (K, N) and a dot-product instruction.

    `rows` is the extent of the last leading axis of the data; the rest is as for `dot_conv2d`.
    """
    depth, out_features = weights.shape
    tile = contraction_tile(1, rows, out_features, cpu, dot.lanes)
    panels = _operand(weights, dot).T.reshape(out_features, depth, 1, 1)
    packed = pack_dot_weights(panels, 1, tile.channels, dot.group)[:, 0, 0]

    def build(data: Any, weight: Any, offsets: Any = None) -> Any:
        return matmul_dot(data, weight, out_features, tile, dot, offsets=offsets)

    offsets = _offsets(weights, zero_point, dot)
    return Kernel(f"{_label(dot)}_matmul", build, ((packed, dot.weight), *offsets))


def half_conv2d(
    weights: np.ndarray, conv: Conv2d, cpu: CpuSpec, *, channels_first: bool = False
) -> Kernel:
    """Convolution in float16, sums included; the arguments are those of `dot_conv2d`."""
    lanes = lanes_of(cpu, 16)
    tile = contraction_tile(*conv.out_size, conv.out_channels // conv.groups, cpu, lanes)
    packed = pack_weights(weights.astype(np.float16), conv.groups, tile.channels)

    def build(image: Any, weight: Any) -> Any:
        halves = _halves(image)
        return _floats(conv2d_packed(halves, weight, conv, tile, channels_first=channels_first))

    return Kernel("fp16_conv2d", build, ((packed, "float16"),))


def half_matmul(weights: np.ndarray, rows: int, cpu: CpuSpec) -> Kernel:
    """Matrix product in float16, sums included; the arguments are those of `dot_matmul`."""
    depth, out_features = weights.shape
    tile = contraction_tile(1, rows, out_features, cpu, lanes_of(cpu, 16))
    panels = weights.astype(np.float16).T.reshape(out_features, depth, 1, 1)
    packed = pack_weights(panels, 1, tile.channels)[:, 0, 0]

    def build(data: Any, weight: Any) -> Any:
        return _floats(matmul_packed(_halves(data), weight, out_features, tile))

    return Kernel("fp16_matmul", build, ((packed, "float16"),))


def widened_depthwise(
    weights: np.ndarray, conv: Conv2d, cpu: CpuSpec, value: Callable[[Any], Any], label: str
) -> Kernel:
    """Depthwise convolution in float32 of numbers that are stored in another type.

    They are converted where their padded copy is made.

    Args:
        weights: OIHW float32.
        conv: The geometry.
        cpu: The CPU to choose the block of channels for.
        value: From a stored TIR number to a float32.
        label: For the name of the kernel.
    """
    lanes = lanes_of(cpu)
    channels = conv.out_channels
    width = vector_width(channels, lanes)
    if channels // width > 2 * ceil_div(channels, lanes):
        channels, width = ceil_div(channels, lanes) * lanes, lanes
    packed = pack_depthwise_weights(weights, channels)
    cols = window_cols(conv.out_size[1], conv.kernel[0] * conv.kernel[1], cpu)

    def build(image: Any, weight: Any) -> Any:
        values = te.compute(image.shape, lambda *i: value(image(*i)), name="values")
        return depthwise_packed(values, weight, conv, cols, width)

    return Kernel(f"{label}_depthwise_conv2d", build, ((packed, "float32"),))


def _label(dot: DotInstruction) -> str:
    return "bf16" if dot.data == "uint16" else "int8"


def _operand(weights: np.ndarray, dot: DotInstruction) -> np.ndarray:
    return round_to_bf16(weights) if dot.data == "uint16" else weights.astype(np.int8)


def _offsets(
    columns: np.ndarray, zero_point: int, dot: DotInstruction
) -> tuple[tuple[np.ndarray, str], ...]:
    """What a zero point adds to the sums of each output, as int32 (outputs,)."""
    if dot.data == "uint16":
        return ()
    return ((zero_point * columns.astype(np.int64).sum(axis=0), "int32"),)


def _halves(data: Any) -> Any:
    if str(data.dtype) == "float16":
        return data
    return te.compute(data.shape, lambda *i: tirx.Cast("float16", data(*i)), name="halves")


def _floats(data: Any) -> Any:
    return te.compute(data.shape, lambda *i: tirx.Cast("float32", data(*i)), name="finished")
