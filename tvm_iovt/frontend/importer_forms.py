"""Forms of old operators, rewritten to those that TVM's importer reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx


def adapt_to_importer(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model for TVM's importer alone; it need not be valid ONNX any more.

    Resize (opset 11 and 12): exporters write an empty tensor where there is no `roi`, `scales` or
    `sizes`; the importer knows absent inputs only.

    Upsample (opset 9): the scales are an input; the importer reads the attribute of opset 7.
    """
    import onnx
    from onnx import numpy_helper

    adapted = onnx.ModelProto()
    adapted.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in adapted.graph.initializer}
    for node in adapted.graph.node:
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type == "Resize":
            _drop_empty_inputs(node, constants)
        elif node.op_type == "Upsample" and len(node.input) == 2 and node.input[1] in constants:
            scales = numpy_helper.to_array(constants[node.input[1]])
            node.attribute.append(onnx.helper.make_attribute("scales", scales.tolist()))
            del node.input[1:]
    return adapted


def _drop_empty_inputs(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> None:
    kept = [
        "" if name in constants and np.prod(constants[name].dims, dtype=np.int64) == 0 else name
        for name in node.input
    ]
    while kept and not kept[-1]:
        kept.pop()
    node.input[:] = kept
