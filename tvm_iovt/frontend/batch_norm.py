"""Batch-norm statistics in one canonical form, so that passes need to know only that one.

Exporters leave BatchNormalization nodes in training mode (batch statistics, extra outputs), with
parameters in mixed precision or shaped (1, C, 1, 1). Inference uses the running statistics in
one vector a parameter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tvm_iovt.errors import ModelError
from tvm_iovt.types import Decision

if TYPE_CHECKING:
    import onnx

_PARAMETERS = ("scale", "bias", "mean", "variance")


def normalize_batch_norms(model: onnx.ModelProto) -> tuple[Decision, ...]:
    """Bring every BatchNormalization of `model` to its inference form, in place.

    Raises:
        ModelError: A parameter is NaN or infinite, a variance is negative, or a training-mode
            node's batch statistics are used elsewhere in the graph.
    """
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    used = {name for node in model.graph.node for name in node.input}
    used |= {output.name for output in model.graph.output}
    decisions = []
    for node in model.graph.node:
        if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx"):
            continue
        name = node.name or node.output[0]
        if _leave_training_mode(node, used, name):
            decisions.append(
                Decision(
                    transform="NormalizeBatchNorms",
                    subject=name,
                    applied=True,
                    reason="exported in training mode; compiled with its running statistics",
                )
            )
        for parameter, value_name in zip(_PARAMETERS, node.input[1:5], strict=True):
            tensor = constants.get(value_name)
            if tensor is None:
                continue
            value = numpy_helper.to_array(tensor)
            _check_finite(value, parameter, name)
            if value.ndim != 1:
                tensor.CopyFrom(numpy_helper.from_array(value.reshape(-1), value_name))
    return tuple(decisions)


def _leave_training_mode(node: onnx.NodeProto, used: set[str], name: str) -> bool:
    training = [a for a in node.attribute if a.name == "training_mode" and a.i == 1]
    if not training:
        return False
    statistics = [output for output in node.output[1:] if output in used]
    if statistics:
        raise ModelError(
            f"BatchNormalization {name} computes statistics of the batch that the network uses",
            seen=f"outputs {', '.join(statistics)} are read by other nodes",
            do="export the model for inference (model.eval() in torch)",
        )
    node.attribute.remove(training[0])
    del node.output[1:]
    return True


def _check_finite(value: np.ndarray, parameter: str, name: str) -> None:
    if not np.isfinite(value.astype(np.float64)).all():
        problem = "is NaN or infinite"
    elif parameter == "variance" and (value < 0).any():
        problem = "is negative"
    else:
        return
    raise ModelError(
        f"BatchNormalization {name} has unusable statistics",
        seen=f"its {parameter} {problem} in {int((~np.isfinite(value) | (value < 0)).sum())} of "
        f"{value.size} channels",
        do="export the model again from a sound checkpoint",
    )
