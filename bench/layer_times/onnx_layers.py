"""Convolutions and dense layers of an ONNX graph: geometry and work."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx
from onnx import numpy_helper

# What a runtime computes together with the convolution before it; it then names both by the
# output of the latter.
_ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "Tanh"})
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True)
class Layer:
    """A convolution or dense layer.

    Attributes:
        names: The node, its output, and the output of the activation behind it.
        op: ONNX operator.
        geometry: For people: `64->128 3x3 s2 28x28`.
        input_shape: Of the activations, NCHW.
        output_shape: Likewise.
        weights: Number of them, without bias.
        flops: A multiply-add counts as two.
    """

    names: tuple[str, ...]
    op: str
    geometry: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    weights: int
    flops: int


def layers(model: onnx.ModelProto) -> list[Layer]:
    """In the order of the graph."""
    shapes = _shapes(model)
    activated = {
        node.input[0]: node.output[0] for node in model.graph.node if node.op_type in _ACTIVATIONS
    }
    found = []
    for node in model.graph.node:
        known = len(node.input) > 1 and {node.input[0], node.input[1], node.output[0]} <= set(
            shapes
        )
        if node.op_type not in _LAYERS or not known:
            continue
        names = (node.name, node.output[0], activated.get(node.output[0], ""))
        read, weight, made = (shapes[n] for n in (node.input[0], node.input[1], node.output[0]))
        found.append(
            Layer(
                names=tuple(filter(None, names)),
                op=node.op_type,
                geometry=_geometry(node, read, weight, made),
                input_shape=read,
                output_shape=made,
                weights=math.prod(weight),
                flops=_flops(node, read, weight, made),
            )
        )
    return found


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    found = {
        value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }
    found |= {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for node in inferred.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t).shape
    return found


def _flops(
    node: onnx.NodeProto, read: tuple[int, ...], weight: tuple[int, ...], made: tuple[int, ...]
) -> int:
    if node.op_type == "Conv":
        return 2 * math.prod(made) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return 2 * math.prod(read) * math.prod(weight[1:])
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return 2 * math.prod(made) * read[0 if transposed else -1]


def _geometry(
    node: onnx.NodeProto, read: tuple[int, ...], weight: tuple[int, ...], made: tuple[int, ...]
) -> str:
    if node.op_type not in ("Conv", "ConvTranspose"):
        return f"{read[-1]}->{made[-1]}"
    attributes = {a.name: a for a in node.attribute}
    groups = attributes["group"].i if "group" in attributes else 1
    strides = list(attributes["strides"].ints) if "strides" in attributes else [1]
    parts = [
        f"{read[1]}->{made[1]}",
        "x".join(map(str, weight[2:])),
        f"s{strides[0]}",
        "x".join(map(str, made[2:])),
    ]
    if groups > 1:
        parts.append(f"g{groups}")
    return " ".join(parts)
