"""Tensor expressions of convolutions over NHWC images with weights packed in panels.

A panel holds the weights of one register tile of output channels, laid out in the order in which
the inner loop reads them. The expressions cover whole tiles only; a final cropping block drops the
elements beyond the output.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_iovt.schedules.border import Border
from tvm_iovt.schedules.tiles import Tile, ceil_div
from tvm_iovt.schedules.tvm_api import te, tirx

MAX_PLANES = 4
"""Channels up to which the image that enters a network stays NCHW."""

TEMPLATE_KEY = "tvm_iovt.template"
TILE_KEY = "tvm_iovt.tile"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv2d:
    """Geometry of a two-dimensional convolution.

    Attributes:
        batch: Number of images.
        in_size: Input rows and columns.
        in_channels: Input channels of all groups.
        out_channels: Output channels of all groups.
        kernel: Kernel rows and columns.
        strides: Vertical and horizontal step.
        padding: Top, left, bottom, right; negative numbers crop.
        dilation: Vertical and horizontal distance of kernel elements.
        groups: Independent groups of channels.
    """

    batch: int
    in_size: tuple[int, int]
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int

    @property
    def out_size(self) -> tuple[int, int]:
        """Output rows and columns."""
        rows, cols = (
            (
                self.in_size[i]
                + self.padding[i]
                + self.padding[i + 2]
                - (self.kernel[i] - 1) * self.dilation[i]
                - 1
            )
            // self.strides[i]
            + 1
            for i in (0, 1)
        )
        return rows, cols

    @property
    def is_depthwise(self) -> bool:
        """Whether every group has one input and one output channel."""
        return self.groups == self.in_channels == self.out_channels and self.groups > 1

    def extent_read(self, rows: int, cols: int) -> tuple[int, int]:
        """Rows and columns of (padded) input under `rows x cols` outputs."""
        height, width = (
            (n - 1) * self.strides[i] + (self.kernel[i] - 1) * self.dilation[i] + 1
            for i, n in enumerate((rows, cols))
        )
        return height, width


def border_of(conv: Conv2d, rows: int, cols: int) -> Border:
    """The zeros that an image needs around it under `rows x cols` outputs."""
    height, width = conv.extent_read(rows, cols)
    top, left = conv.padding[:2]
    return Border(
        top=top,
        left=left,
        bottom=max(0, height - top - conv.in_size[0]),
        right=max(0, width - left - conv.in_size[1]),
    )


def without_padding(conv: Conv2d, border: Border) -> Conv2d:
    """The same convolution over an image that has its border of zeros already.

    What the border has beyond the padding is cropped: the outputs stay the same.
    """
    rows, cols = conv.in_size
    _, _, bottom, right = conv.padding
    return dataclasses.replace(
        conv,
        in_size=(rows + border.top + border.bottom, cols + border.left + border.right),
        padding=(0, 0, bottom - border.bottom, right - border.right),
    )


def pack_weights(weights: np.ndarray, groups: int, panel: int) -> np.ndarray:
    """OIHW weights (O, C/groups, KH, KW) as panels (P, KH, KW, C/groups, panel).

    The output channels of each group are padded with zeros to whole panels.
    """
    out_channels, in_channels, rows, cols = weights.shape
    per_group = out_channels // groups
    panels = ceil_div(per_group, panel)
    padded = np.zeros((groups, panels * panel, in_channels, rows, cols), weights.dtype)
    padded[:, :per_group] = weights.reshape(groups, per_group, in_channels, rows, cols)
    packed = padded.reshape(groups * panels, panel, in_channels, rows, cols)
    return np.ascontiguousarray(packed.transpose(0, 3, 4, 2, 1))


def pack_depthwise_weights(weights: np.ndarray, channels: int) -> np.ndarray:
    """OIHW weights (C, 1, KH, KW) as (KH, KW, channels), zeros beyond C."""
    count, _, rows, cols = weights.shape
    padded = np.zeros((rows, cols, channels), weights.dtype)
    padded[:, :, :count] = weights[:, 0].transpose(1, 2, 0)
    return padded


def inside_image(conv: Conv2d, h: Any, w: Any, height: int, width: int) -> list[Any]:
    """Conditions for pixel (h, w) of `height x width` padded ones to lie in the image itself."""
    (rows, cols), (top, left) = conv.in_size, conv.padding[:2]
    conditions = []
    if top:
        conditions.append(h >= top)
    if height > rows + top:
        conditions.append(h < rows + top)
    if left:
        conditions.append(w >= left)
    if width > cols + left:
        conditions.append(w < cols + left)
    return conditions


def padded_image(
    data: Any,
    conv: Conv2d,
    rows: int,
    cols: int,
    channels: int,
    *,
    channels_first: bool,
    planar: bool = False,
) -> Any:
    """The zero-padded NHWC image under `rows x cols` outputs, or `data` if that is it already.

    With `planar` an NCHW image stays NCHW. Grouped convolutions get
    (batch, groups, H, W, C / groups) where padding is needed.
    """
    height, width = conv.extent_read(rows, cols)
    in_rows, in_cols = conv.in_size
    top, left = conv.padding[0], conv.padding[1]
    fits = top == left == 0 and height <= in_rows and width <= in_cols
    if fits and channels == conv.in_channels and channels_first == planar:
        return data
    zero = tirx.const(0, data.dtype)

    def element(n: Any, h: Any, w: Any, c: Any) -> Any:
        value = data(n, c, h - top, w - left) if channels_first else data(n, h - top, w - left, c)
        inside = inside_image(conv, h, w, height, width)
        if channels != conv.in_channels:
            inside.append(c < conv.in_channels)
        return tirx.if_then_else(tirx.all(*inside), value, zero) if inside else value

    if planar:
        return te.compute(
            (conv.batch, channels, height, width),
            lambda n, c, h, w: element(n, h, w, c),
            name="padded",
        )
    if conv.groups == 1 or conv.is_depthwise:
        return te.compute((conv.batch, height, width, channels), element, name="padded")
    # The channels of a group lie together: pixels a power of two apart would share cache sets.
    per_group = channels // conv.groups
    return te.compute(
        (conv.batch, conv.groups, height, width, per_group),
        lambda n, g, h, w, c: element(n, h, w, g * per_group + c),
        name="padded",
    )


def conv2d_packed(
    data: Any, weight: Any, conv: Conv2d, tile: Tile, *, channels_first: bool = False
) -> Any:
    """Convolution as (batch, Ho, Wo, O).

    Args:
        data: (batch, H, W, C), or (batch, C, H, W) with `channels_first`.
        weight: Panels from `pack_weights`.
        conv: The geometry.
        tile: The register tile; `tile.channels` is the width of a panel.
        channels_first: The image is NCHW; its padded copy becomes NHWC.
    """
    out_rows, out_cols = conv.out_size
    rows = ceil_div(out_rows, tile.rows) * tile.rows
    cols = ceil_div(out_cols, tile.cols) * tile.cols
    panel = tile.channels
    per_group_in = conv.in_channels // conv.groups
    per_group_out = conv.out_channels // conv.groups
    panels = ceil_div(per_group_out, panel)
    # Each element of the image is broadcast, so that its layout does not matter to the inner loop;
    # a few planes are padded faster than pixels of a few channels.
    planar = channels_first and conv.groups == 1 and conv.in_channels <= MAX_PLANES
    image = padded_image(
        data,
        conv,
        rows,
        cols,
        conv.in_channels,
        channels_first=channels_first,
        planar=planar,
    )
    kh = te.reduce_axis((0, conv.kernel[0]), "kh")
    kw = te.reduce_axis((0, conv.kernel[1]), "kw")
    ic = te.reduce_axis((0, per_group_in), "ic")

    def element(n: Any, h: Any, w: Any, o: Any) -> Any:
        row = h * conv.strides[0] + kh * conv.dilation[0]
        col = w * conv.strides[1] + kw * conv.dilation[1]
        if planar:
            pixel = image(n, ic, row, col)
        elif conv.groups == 1:
            pixel = image(n, row, col, ic)
        elif len(image.shape) == 5:
            pixel = image(n, o // (panels * panel), row, col, ic)
        else:
            pixel = image(n, row, col, o // (panels * panel) * per_group_in + ic)
        return te.sum(pixel * weight(o // panel, kh, kw, ic, o % panel), axis=[kh, kw, ic])

    shape = (conv.batch, rows, cols, conv.groups * panels * panel)
    attrs = {
        TEMPLATE_KEY: "contraction",
        TILE_KEY: [tile.rows, tile.cols, tile.vectors, tile.lanes],
    }
    out = te.compute(shape, element, name="conv2d", attrs=attrs)
    if shape == (conv.batch, out_rows, out_cols, conv.out_channels):
        return out
    if conv.groups == 1 or panels * panel == per_group_out:
        return te.compute(
            (conv.batch, out_rows, out_cols, conv.out_channels),
            lambda n, h, w, o: out(n, h, w, o),
            name="cropped",
        )
    return te.compute(
        (conv.batch, out_rows, out_cols, conv.out_channels),
        lambda n, h, w, o: out(n, h, w, o // per_group_out * (panels * panel) + o % per_group_out),
        name="cropped",
    )


def depthwise_packed(
    data: Any,
    weight: Any,
    conv: Conv2d,
    cols: int,
    lanes: int,
    *,
    channels_first: bool = False,
) -> Any:
    """Depthwise convolution as (batch, Ho, Wo, C).

    Args:
        data: (batch, H, W, C), or (batch, C, H, W) with `channels_first`.
        weight: (KH, KW, channels) from `pack_depthwise_weights`, `channels` a multiple of `lanes`.
        conv: The geometry.
        cols: Output columns computed at a time.
        lanes: Channels computed at a time.
        channels_first: The image is NCHW; its padded copy becomes NHWC.
    """
    out_rows, out_cols = conv.out_size
    channels = int(weight.shape[2])
    covered = ceil_div(out_cols, cols) * cols
    image = padded_image(data, conv, out_rows, covered, channels, channels_first=channels_first)
    kh = te.reduce_axis((0, conv.kernel[0]), "kh")
    kw = te.reduce_axis((0, conv.kernel[1]), "kw")

    def element(n: Any, h: Any, w: Any, c: Any) -> Any:
        pixel = image(
            n,
            h * conv.strides[0] + kh * conv.dilation[0],
            w * conv.strides[1] + kw * conv.dilation[1],
            c,
        )
        return te.sum(pixel * weight(kh, kw, c), axis=[kh, kw])

    attrs = {TEMPLATE_KEY: "window", TILE_KEY: [1, cols, 1, lanes]}
    shape = (conv.batch, out_rows, covered, channels)
    out = te.compute(shape, element, name="depthwise_conv2d", attrs=attrs)
    if shape == (conv.batch, out_rows, out_cols, conv.out_channels):
        return out
    return te.compute(
        (conv.batch, out_rows, out_cols, conv.out_channels),
        lambda n, h, w, c: out(n, h, w, c),
        name="cropped",
    )


def pack_matrix(data: Any, tile: Tile) -> Any:
    """Panels (..., P, K, tile.channels) of a matrix (..., K, N) that is known at run time only."""
    *lead, depth, features = (int(extent) for extent in data.shape)
    panel = tile.channels
    zero = tirx.const(0, data.dtype)

    def element(*i: Any) -> Any:
        *batch, p, k, lane = i
        column = p * panel + lane
        value = data(*batch, k, column)
        return value if features % panel == 0 else tirx.if_then_else(column < features, value, zero)

    return te.compute((*lead, ceil_div(features, panel), depth, panel), element, name="panels")


def matmul_packed(data: Any, weight: Any, out_features: int, tile: Tile) -> Any:
    """Matrix product (..., K) x packed (K, N) as (..., N).

    Args:
        data: Activations of any rank >= 1; the leading axes are rows.
        weight: (panels, K, tile.channels), or with the leading axes of `data` but the last.
        out_features: N.
        tile: The register tile; it covers `tile.cols` rows of the last leading axis.
    """
    lead = [int(extent) for extent in data.shape[:-1]]
    depth = int(data.shape[-1])
    panel = tile.channels
    padded = ceil_div(out_features, panel) * panel
    covered = [*lead[:-1], ceil_div(lead[-1], tile.cols) * tile.cols] if lead else []
    source = data
    if covered != lead:
        zero = tirx.const(0, data.dtype)
        source = te.compute(
            (*covered, depth),
            lambda *i: tirx.if_then_else(i[len(lead) - 1] < lead[-1], data(*i), zero),
            name="padded",
        )
    k = te.reduce_axis((0, depth), "k")
    batch = len(weight.shape) - 3
    attrs = {TEMPLATE_KEY: "contraction", TILE_KEY: [1, tile.cols, tile.vectors, tile.lanes]}
    out = te.compute(
        (*covered, padded),
        lambda *i: te.sum(
            source(*i[:-1], k) * weight(*i[:batch], i[-1] // panel, k, i[-1] % panel), axis=[k]
        ),
        name="matmul",
        attrs=attrs,
    )
    if (*covered, padded) == (*lead, out_features):
        return out
    return te.compute((*lead, out_features), lambda *i: out(*i), name="cropped")
