"""Shapes and element types of the values of an ONNX graph, as far as they are known."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

Shape = tuple[int | None, ...]

# Constants up to this size may tell a shape (of a Reshape, say); larger ones are left out of the
# inference, which copies its model and cannot take more than 2 GB.
_TELLING_ELEMENTS = 1024

# Operators whose output has the shape of each of their operands (if these agree).
_SHAPE_KEEPING = frozenset(
    {"Add", "BatchNormalization", "Clip", "Div", "HardSwish", "Identity", "LeakyRelu", "Mul"}
    | {"Neg", "PRelu", "Relu", "Sigmoid", "Sub", "Sum", "Tanh"}
)


@dataclass(frozen=True, slots=True)
class ValueType:
    """Of a tensor: its sizes (None where dynamic), and the number of its type in `TensorProto`."""

    shape: Shape | None
    element: int


def infer_value_types(model: onnx.ModelProto) -> dict[str, ValueType]:
    """What the model says of its values, and what ONNX's shape inference adds.

    Operators that ONNX does not know end that inference; behind them the ranks and channels of
    images are taken from the weights.
    """
    import onnx

    skeleton = _without_weights(model)
    # Of a model that contradicts itself, what it says must do.
    with contextlib.suppress(onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        skeleton = onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
    graph = skeleton.graph
    types = {
        value.name: ValueType(_shape(value.type.tensor_type), value.type.tensor_type.elem_type)
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.HasField("tensor_type")
    }
    weights = {t.name: ValueType(tuple(t.dims), t.data_type) for t in model.graph.initializer}
    for node in model.graph.node:
        _read_by_conv(node, types, weights)
    for node in model.graph.node:
        _propagate(node, types, weights)
    return {**types, **weights}


def _without_weights(model: Any) -> Any:
    import onnx

    skeleton = onnx.ModelProto(ir_version=model.ir_version)
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    graph = skeleton.graph
    graph.name = model.graph.name or "graph"
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    inputs = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _TELLING_ELEMENTS:
            graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            entry = onnx.helper.make_tensor_value_info(
                tensor.name, tensor.data_type, list(tensor.dims)
            )
            graph.input.append(entry)
    return skeleton


def _shape(tensor_type: Any) -> Shape | None:
    if not tensor_type.HasField("shape"):
        return None
    return tuple(
        int(d.dim_value) if d.HasField("dim_value") and d.dim_value >= 0 else None
        for d in tensor_type.shape.dim
    )


def _read_by_conv(node: Any, types: dict[str, ValueType], weights: dict[str, ValueType]) -> None:
    """What a convolution tells of its operand."""
    weight = weights.get(node.input[1]) if node.op_type == "Conv" else None
    known = types.get(node.input[0]) if weight is not None else None
    if weight is None or weight.shape is None or (known is not None and known.shape is not None):
        return
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    channels, *taps = weight.shape[1:]
    shape = (None, (channels or 0) * group, *(None for _ in taps))
    types[node.input[0]] = ValueType(shape, weight.element)


def _propagate(node: Any, types: dict[str, ValueType], weights: dict[str, ValueType]) -> None:
    """Fill in the type of a node's first output if the inference could not."""
    known = types.get(node.output[0]) if node.output else None
    if not node.output or (known is not None and known.shape is not None and known.element):
        return
    found: ValueType | None = None
    weight = weights.get(node.input[1]) if node.op_type == "Conv" else None
    if weight is not None and weight.shape is not None:
        spatial = (None,) * (len(weight.shape) - 2)
        found = ValueType((None, weight.shape[0], *spatial), weight.element)
    elif node.op_type in _SHAPE_KEEPING:
        count = 1 if node.op_type in ("BatchNormalization", "Clip") else len(node.input)
        operands = {types.get(name) for name in node.input[:count] if name not in weights}
        if len(operands) == 1:
            (found,) = operands
    if found is not None:
        types[node.output[0]] = found
