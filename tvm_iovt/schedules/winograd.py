"""Tensor expressions of Winograd convolution over NHWC images with weights packed in panels.

The output is covered by tiles; a band of tile rows is the unit that the template keeps in cache:

    padded image -> rows transformed -> V -> M = V x U, one product a position -> rows of the result
    -> canvas (whole tiles) -> cropped to the output

All intermediate tensors have whole tiles, panels and bands only, so that the template can place
them by exact regions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_iovt.schedules.convolution import TEMPLATE_KEY, Conv2d, padded_image
from tvm_iovt.schedules.tiles import Tile, ceil_div
from tvm_iovt.schedules.tvm_api import te, tirx
from tvm_iovt.schedules.winograd_transform import (
    Axis,
    Rows,
    axis,
    combinations,
    transform_weights,
)

WINOGRAD_KEY = "tvm_iovt.winograd"


@dataclass(frozen=True, slots=True, kw_only=True)
class WinogradPlan:
    """How a convolution is cut into Winograd tiles.

    Attributes:
        outputs: Rows and columns of outputs of one tile.
        tiles: Rows and columns of tiles; they cover the output, possibly with a margin.
        band_rows: Tile rows of one band; divides `tiles[0]`.
        tile: Register tile of the products: `cols` tiles by `channels` output channels.
        whole_input: The transformed input of the whole image is made first; otherwise band by
            band, by the thread that uses it.
    """

    outputs: tuple[int, int]
    tiles: tuple[int, int]
    band_rows: int
    tile: Tile
    whole_input: bool

    @property
    def canvas(self) -> tuple[int, int]:
        """Rows and columns of output that the tiles cover."""
        return self.tiles[0] * self.outputs[0], self.tiles[1] * self.outputs[1]

    @property
    def band_tiles(self) -> int:
        """Tiles of one band."""
        return self.band_rows * self.tiles[1]


def axes_of(conv: Conv2d, plan: WinogradPlan) -> tuple[Axis, Axis]:
    """The transforms along rows and columns."""
    rows, cols = (axis(plan.outputs[i], conv.kernel[i], conv.strides[i]) for i in (0, 1))
    return rows, cols


def pack_winograd_weights(weights: np.ndarray, conv: Conv2d, plan: WinogradPlan) -> np.ndarray:
    """OIHW weights as panels (O / panel, products, products, C, panel), computed in float64.

    A thread that works on one panel reads it from front to back. The output channels are padded
    with zeros to whole panels.
    """
    rows, cols = axes_of(conv, plan)
    transformed = transform_weights(weights, rows, cols)
    out_channels, in_channels = weights.shape[:2]
    panel = plan.tile.channels
    panels = ceil_div(out_channels, panel)
    padded = np.zeros((panels * panel, in_channels, rows.products, cols.products), np.float32)
    padded[:out_channels] = transformed
    packed = padded.reshape(panels, panel, in_channels, rows.products, cols.products)
    return np.ascontiguousarray(packed.transpose(0, 3, 4, 2, 1))


def _chosen(index: Any, rows: Rows, values: list[Any]) -> Any:
    """The product of row `index` with the values; unrolling leaves the one expression."""
    expressions = combinations(rows, values, lambda x: tirx.const(x, "float32"))
    result = expressions[-1]
    for i in reversed(range(len(expressions) - 1)):
        result = tirx.Select(index == i, expressions[i], result)
    return result


def conv2d_winograd(
    data: Any, weight: Any, conv: Conv2d, plan: WinogradPlan, *, channels_first: bool = False
) -> Any:
    """Convolution with dilation 1 and one group as (batch, Ho, Wo, O).

    Args:
        data: (batch, H, W, C), or (batch, C, H, W) with `channels_first`.
        weight: From `pack_winograd_weights`.
        conv: The geometry.
        plan: The tiles.
        channels_first: The image is NCHW; its padded copy becomes NHWC.
    """
    rows, cols = axes_of(conv, plan)
    out_rows, out_cols = conv.out_size
    tile_rows, tile_cols = plan.tiles
    bands = tile_rows // plan.band_rows
    m_rows, m_cols = plan.outputs
    panel = plan.tile.channels
    channels = int(weight.shape[0]) * panel
    canvas = plan.canvas
    image = padded_image(data, conv, *canvas, conv.in_channels, channels_first=channels_first)
    count = plan.band_tiles

    def half_transformed(b: Any, p: Any, e: Any, s: Any, c: Any) -> Any:
        row = ((b % bands) * plan.band_rows + p // tile_cols) * m_rows * conv.strides[0]
        col = (p % tile_cols) * m_cols * conv.strides[1] + s
        values = [image(b // bands, row + r, col, c) for r in range(rows.inputs)]
        return _chosen(e, rows.data, values)

    half = te.compute(
        (conv.batch * bands, count, rows.products, cols.inputs, conv.in_channels),
        half_transformed,
        name="half_transformed",
    )
    transformed = te.compute(
        (conv.batch * bands, rows.products, cols.products, count, conv.in_channels),
        lambda b, e, f, p, c: _chosen(
            f, cols.data, [half(b, p, e, s, c) for s in range(cols.inputs)]
        ),
        name="transformed",
    )
    k = te.reduce_axis((0, conv.in_channels), "k")
    products = te.compute(
        (conv.batch * bands, rows.products, cols.products, count, channels),
        lambda b, e, f, p, o: te.sum(
            transformed(b, e, f, p, k) * weight(o // panel, e, f, k, o % panel), axis=[k]
        ),
        name="products",
    )
    half_result = te.compute(
        (conv.batch * bands, count, m_rows, cols.products, channels),
        lambda b, p, x, f, o: _chosen(
            x, rows.result, [products(b, e, f, p, o) for e in range(rows.products)]
        ),
        name="half_result",
    )
    tile = plan.tile
    attrs = {
        TEMPLATE_KEY: "winograd",
        WINOGRAD_KEY: [
            m_rows,
            m_cols,
            plan.band_rows,
            tile_cols,
            int(plan.whole_input),
            tile.cols,
            tile.vectors,
            tile.lanes,
        ],
    }

    def element(n: Any, h: Any, w: Any, o: Any) -> Any:
        tile_row = h // m_rows
        b = n * bands + tile_row // plan.band_rows
        p = tile_row % plan.band_rows * tile_cols + w // m_cols
        values = [half_result(b, p, h % m_rows, f, o) for f in range(cols.products)]
        return _chosen(w % m_cols, cols.result, values)

    out = te.compute((conv.batch, *canvas, channels), element, name="winograd", attrs=attrs)
    if (*canvas, channels) == (out_rows, out_cols, conv.out_channels):
        return out
    return te.compute(
        (conv.batch, out_rows, out_cols, conv.out_channels),
        lambda n, h, w, o: out(n, h, w, o),
        name="cropped",
    )
