"""What the operators of ONNX mean as linear operators, or why they are none.

Read are Conv, ConvTranspose, Gemm, MatMul, BatchNormalization, Add, Sub, Mul, Div, Sum, Neg,
AveragePool, Pad and Slice, in all of their opsets from 7 on.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvm_iovt.fusion import convolution as algebra
from tvm_iovt.fusion.convolution import Convolution, InexactError, Pair
from tvm_iovt.fusion.linear_graph import Blocked, LinearOperator
from tvm_iovt.onnx_fusion.attributes import attributes, is_default, node_name
from tvm_iovt.onnx_fusion.constants import Constants

if TYPE_CHECKING:
    from tvm_iovt.onnx_fusion.onnx_graph import OnnxGraph

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
_Four = tuple[int, int, int, int]
_Found = LinearOperator | Blocked

_FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
# Ends of a Slice beyond this mean "to the end"; exporters write the largest int32 or int64.
_NO_END = 2**31 - 1
_HEIGHT, _WIDTH = 2, 3


def read(graph: OnnxGraph, value: str) -> LinearOperator | Blocked:
    """The linear operator that computes a value, or why there is none."""
    node = graph.index.producer(value)
    if node is None:
        is_constant = graph.constants.holder(value) is not None
        return Blocked(reason="it is a constant" if is_constant else "it is an input of the graph")
    reader = _READERS.get(node.op_type) if is_default(node) else None
    if reader is None or value != node.output[0]:
        return graph.lies_between(node)
    shape = graph.type(value).shape
    if shape is None:
        return graph.blocked(node, f"the shape behind {node.op_type} is not known")
    if len(shape) not in (2, 4):
        return graph.blocked(node, f"{node.op_type} on {len(shape)} axes lies between")
    element = graph.element_name(value)
    if element not in _FLOATS:
        return graph.blocked(node, f"{node.op_type} gives {element.lower()}")
    return reader(graph, value, node)


def finite(array: Array) -> Float64:
    """A constant in float64.

    Raises:
        InexactError: It holds NaN or infinity.
    """
    values = np.asarray(array).astype(np.float64)
    if not np.isfinite(values).all():
        raise InexactError("its constants hold NaN or infinity")
    return values


def conv_bias(constants: Constants, node: Any) -> Float64 | None:
    """The bias that a Conv or ConvTranspose holds; None if it has none."""
    return finite(constants.array(node.input[2])).reshape(-1) if _has_input(node, 2) else None


def _conv(graph: OnnxGraph, value: str, node: Any) -> _Found:
    found = _weight(graph, node)
    if isinstance(found, Blocked):
        return found
    given = attributes(node)
    shape = graph.constants.shape(node.input[1])
    groups = int(given.get("group", 1))
    if len(shape) != 4:
        return graph.blocked(node, f"{node.op_type} on {len(shape)} axes lies between")
    if groups < 1 or shape[0] % groups:
        return graph.blocked(node, f"the weight of {node_name(node)} does not fit its groups")
    strides, dilation = _pair(given.get("strides", (1, 1))), _pair(given.get("dilations", (1, 1)))
    extent = tuple((k - 1) * d + 1 for k, d in zip(shape[2:], dilation, strict=True))
    padding = _padding(graph, node, given, (extent[0], extent[1]), strides)
    if isinstance(padding, Blocked):
        return padding

    def convolution() -> Convolution:
        kernel = finite(graph.constants.array(node.input[1]))
        bias = conv_bias(graph.constants, node)
        if bias is None:
            bias = np.zeros(kernel.shape[0])
        return Convolution(
            kernel=kernel,
            bias=bias.reshape(-1, 1, 1),
            strides=strides,
            padding=padding,
            dilation=dilation,
            groups=groups,
        )

    return _linear(graph, "conv2d", value, node, convolution, weight=found)


def _conv_transpose(graph: OnnxGraph, value: str, node: Any) -> _Found:
    found = _weight(graph, node)
    if isinstance(found, Blocked):
        return found
    if len(graph.constants.shape(node.input[1])) != 4:
        return graph.lies_between(node)

    def convolution() -> Convolution:
        raise InexactError("a transposed convolution cannot be merged with another")

    return _linear(graph, "conv2d_transpose", value, node, convolution, weight=found)


def _gemm(graph: OnnxGraph, value: str, node: Any) -> _Found:
    given = attributes(node)
    if given.get("transA", 0):
        return graph.blocked(node, f"{node_name(node)} transposes its operand")
    found = _weight(graph, node)
    if isinstance(found, Blocked):
        return found
    rows, columns = graph.constants.shape(node.input[1])
    outputs = rows if given.get("transB", 0) else columns
    if _has_input(node, 2):
        shape = graph.constants.shape(node.input[2])
        if (
            len(shape) > 2
            or (len(shape) == 2 and shape[0] != 1)
            or shape[-1:]
            not in (
                (),
                (1,),
                (outputs,),
            )
        ):
            return graph.blocked(node, f"the bias of {node_name(node)} differs from row to row")

    def convolution() -> Convolution:
        matrix = finite(graph.constants.array(node.input[1]))
        matrix = (matrix if given.get("transB", 0) else matrix.T) * given.get("alpha", 1.0)
        bias = np.zeros(outputs)
        if _has_input(node, 2):
            constant = finite(graph.constants.array(node.input[2])).reshape(-1)
            bias = np.broadcast_to(constant, (outputs,)) * given.get("beta", 1.0)
        return _dense(matrix, bias)

    return _linear(graph, "dense", value, node, convolution, weight=found)


def _matmul(graph: OnnxGraph, value: str, node: Any) -> _Found:
    operand = graph.type(graph.source(node.input[0])).shape
    if graph.constants.holder(node.input[1]) is not None:
        axes = len(graph.constants.shape(node.input[1]))
        if axes != 2 or operand is None or len(operand) != 2:
            return graph.blocked(node, "MatMul of more than two axes lies between")
    elif graph.constants.holder(node.input[0]) is not None:
        return graph.blocked(node, "MatMul with its weight on the left lies between")
    found = _weight(graph, node)
    if isinstance(found, Blocked):
        return found

    def convolution() -> Convolution:
        matrix = finite(graph.constants.array(node.input[1])).T
        return _dense(matrix, np.zeros(matrix.shape[0]))

    return _linear(graph, "dense", value, node, convolution, weight=found)


def _batch_norm(graph: OnnxGraph, value: str, node: Any) -> _Found:
    given, name = attributes(node), node_name(node)
    # Up to opset 13 the further outputs tell the training mode.
    if given.get("training_mode", 0) or any(node.output[1:]):
        return graph.blocked(node, f"{name} is in training mode")
    if not given.get("spatial", 1):
        return graph.blocked(node, f"{name} normalises each pixel (spatial=0)")
    parameters = tuple(node.input[1:5])
    for parameter in parameters:
        if graph.constants.holder(parameter) is None:
            reason = _not_constant(graph, parameter, f"a parameter of {name}")
            return graph.blocked(node, reason)

    def convolution() -> Convolution:
        gamma, beta, mean, variance = (finite(graph.constants.array(p)) for p in parameters)
        epsilon = float(given.get("epsilon", 1e-5))
        return algebra.batch_norm(gamma, beta, mean, variance, epsilon)

    return _linear(graph, "batch_norm", value, node, convolution)


def _affine(graph: OnnxGraph, value: str, node: Any) -> _Found:
    """Add, Sub, Mul, Div and Sum with a constant."""
    op = node.op_type
    held = [graph.constants.holder(name) is not None for name in node.input]
    if all(held):
        return Blocked(reason="it is a constant")
    if len(held) != 2 or not any(held):
        between = f"{op} of two tensors" if op in ("Mul", "Div") else "a sum"
        return graph.blocked(node, f"{between} lies between")
    constant_first = held[0]
    constant, operand = (
        (node.input[0], node.input[1]) if constant_first else (node.input[1], node.input[0])
    )
    operand = graph.source(operand)
    multiplies = op in ("Mul", "Div")
    if op == "Div" and constant_first:
        return graph.blocked(node, "a constant divided by a tensor lies between")
    if graph.type(operand).shape != graph.type(value).shape:
        return graph.blocked(node, f"{op} broadcasts the image")
    shape = _image_shape(graph, constant, value)
    if shape is None or (multiplies and shape[1:] != (1, 1)):
        return graph.blocked(node, f"{op} has a constant for each pixel")

    def convolution() -> Convolution:
        array = finite(graph.constants.array(constant))
        is_map = shape[1:] != (1, 1)
        # The batch axis, which has one entry, goes.
        image = array.reshape(array.shape[-3:]) if is_map else array.reshape(-1, 1, 1)
        image = np.ascontiguousarray(np.broadcast_to(image, shape))
        channels = shape[0]
        if multiplies:
            with np.errstate(divide="ignore"):
                factor = image if op == "Mul" else 1 / image
            return algebra.scale(finite(factor), np.zeros(channels))
        sign = -1.0 if op == "Sub" and constant_first else 1.0
        shift = -image if op == "Sub" and not constant_first else image
        unshifted = algebra.scale(np.full(channels, sign), np.zeros(channels))
        return dataclasses.replace(unshifted, bias=shift)

    # See `OnnxGraph`: only a map that is added is a shift.
    is_map = shape[1:] != (1, 1) and not (op == "Sub" and constant_first)
    kind = "shift" if is_map else "scale"
    return _linear(graph, kind, value, node, convolution, operand=operand)


def _negative(graph: OnnxGraph, value: str, node: Any) -> _Found:
    channels = _channels(graph, value)
    if channels is None:
        return graph.blocked(node, "the number of channels is not static")
    negative = algebra.scale(np.full(channels, -1.0), np.zeros(channels))
    return _linear(graph, "scale", value, node, lambda: negative)


def _average_pool(graph: OnnxGraph, value: str, node: Any) -> _Found:
    given = attributes(node)
    channels = _channels(graph, value)
    if channels is None:
        return graph.blocked(node, "the number of channels is not static")
    size = _pair(given["kernel_shape"])
    strides = _pair(given.get("strides", (1, 1)))
    padding = _padding(graph, node, given, size, strides)
    if isinstance(padding, Blocked):
        return padding
    if any(padding) and not given.get("count_include_pad", 0):
        return graph.blocked(
            node, "AveragePool leaves its padding out of the average (count_include_pad)"
        )
    if _pair(given.get("dilations", (1, 1))) != (1, 1):
        return graph.blocked(node, "AveragePool is dilated")
    pool = algebra.average_pool(channels, size, strides, padding)
    if given.get("ceil_mode", 0) and strides != (1, 1):
        image = graph.image_hw(graph.source(node.input[0]))
        if image is None or pool.result_hw(image) != graph.image_hw(value):
            return graph.blocked(node, "AveragePool has incomplete windows (ceil_mode)")
    return _linear(graph, "avg_pool2d", value, node, lambda: pool)


def _pad(graph: OnnxGraph, value: str, node: Any) -> _Found:
    given = attributes(node)
    channels, shape = _channels(graph, value), graph.type(value).shape
    if _has_computed(graph, node):
        return graph.blocked(node, "Pad by computed widths lies between")
    if shape is None or len(shape) != 4 or channels is None:
        return graph.lies_between(node)
    widths = [int(w) for w in given.get("pads") or graph.constants.array(node.input[1])]
    fill = given.get("value", 0.0)
    if _has_input(node, 2):
        fill = float(graph.constants.array(node.input[2]).astype(np.float64).reshape(-1)[0])
    axes = [0, 1, _HEIGHT, _WIDTH]
    if _has_input(node, 3):
        axes = [int(a) % 4 for a in graph.constants.array(node.input[3])]
    if given.get("mode", "constant") != "constant" or fill != 0:
        return graph.blocked(node, "Pad with other values than zero lies between")
    count = len(axes)
    by_axis = {axis: (widths[i], widths[count + i]) for i, axis in enumerate(axes)}
    if any(any(by_axis.get(axis, ())) for axis in (0, 1)):
        return graph.blocked(node, "Pad of batch or channels lies between")
    (top, bottom), (left, right) = (by_axis.get(axis, (0, 0)) for axis in (_HEIGHT, _WIDTH))
    padding = (top, left, bottom, right)
    return _linear(graph, "pad", value, node, lambda: algebra.pad(channels, padding))


def _slice(graph: OnnxGraph, value: str, node: Any) -> _Found:
    given = attributes(node)
    operand = graph.type(graph.source(node.input[0])).shape
    channels = _channels(graph, value)
    if _has_computed(graph, node):
        return graph.blocked(node, "Slice by computed bounds lies between")
    if operand is None or len(operand) != 4 or channels is None:
        return graph.lies_between(node)

    def parameter(position: int, name: str) -> list[int] | None:
        if _has_input(node, position):
            return [int(v) for v in graph.constants.array(node.input[position]).reshape(-1)]
        return [int(v) for v in given[name]] if name in given else None

    starts, ends = parameter(1, "starts") or [], parameter(2, "ends") or []
    axes = parameter(3, "axes") or list(range(len(starts)))
    steps = parameter(4, "steps") or [1] * len(starts)
    cropped = {_HEIGHT: (0, 0), _WIDTH: (0, 0)}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = operand[axis % 4]
        if start == 0 and step == 1 and end >= (_NO_END if size is None else size):
            continue
        if step != 1 or axis % 4 not in cropped:
            letter = "NCHW"[axis % 4]
            return graph.blocked(node, f"Slice along {letter} lies between")
        crop = _crop(start, end, size)
        if crop is None:
            return graph.blocked(node, "Slice of an image whose size is not static lies between")
        cropped[axis % 4] = crop
    (top, bottom), (left, right) = cropped[_HEIGHT], cropped[_WIDTH]
    padding = (-top, -left, -bottom, -right)
    return _linear(graph, "crop", value, node, lambda: algebra.pad(channels, padding))


def _crop(start: int, end: int, size: int | None) -> Pair | None:
    """How much a Slice takes away before and behind; None if that depends on an unknown size."""
    if size is not None:
        begin = min(start + size if start < 0 else start, size)
        stop = min(end + size if end < 0 else end, size)
        return max(begin, 0), size - max(stop, begin, 0)
    if start < 0 or 0 <= end < _NO_END:
        return None
    return start, -end if end < 0 else 0


def _weight(graph: OnnxGraph, node: Any) -> Hashable | Blocked:
    """What holds the weight of a carrier."""
    for position, what in ((1, "weight"), (2, "bias")):
        if _has_input(node, position) and graph.constants.holder(node.input[position]) is None:
            subject = f"the {what} of {node_name(node)}"
            return graph.blocked(node, _not_constant(graph, node.input[position], subject))
    return graph.constants.holder(node.input[1])


def _not_constant(graph: OnnxGraph, name: str, subject: str) -> str:
    producer = graph.index.producer(graph.source(name))
    if producer is None:
        return f"{subject} is an input of the graph"
    is_quantized = producer.op_type == "DequantizeLinear"
    return f"{subject} is {'quantized' if is_quantized else 'computed in the graph'}"


def _padding(
    graph: OnnxGraph, node: Any, given: dict[str, Any], extent: Pair, strides: Pair
) -> _Four | Blocked:
    """Zeros at the top, left, bottom and right of a window operator."""
    auto_pad = given.get("auto_pad", "NOTSET")
    if auto_pad in ("NOTSET", ""):
        top, left, bottom, right = (int(p) for p in given.get("pads", (0, 0, 0, 0)))
        return top, left, bottom, right
    if auto_pad == "VALID":
        return 0, 0, 0, 0
    image = graph.image_hw(graph.source(node.input[0]))
    if image is None and strides != (1, 1):
        return graph.blocked(node, f"{auto_pad} padding needs a static image size")
    sides = []
    for axis in (0, 1):
        # Without a stride the sum does not depend on the size.
        size = image[axis] if image is not None else 1
        windows = -(-size // strides[axis])
        total = max((windows - 1) * strides[axis] + extent[axis] - size, 0)
        less, more = total // 2, total - total // 2
        sides.append((less, more) if auto_pad == "SAME_UPPER" else (more, less))
    (top, bottom), (left, right) = sides
    return top, left, bottom, right


def _image_shape(graph: OnnxGraph, constant: str, value: str) -> tuple[int, int, int] | None:
    """A broadcast constant as one number a channel or a map; None if it is neither."""
    shape, channels = graph.type(value).shape, _channels(graph, value)
    given = graph.constants.shape(constant)
    if shape is None or channels is None or len(given) > len(shape):
        return None
    full = (1,) * (len(shape) - len(given)) + given + (1,) * (4 - len(shape))
    if full[0] != 1 or full[1] not in (1, channels):
        return None
    if full[2:] == (1, 1):
        return channels, 1, 1
    image = graph.image_hw(value)
    if image is None or full[2] not in (1, image[0]) or full[3] not in (1, image[1]):
        return None
    return (channels, *image)


def _channels(graph: OnnxGraph, value: str) -> int | None:
    shape = graph.type(value).shape
    return shape[1] if shape is not None and len(shape) > 1 else None


def _dense(matrix: Float64, bias: Float64) -> Convolution:
    """A dense layer of `[outputs, inputs]` as a convolution of images of one pixel."""
    return Convolution(kernel=matrix[:, :, np.newaxis, np.newaxis], bias=bias.reshape(-1, 1, 1))


def _linear(
    graph: OnnxGraph,
    kind: str,
    value: str,
    node: Any,
    convolution: Callable[[], Convolution],
    *,
    weight: Hashable = None,
    operand: str = "",
) -> LinearOperator:
    return LinearOperator(
        kind=kind,
        name=node_name(node),
        operand=operand or graph.source(node.input[0]),
        result=value,
        node=node,
        convolution=functools.cache(convolution),
        weight=weight,
    )


def _has_input(node: Any, position: int) -> bool:
    return len(node.input) > position and bool(node.input[position])


def _has_computed(graph: OnnxGraph, node: Any) -> bool:
    """Whether an input besides the first is no constant."""
    return any(graph.constants.holder(name) is None for name in filter(None, node.input[1:]))


def _pair(values: Sequence[int]) -> Pair:
    first, second = (int(v) for v in values)
    return first, second


_READERS: dict[str, Callable[[OnnxGraph, str, Any], _Found]] = {
    "Add": _affine,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Div": _affine,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Mul": _affine,
    "Neg": _negative,
    "Pad": _pad,
    "Slice": _slice,
    "Sub": _affine,
    "Sum": _affine,
}
