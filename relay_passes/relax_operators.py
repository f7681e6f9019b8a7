"""What each Relax operator means as a linear operator, or why it is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from relay_passes.relax_constants import finite
from relay_passes.relax_tensors import op_name, rank, same_shape, static_shape
from relay_passes.rewriter import is_call
from tvm_iovt.fusion import convolution as algebra
from tvm_iovt.fusion.convolution import Convolution, InexactError, Pair
from tvm_iovt.fusion.linear_graph import Blocked, LinearOperator

if TYPE_CHECKING:
    from relay_passes.relax_graph import RelaxGraph


def _conv2d(graph: RelaxGraph, value: Any, call: Any) -> LinearOperator | Blocked:
    attrs = call.attrs
    if attrs.data_layout != graph.layout or attrs.out_layout not in ("", graph.layout):
        return graph.blocked(call, f"conv2d has the layout {attrs.data_layout}")
    if sorted(attrs.kernel_layout) != sorted("OIHW"):
        return graph.blocked(call, f"conv2d has the kernel layout {attrs.kernel_layout}")
    found = graph.weight(value, call)
    if isinstance(found, Blocked):
        return found
    kernel, weight = found

    def convolution() -> Convolution:
        order = [attrs.kernel_layout.index(axis) for axis in "OIHW"]
        values = finite(kernel).transpose(order)
        return Convolution(
            kernel=values,
            bias=np.zeros((values.shape[0], 1, 1)),
            strides=_pair(attrs.strides),
            padding=_four(attrs.padding),
            dilation=_pair(attrs.dilation),
            groups=int(attrs.groups),
        )

    return graph.linear("conv2d", value, call, convolution, weight)


def _conv2d_transpose(graph: RelaxGraph, value: Any, call: Any) -> LinearOperator | Blocked:
    if call.attrs.data_layout != graph.layout:
        return graph.blocked(call, f"conv2d_transpose has the layout {call.attrs.data_layout}")
    if sorted(call.attrs.kernel_layout) != sorted("IOHW"):
        return graph.blocked(call, f"the kernel layout is {call.attrs.kernel_layout}")
    found = graph.weight(value, call)
    if isinstance(found, Blocked):
        return found
    kernel, weight = found

    def convolution() -> Convolution:
        finite(kernel)
        raise InexactError("a transposed convolution cannot be merged with another")

    return graph.linear("conv2d_transpose", value, call, convolution, weight)


def _matmul(graph: RelaxGraph, value: Any, call: Any) -> LinearOperator | Blocked:
    if rank(call.args[0]) != 2 or rank(call.args[1]) != 2:
        return graph.blocked(call, "matmul of more than two axes lies between")
    found = graph.weight(value, call)
    if isinstance(found, Blocked):
        return found
    matrix, weight = found

    def convolution() -> Convolution:
        values = finite(matrix).T[:, :, np.newaxis, np.newaxis]
        return Convolution(kernel=values, bias=np.zeros((values.shape[0], 1, 1)))

    return graph.linear("dense", value, call, convolution, weight)


def read_batch_norm(graph: RelaxGraph, value: Any, item: Any) -> LinearOperator | Blocked:
    """The first item of a batch norm's tuple."""
    call = graph.bound(item.tuple_value)
    if not is_call(call, "relax.nn.batch_norm") or int(item.index) != 0:
        return Blocked(reason="a tuple lies between")
    axes = rank(call.args[0])
    if axes not in (2, 4):
        return graph.blocked(call, f"the batch norm has {axes} axes", "batch_norm")
    attrs = call.attrs
    axis = int(attrs.axis) % axes
    if axis != graph.channel_axis(axes):
        return graph.blocked(call, f"the batch norm normalises axis {axis}", "batch_norm")
    if bool(attrs.training):
        return graph.blocked(call, "the batch norm is in training mode", "batch_norm")
    parameters = [graph.constant(argument) for argument in call.args[1:5]]
    if any(parameter is None for parameter in parameters):
        return graph.blocked(call, "the batch norm's parameters are not constants", "batch_norm")

    def convolution() -> Convolution:
        gamma, beta, mean, variance = (np.asarray(p, np.float64) for p in parameters)
        if not attrs.scale:
            gamma = np.ones_like(gamma)
        if not attrs.center:
            beta = np.zeros_like(beta)
        return algebra.batch_norm(gamma, beta, mean, variance, _epsilon(attrs))

    return graph.linear("batch_norm", value, call, convolution)


def _affine(graph: RelaxGraph, value: Any, call: Any) -> LinearOperator | Blocked:
    """add, subtract, multiply and divide with a constant."""
    left, right = (graph.constant(argument) for argument in call.args)
    op = call.op.name.removeprefix("relax.")
    if left is None and right is None:
        two = "a sum" if op in ("add", "subtract") else f"{op} of two tensors"
        return graph.blocked(call, f"{two} lies between")
    if left is not None and right is not None:
        return Blocked(reason="it is a constant")
    constant = left if right is None else right
    operand = call.args[1] if right is None else call.args[0]
    reversed_ = right is None
    if op == "divide" and reversed_:
        return graph.blocked(call, "a constant divided by a tensor lies between")
    if not same_shape(operand, value):
        return graph.blocked(call, f"{op_name(call)} broadcasts the image")
    per_channel = graph.per_channel(constant, value)
    if per_channel is None:
        return graph.blocked(call, f"{op_name(call)} has a constant for each pixel")
    if op in ("multiply", "divide") and per_channel.shape[1:] != (1, 1):
        return graph.blocked(call, f"{op_name(call)} has a constant for each pixel")

    def convolution() -> Convolution:
        values = finite(per_channel)
        channels = values.shape[0]
        if op in ("multiply", "divide"):
            with np.errstate(divide="ignore"):
                factor = values if op == "multiply" else 1 / values
            return algebra.scale(finite(factor), np.zeros(channels))
        sign = -1.0 if op == "subtract" and reversed_ else 1.0
        shift = -values if op == "subtract" and not reversed_ else values
        unshifted = algebra.scale(np.full(channels, sign), np.zeros(channels))
        return Convolution(kernel=unshifted.kernel, bias=shift, groups=channels)

    kind = "shift" if op == "add" or (op == "subtract" and not reversed_) else "scale"
    return graph.linear(kind, value, call, convolution, operand=operand)


