"""Which part of an image, and with which padding, computes a part of a convolution's result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import relax

from relay_passes.relax_tensors import op_name, static_shape
from relay_passes.straight_line import Node

_CHANNELS, _ROWS = 1, 2


class UnsplittableError(Exception):
    """Why a convolution has to stay whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a convolution.

    Attributes:
        begin: First row (or channel) of the result.
        end: Behind the last one.
        image: First row (or channel) of the image that it reads, that behind the last, and their
            axis.
        convolution: From that part of the image and the weights to the part of the result.
    """

    begin: int
    end: int
    image: tuple[int, int, int]
    convolution: Callable[[Any, Any], Any]


def convolution_parts(node: Node, axis: int, sizes: Sequence[int]) -> tuple[Part, ...]:
    """The parts of a convolution's result.

    Args:
        node: The main operator of a unit.
        axis: Of the result, in NCHW: channels or rows.
        sizes: Of the parts.

    Raises:
        UnsplittableError: It is no convolution of NCHW images, or the sizes do not fit it.
    """
    call = node.value
    if not isinstance(call, relax.Call) or op_name(call) != "nn.conv2d":
        what = op_name(call) if isinstance(call, relax.Call) else "an item of a tuple"
        raise UnsplittableError(f"it is no convolution but {what}")
    attrs = call.attrs
    if attrs.data_layout != "NCHW" or attrs.kernel_layout != "OIHW":
        raise UnsplittableError(f"it has the layouts {attrs.data_layout} and {attrs.kernel_layout}")
    if attrs.out_layout not in ("", "NCHW"):
        raise UnsplittableError(f"its result has the layout {attrs.out_layout}")
    shape = static_shape(node.var)
    if shape[axis] != sum(sizes):
        name = "rows" if axis == _ROWS else "channels"
        total = " + ".join(map(str, sizes))
        raise UnsplittableError(f"its result has {shape[axis]} {name}, not {total} = {sum(sizes)}")
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    cut = _rows if axis == _ROWS else _channels
    return tuple(cut(call, end - size, end) for end, size in zip(ends, sizes, strict=True))


def _rows(call: Any, begin: int, end: int) -> Part:
    attrs = call.attrs
    image_rows, kernel_rows = static_shape(call.args[0])[2], static_shape(call.args[1])[2]
    if image_rows is None or kernel_rows is None:
        raise UnsplittableError("its shapes are not static")
    top, left, _, right = (int(p) for p in attrs.padding)
    stride, dilation = int(attrs.strides[0]), int(attrs.dilation[0])
    # The rows under the windows of the first and the last row of the part.
    first = begin * stride - top
    last = (end - 1) * stride - top + (kernel_rows - 1) * dilation
    inside = (min(max(first, 0), image_rows), max(min(last + 1, image_rows), 0))
    if inside[0] >= inside[1]:
        raise UnsplittableError(f"rows {begin} to {end} of its result lie in the padding alone")
    padding = [max(-first, 0), left, max(last + 1 - image_rows, 0), right]

    def convolution(image: Any, weight: Any) -> Any:
        return _conv2d(call, image, weight, padding, int(attrs.groups))

    return Part(begin=begin, end=end, image=(*inside, _ROWS), convolution=convolution)


def _channels(call: Any, begin: int, end: int) -> Part:
    attrs = call.attrs
    groups = int(attrs.groups)
    outputs, inputs = static_shape(call.args[1])[:2]
    image_channels = static_shape(call.args[0])[1]
    if outputs is None or inputs is None or image_channels is None:
        raise UnsplittableError("its shapes are not static")
    if groups == 1:
        image = (0, image_channels, _CHANNELS)
        part_groups = 1
    else:
        width = outputs // groups
        if begin % width or end % width:
            raise UnsplittableError(
                f"channels {begin} to {end} would cut one of its {groups} groups of {width}"
            )
        part_groups = (end - begin) // width
        image = (begin // width * inputs, end // width * inputs, _CHANNELS)
    padding = [int(p) for p in attrs.padding]

    def convolution(data: Any, weight: Any) -> Any:
        return _conv2d(call, data, weight, padding, part_groups)

    return Part(begin=begin, end=end, image=image, convolution=convolution)


def _conv2d(call: Any, image: Any, weight: Any, padding: Sequence[int], groups: int) -> Any:
    attrs = call.attrs
    return relax.op.nn.conv2d(
        image,
        weight,
        strides=[int(s) for s in attrs.strides],
        padding=list(padding),
        dilation=[int(d) for d in attrs.dilation],
        groups=groups,
        data_layout=attrs.data_layout,
        kernel_layout=attrs.kernel_layout,
        out_layout=attrs.out_layout,
        out_dtype=attrs.out_dtype,
    )
