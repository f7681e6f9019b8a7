"""Forms of old operators, rewritten to those that TVM's importer reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tvm_iovt.frontend.onnx_model import opset_version
from tvm_iovt.types import Decision

if TYPE_CHECKING:
    import onnx


# Below this opset, what are inputs now were attributes (Slice, Clip, Upsample...); the importer
# reads few of the old forms.
MODERN_OPSET = 11
CONVERTED_OPSET = 13


def modernize(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[Decision, ...]]:
    """The model in a newer opset if its own is too old for the importer.

    A model that ONNX's converter cannot convert is returned as it was, with a decision that says
    so: it may still import.
    """
    import onnx

    opset = opset_version(model)
    if opset >= MODERN_OPSET:
        return model, ()
    try:
        converted = onnx.version_converter.convert_version(model, CONVERTED_OPSET)
        onnx.checker.check_model(converted)
    except Exception as error:  # the converter raises plain RuntimeErrors and assertions
        reason = f"opset {opset} could not be converted ({str(error).strip()[:120]})"
        return model, (_decision(applied=False, reason=reason),)
    return converted, (_decision(applied=True, reason=f"opset {opset} to {CONVERTED_OPSET}"),)


def _decision(*, applied: bool, reason: str) -> Decision:
    return Decision(transform="Modernize", subject="graph", applied=applied, reason=reason)


def adapt_to_importer(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model for TVM's importer alone; it need not be valid ONNX any more.

    Resize (opset 11 and 12): exporters write an empty tensor where there is no `roi`, `scales` or
    `sizes`; the importer knows absent inputs only.
    """
    import onnx

    adapted = onnx.ModelProto()
    adapted.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in adapted.graph.initializer}
    for node in adapted.graph.node:
        if node.op_type == "Resize" and node.domain in ("", "ai.onnx"):
            _drop_empty_inputs(node, constants)
    return adapted


def _drop_empty_inputs(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> None:
    kept = [
        "" if name in constants and np.prod(constants[name].dims, dtype=np.int64) == 0 else name
        for name in node.input
    ]
    while kept and not kept[-1]:
        kept.pop()
    node.input[:] = kept