def _negative(graph: RelaxGraph, value: Any, call: Any) -> LinearOperator | Blocked:
    channels = graph.channels(value)
    if channels is None:
        return graph.blocked(call, "the number of channels is not static")
    return graph.linear(
        "scale", value, call, lambda: algebra.scale(np.full(channels, -1.0), np.zeros(channels))
    )


def _avg_pool2d(graph: RelaxGraph, value: Any, call: Any) -> LinearOperator | Blocked:
    attrs = call.attrs
    channels = graph.channels(value)
    if attrs.layout != graph.layout or channels is None:
        return graph.blocked(call, f"avg_pool2d has the layout {attrs.layout}")
    padding, size, strides = _four(attrs.padding), _pair(attrs.pool_size), _pair(attrs.strides)
    if any(padding) and not attrs.count_include_pad:
        return graph.blocked(
            call, "avg_pool2d leaves its padding out of the average (count_include_pad)"
        )
    if _pair(attrs.dilation) != (1, 1):
        return graph.blocked(call, "avg_pool2d is dilated")
    pool = algebra.average_pool(channels, size, strides, padding)
    image = graph.image_hw(call.args[0])
    if attrs.ceil_mode and (image is None or pool.result_hw(image) != graph.image_hw(value)):
        return graph.blocked(call, "avg_pool2d has incomplete windows (ceil_mode)")
    return graph.linear("avg_pool2d", value, call, lambda: pool)


def _pad(graph: RelaxGraph, value: Any, call: Any) -> LinearOperator | Blocked:
    attrs = call.attrs
    if rank(value) != 4:
        return graph.blocked(call, "nn.pad of a vector lies between")
    widths = [int(w) for w in attrs.pad_width]
    axes = {axis: (widths[2 * i], widths[2 * i + 1]) for i, axis in enumerate(graph.layout)}
    if axes["N"] != (0, 0) or axes["C"] != (0, 0):
        return graph.blocked(call, "nn.pad of batch or channels lies between")
    if attrs.pad_mode != "constant" or float(attrs.pad_value) != 0:
        return graph.blocked(call, "nn.pad with other values than zero lies between")
    channels = graph.channels(value)
    if channels is None:
        return graph.blocked(call, "the number of channels is not static")
    (top, bottom), (left, right) = axes["H"], axes["W"]
    padding = (top, left, bottom, right)
    return graph.linear("pad", value, call, lambda: algebra.pad(channels, padding))


def _crop(graph: RelaxGraph, value: Any, call: Any) -> LinearOperator | Blocked:
    before, after = static_shape(call.args[0]), static_shape(value)
    channels = graph.channels(value)
    ranges = _slices(call)
    if channels is None or ranges is None or None in before or len(before) != 4:
        return graph.blocked(call, "strided_slice lies between")
    padding = {"H": (0, 0), "W": (0, 0)}
    for axis, (begin, stride) in ranges.items():
        size = before[axis]
        assert size is not None
        begin = min(max(begin + size if begin < 0 else begin, 0), size)
        letter, kept = graph.layout[axis], after[axis] or 0
        if stride != 1 or letter not in padding:
            return graph.blocked(call, f"strided_slice along {letter} lies between")
        padding[letter] = (-begin, begin + kept - size)
    (top, bottom), (left, right) = padding["H"], padding["W"]
    return graph.linear(
        "crop", value, call, lambda: algebra.pad(channels, (top, left, bottom, right))
    )


def _epsilon(attrs: Any) -> float:
    """The epsilon as it was written: 1e-5 comes back from float32 as 9.9999997e-06."""
    return float(str(np.float32(attrs.epsilon)))


def _slices(call: Any) -> dict[int, tuple[int, int]] | None:
    """Begin and stride by axis of a `strided_slice` with constant arguments."""
    try:
        axes, begins = ([int(v.value) for v in call.args[i].fields] for i in (1, 2))
        strides = (
            [int(v.value) for v in call.args[4].fields] if len(call.args) > 4 else [1] * len(axes)
        )
    except AttributeError:
        return None
    count = rank(call.args[0])
    return {a % count: (b, s) for a, b, s in zip(axes, begins, strides, strict=True)}


def _pair(values: Any) -> Pair:
    first, second = (int(v) for v in values)
    return first, second


def _four(values: Any) -> tuple[int, int, int, int]:
    top, left, bottom, right = (int(v) for v in values)
    return top, left, bottom, right


Reader = Callable[["RelaxGraph", Any, Any], "LinearOperator | Blocked"]

READERS: dict[str, Reader] = {
    "relax.nn.conv2d": _conv2d,
    "relax.nn.conv2d_transpose": _conv2d_transpose,
    "relax.matmul": _matmul,
    "relax.add": _affine,
    "relax.subtract": _affine,
    "relax.multiply": _affine,
    "relax.divide": _affine,
    "relax.negative": _negative,
    "relax.nn.avg_pool2d": _avg_pool2d,
    "relax.nn.pad": _pad,
    "relax.strided_slice": _crop,
}
