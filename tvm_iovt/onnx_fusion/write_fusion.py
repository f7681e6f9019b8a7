"""A fusion of the rules as ONNX nodes and initializers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_iovt.fusion.convolution import Convolution, InexactError
from tvm_iovt.fusion.rules import Fusion
from tvm_iovt.onnx_fusion.attributes import attributes, node_name
from tvm_iovt.onnx_fusion.onnx_graph import OnnxGraph
from tvm_iovt.onnx_fusion.operators import conv_bias, finite

_GEMM_WITHOUT_BIAS = 11


def write_fusion(graph: OnnxGraph, value: str, fusion: Fusion) -> None:
    """Put the fused operator at the place of the one that computed `value`.

    The node keeps the name of the operator that carried the weights, and they the name of theirs
    (as far as it becomes free). A bias that differs from place to place, and terms of a sum that
    remain, are added behind it.

    Args:
        graph: Is edited.
        value: What the rule was asked about.
        fusion: What it answered.

    Raises:
        InexactError: A fused weight is too large for its type; the graph is as it was.
    """
    written = _WRITERS[fusion.carrier.kind](graph, fusion)
    carrier = written.node
    tensors = {position: _tensor(*given) for position, given in written.constants.items()}
    bias_map = None if written.bias_map is None else _tensor(*written.bias_map)

    for position, tensor in sorted(tensors.items()):
        name = graph.index.add_initializer(tensor, written.names[position])
        carrier.input.extend([""] * (position + 1 - len(carrier.input)))
        carrier.input[position] = name
    nodes = [carrier]
    if bias_map is not None:
        name = graph.index.add_initializer(bias_map, f"{written.names[2]}_map")
        nodes.append(_node("Add", [name], f"{node_name(carrier)}_bias_map"))
    root = graph.index.producer(value)
    for number, term in enumerate(fusion.rest):
        last = number + 1 == len(fusion.rest)
        op = "Add" if term.sign > 0 else "Sub"
        name = root.name if last and root.name else f"{node_name(carrier)}_plus_{number}"
        nodes.append(_node(op, [str(term.value)], name))
    for node, following in itertools.pairwise(nodes):
        node.output.append(graph.index.fresh(f"{value}/{node.op_type}"))
        following.input.insert(0, node.output[0])
    nodes[-1].output.append(value)
    graph.replace(value, nodes)


@dataclass(slots=True, kw_only=True)
class _Written:
    """A node without its output and its constants.

    `constants` are arrays with their element types, `names` the names that they should have, both
    by their position among the node's inputs.
    """

    node: Any
    constants: dict[int, tuple[npt.NDArray[Any], int]]
    names: dict[int, str]
    bias_map: tuple[npt.NDArray[Any], int] | None = None


def _conv(graph: OnnxGraph, fusion: Fusion) -> _Written:
    total = fusion.convolution
    if min(total.padding) < 0:
        raise InexactError("Conv cannot crop its operand")
    node = _successor(fusion, "Conv")
    _set_attributes(
        node,
        dilations=total.dilation,
        group=total.groups,
        kernel_shape=total.size,
        pads=total.padding,
        strides=total.strides,
    )
    written = _with_bias(graph, fusion, node, total)
    written.constants[1] = (total.kernel, _element(graph, fusion))
    return written


def _conv_transpose(graph: OnnxGraph, fusion: Fusion) -> _Written:
    """The weight with its output channels scaled; its bias is scaled and shifted."""
    affine, original = fusion.convolution, fusion.carrier.node
    weight = finite(graph.constants.array(original.input[1]))
    groups = int(attributes(original).get("group", 1))
    inputs, outputs = weight.shape[:2]
    if affine.out_channels != groups * outputs:
        raise InexactError("the numbers of channels differ")
    factor = affine.kernel.reshape(groups, 1, outputs, 1, 1)
    scaled = weight.reshape(groups, inputs // groups, outputs, *weight.shape[2:]) * factor
    bias = conv_bias(graph.constants, original)
    total = affine
    if bias is not None:
        shift = (bias * affine.kernel.reshape(-1)).reshape(-1, 1, 1)
        total = Convolution(kernel=affine.kernel, bias=affine.bias + shift, groups=affine.groups)
    node = _successor(fusion, "ConvTranspose")
    node.attribute.extend(original.attribute)
    written = _with_bias(graph, fusion, node, total)
    written.constants[1] = (scaled.reshape(weight.shape), _element(graph, fusion))
    return written


def _dense(graph: OnnxGraph, fusion: Fusion) -> _Written:
    total, original = fusion.convolution, fusion.carrier.node
    transposed = original.op_type == "Gemm" and bool(attributes(original).get("transB", 0))
    node = _successor(fusion, "Gemm")
    if transposed:
        _set_attributes(node, transB=1)
    written = _with_bias(graph, fusion, node, total)
    matrix = total.kernel[:, :, 0, 0]
    element = _element(graph, fusion)
    written.constants[1] = (matrix if transposed else matrix.T, element)
    if graph.opset < _GEMM_WITHOUT_BIAS:
        written.constants.setdefault(2, (np.zeros(total.out_channels), element))
    return written


_WRITERS = {"conv2d": _conv, "conv2d_transpose": _conv_transpose, "dense": _dense}


def _with_bias(graph: OnnxGraph, fusion: Fusion, node: Any, total: Convolution) -> _Written:
    original = fusion.carrier.node
    weight_name = graph.index.wanted_name(str(fusion.carrier.weight))
    bias_name = _bias_name(weight_name)
    if len(original.input) > 2 and original.input[2]:
        holder = graph.constants.holder(original.input[2])
        bias_name = graph.index.wanted_name(str(holder))
    written = _Written(node=node, constants={}, names={1: weight_name, 2: bias_name})
    element = _element(graph, fusion)
    if total.has_bias_map:
        written.bias_map = (total.bias[np.newaxis], element)
    elif total.has_bias:
        written.constants[2] = (total.bias.reshape(-1), element)
    return written


def _bias_name(weight_name: str) -> str:
    stem, dot, last = weight_name.rpartition(".")
    return f"{stem}{dot}bias" if last == "weight" else f"{weight_name}_bias"


def _element(graph: OnnxGraph, fusion: Fusion) -> int:
    return graph.constants.element_type(fusion.carrier.node.input[1])


def _successor(fusion: Fusion, op: str) -> Any:
    """A node of the carrier's name and notes."""
    from onnx import NodeProto

    node = NodeProto()
    node.CopyFrom(fusion.carrier.node)
    node.op_type = op
    node.name = fusion.carrier.name
    del node.attribute[:], node.output[:]
    node.input[:] = [str(fusion.source)]
    return node


def _node(op: str, inputs: list[str], name: str) -> Any:
    from onnx import helper

    return helper.make_node(op, inputs, [], name=name)


def _set_attributes(node: Any, **values: Any) -> None:
    from onnx import helper

    node.attribute.extend(helper.make_attribute(name, value) for name, value in values.items())


def _tensor(array: npt.NDArray[Any], element: int) -> Any:
    """An array rounded once to an element type.

    Raises:
        InexactError: A number is beyond the range of that type.
    """
    from onnx import TensorProto

    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(array.astype(_numpy_type(element)))
    if not np.isfinite(cast.astype(np.float64)).all():
        name = TensorProto.DataType.Name(element).lower()
        raise InexactError(f"the fused weights overflow {name}")
    return TensorProto(data_type=element, dims=cast.shape, raw_data=cast.tobytes())


def _numpy_type(element: int) -> Any:
    from onnx import TensorProto, helper

    if element == TensorProto.BFLOAT16:
        import ml_dtypes

        return ml_dtypes.bfloat16
    return helper.tensor_dtype_to_np_dtype(element)
