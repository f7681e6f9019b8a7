"""Which kernel computes which layer of the ONNX graph."""

from __future__ import annotations

import math
from collections.abc import Sequence

from layer_times.kernels import Call
from layer_times.onnx_layers import Layer

_KINDS = ("conv", "matmul", "dense")
_MOST_PADDING = 1.5
"""Packed weights may be filled up to whole panels."""
_MOST_BORDER = 12
"""Rows and columns of padding, and those that fill up the last tile."""


def match(calls: Sequence[Call], layers: Sequence[Layer]) -> dict[int, int]:
    """Index of the layer for each index of a call that computes one.

    Shapes decide, and order among equals. A kernel reads the layer's input first, in whatever
    layout, and then weights of the layer's size. Transformed weights
    (Winograd) have another size; then it must write the layer's output, which a kernel with more
    operators fused in need not do. Images may have a border, which the next kernel needs.
    """
    found: dict[int, int] = {}
    free = list(range(len(layers)))
    for index, call in enumerate(calls):
        if not call.is_kernel or not any(kind in call.name for kind in _KINDS):
            continue
        misfits = {
            number: misfit
            for number in free
            if (misfit := _misfit(call, layers[number])) is not None
        }
        if misfits:
            found[index] = min(misfits, key=misfits.__getitem__)
            free.remove(found[index])
    return found


def _misfit(call: Call, layer: Layer) -> int | None:
    """The smaller the better; None if the kernel cannot be the layer's."""
    border = _border(call.shapes[0], layer.input_shape)
    if border is None:
        return None
    ratios = [math.prod(shape) / max(1, layer.weights) for shape in call.shapes[1:-1]]
    # Sub-pixels of a transposed convolution may still lie in the channels.
    writes_it = math.prod(call.output) == math.prod(layer.output_shape) or (
        _border(call.output, layer.output_shape) is not None
    )
    if 1.0 in ratios:
        kind = 0 if writes_it else 1
    elif any(1 < ratio < _MOST_PADDING for ratio in ratios):
        kind = 1
    elif writes_it:
        kind = 2
    else:
        return None
    return kind + 3 * border


def _border(shape: Sequence[int], wanted: Sequence[int]) -> int | None:
    """0 for the same sizes, 1 with a border around the image, None otherwise."""
    grown = [has - size for has, size in zip(_sizes(shape), _sizes(wanted), strict=False)]
    if len(_sizes(shape)) != len(_sizes(wanted)) or min(grown, default=0) < 0:
        return None
    if not any(grown):
        return 0
    return 1 if max(grown) <= _MOST_BORDER and 0 in grown else None


def _sizes(shape: Sequence[int]) -> list[int]:
    """The dimensions without their order and without ones, which no layout changes."""
    return sorted(size for size in shape if size != 1)
