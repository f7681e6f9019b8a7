"""What limits the precision of a model's outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def arithmetic(model: onnx.ModelProto) -> str:
    """`quantized`, `float16` (half or bfloat16 tensors inside) or `float32`."""
    from onnx import TensorProto

    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        return "quantized"
    halves = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    types = {value.type.tensor_type.elem_type for value in values}
    types |= {tensor.data_type for tensor in model.graph.initializer}
    return "float16" if types & halves else "float32"
