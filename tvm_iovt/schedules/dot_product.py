"""Convolutions and matrix products expressed with dot-product instructions.

With the activations of one pixel broadcast to all lanes and one output channel per lane, a dot
product takes the place of the multiply-add of a float32 kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tvm_iovt.schedules.convolution import Conv2d, inside_image, pack_weights
from tvm_iovt.schedules.dot_instructions import DotInstruction, narrow, widen
from tvm_iovt.schedules.tiles import Tile, ceil_div
from tvm_iovt.schedules.tvm_api import te, tirx

DOT_KEY = "tvm_iovt.dot_product"
"""Block annotation: the name of the instruction to compute the block with."""

DOT_TILE_KEY = "tvm_iovt.dot_tile"
"""Block annotation: rows, columns, vectors and lanes of the register tile."""


def pack_dot_weights(weights: np.ndarray, groups: int, panel: int, group: int) -> np.ndarray:
    """OIHW weights (O, C/groups, KH, KW) as panels (P, KH, KW, ceil(C/groups/group), panel, group).

    The input channels are padded with zeros to whole runs of `group`, the output channels of each
    group of the convolution to whole panels.
    """
    panels = pack_weights(weights, groups, panel)
    *outer, channels, _ = panels.shape
    padded = np.zeros((*outer, ceil_div(channels, group) * group, panel), weights.dtype)
    padded[..., :channels, :] = panels
    runs = padded.reshape(*outer, ceil_div(channels, group), group, panel)
    return np.ascontiguousarray(np.swapaxes(runs, -1, -2))


def _product(dot: DotInstruction, a: Any, b: Any) -> Any:
    if dot.data == "uint16":
        return widen(a) * widen(b)
    return tirx.Cast("int32", a) * tirx.Cast("int32", b)


def convert(dot: DotInstruction, x: Any, dtype: str) -> Any:
    """A TIR number of type `dtype`, as one of type `dot.data`.

    float32 numbers are rounded to bfloat16. 8-bit integers of the other signedness are moved by
    128: `x + 128` for an unsigned operand, `x - 128` for a signed one.
    """
    if dtype == dot.data:
        return x
    if dot.data == "uint16":
        return narrow(x)
    return tirx.Cast(dot.data, x) ^ tirx.const(128 if dot.data == "uint8" else -128, dot.data)


def _image(
    data: Any,
    conv: Conv2d,
    dot: DotInstruction,
    size: tuple[int, int],
    padding: int,
    *,
    channels_first: bool,
) -> Any:
    """The padded NHWC image of type `dot.data` that `size` outputs read, or `data` if that is it.

    Grouped convolutions get (batch, groups, H, W, C / groups) where a copy is needed. The channels
    of each group are padded to whole runs.
    """
    height, width = conv.extent_read(*size)
    in_rows, in_cols = conv.in_size
    top, left = conv.padding[0], conv.padding[1]
    per_group = conv.in_channels // conv.groups
    padded_group = ceil_div(per_group, dot.group) * dot.group
    fits = top == left == 0 and height <= in_rows and width <= in_cols
    same = str(data.dtype) == dot.data and per_group == padded_group and not channels_first
    if fits and same:
        return data

    def element(n: Any, g: Any, h: Any, w: Any, c: Any) -> Any:
        channel = c if conv.groups == 1 else g * per_group + c
        row, col = h - top, w - left
        value = data(n, channel, row, col) if channels_first else data(n, row, col, channel)
        inside = inside_image(conv, h, w, height, width)
        if padded_group != per_group:
            inside.append(c < per_group)
        if not inside:
            return convert(dot, value, str(data.dtype))
        zero = tirx.const(padding, dot.data)
        return tirx.if_then_else(tirx.all(*inside), convert(dot, value, str(data.dtype)), zero)

    if conv.groups == 1:
        return te.compute(
            (conv.batch, height, width, padded_group),
            lambda n, h, w, c: element(n, 0, h, w, c),
            name="padded",
        )
    return te.compute(
        (conv.batch, conv.groups, height, width, padded_group), element, name="padded"
    )


def _attributes(dot: DotInstruction, tile: Tile) -> dict[str, Any]:
    return {
        DOT_KEY: dot.name,
        DOT_TILE_KEY: [tile.rows, tile.cols, tile.vectors, tile.lanes],
    }


def conv2d_dot(
    data: Any,
    weight: Any,
    conv: Conv2d,
    tile: Tile,
    dot: DotInstruction,
    *,
    padding: int = 0,
    channels_first: bool = False,
    offsets: Any = None,
) -> Any:
    """Convolution with a dot-product instruction, as float32 (batch, Ho, Wo, O).

    Args:
        data: (batch, H, W, C), or (batch, C, H, W) with `channels_first`; of a type that
            `convert` takes.
        weight: Panels from `pack_dot_weights`, of type `dot.weight`.
        conv: The geometry.
        tile: The register tile; `tile.channels` is the width of a panel.
        dot: The instruction.
        padding: What the image is padded with, in the numbers of `dot.data`.
        channels_first: The image is NCHW; its padded copy becomes NHWC.
        offsets: (O,) int32, subtracted from the sums of integers before they become float32.
    """
    out_rows, out_cols = conv.out_size
    rows = ceil_div(out_rows, tile.rows) * tile.rows
    cols = ceil_div(out_cols, tile.cols) * tile.cols
    panel, run = tile.channels, dot.group
    per_group_in = conv.in_channels // conv.groups
    per_group_out = conv.out_channels // conv.groups
    covered = ceil_div(per_group_out, panel) * panel
    image = _image(data, conv, dot, (rows, cols), padding, channels_first=channels_first)
    kh = te.reduce_axis((0, conv.kernel[0]), "kh")
    kw = te.reduce_axis((0, conv.kernel[1]), "kw")
    k = te.reduce_axis((0, ceil_div(per_group_in, run)), "k")
    j = te.reduce_axis((0, run), "j")

    def element(n: Any, h: Any, w: Any, o: Any) -> Any:
        row = h * conv.strides[0] + kh * conv.dilation[0]
        col = w * conv.strides[1] + kw * conv.dilation[1]
        if conv.groups == 1:
            pixel = image(n, row, col, k * run + j)
        elif len(image.shape) == 5:
            pixel = image(n, o // covered, row, col, k * run + j)
        else:
            pixel = image(n, row, col, o // covered * per_group_in + k * run + j)
        product = _product(dot, pixel, weight(o // panel, kh, kw, k, o % panel, j))
        return te.sum(product, axis=[kh, kw, k, j])

    out = te.compute(
        (conv.batch, rows, cols, conv.groups * covered),
        element,
        name="conv2d",
        attrs=_attributes(dot, tile),
    )

    def finished(n: Any, h: Any, w: Any, o: Any) -> Any:
        whole = conv.groups == 1 or covered == per_group_out
        sums = out(n, h, w, o if whole else o // per_group_out * covered + o % per_group_out)
        return sums if offsets is None else tirx.Cast("float32", sums - offsets(o))

    shape = (conv.batch, out_rows, out_cols, conv.out_channels)
    if offsets is None and shape == (conv.batch, rows, cols, conv.groups * covered):
        return out
    return te.compute(shape, finished, name="finished")


def matmul_dot(
    data: Any,
    weight: Any,
    out_features: int,
    tile: Tile,
    dot: DotInstruction,
    *,
    offsets: Any = None,
) -> Any:
    """Matrix product (..., K) x packed (K, N) with a dot-product instruction, as float32 (..., N).

    Args:
        data: Activations of rank >= 2; the leading axes are rows. Of a type that `convert` takes.
        weight: (panels, ceil(K / dot.group), tile.channels, dot.group).
        out_features: N.
        tile: The register tile; it covers `tile.cols` rows of the last leading axis.
        dot: The instruction.
        offsets: (N,) int32, subtracted from the sums of integers before they become float32.
    """
    lead = [int(extent) for extent in data.shape[:-1]]
    depth, run, panel = int(data.shape[-1]), dot.group, tile.channels
    runs = ceil_div(depth, run)
    padded = ceil_div(out_features, panel) * panel
    covered = [*lead[:-1], ceil_div(lead[-1], tile.cols) * tile.cols]
    source = data
    if covered != lead or runs * run != depth or str(data.dtype) != dot.data:

        def element(*i: Any) -> Any:
            inside = []
            if covered != lead:
                inside.append(i[len(lead) - 1] < lead[-1])
            if runs * run != depth:
                inside.append(i[-1] < depth)
            value = convert(dot, data(*i), str(data.dtype))
            if not inside:
                return value
            return tirx.if_then_else(tirx.all(*inside), value, tirx.const(0, dot.data))

        source = te.compute((*covered, runs * run), element, name="padded")
    k = te.reduce_axis((0, runs), "k")
    j = te.reduce_axis((0, run), "j")

    def sums(*i: Any) -> Any:
        activation = source(*i[:-1], k * run + j)
        product = _product(dot, activation, weight(i[-1] // panel, k, i[-1] % panel, j))
        return te.sum(product, axis=[k, j])

    out = te.compute((*covered, padded), sums, name="matmul", attrs=_attributes(dot, tile))
    if offsets is None and (*covered, padded) == (*lead, out_features):
        return out

    def finished(*i: Any) -> Any:
        return out(*i) if offsets is None else tirx.Cast("float32", out(*i) - offsets(i[-1]))

    return te.compute((*lead, out_features), finished, name="finished")
