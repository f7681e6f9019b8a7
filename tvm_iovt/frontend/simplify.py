"""Constant folding and clean-up before the import; it cures most failures of TVM's importer."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING

from tvm_iovt.types import Decision

if TYPE_CHECKING:
    import onnx

MAX_ROUNDS = 8

# Arithmetic on weights is left to our own passes: float64, at any distance, and with a reason for
# whatever stays as it is.
_WEIGHT_FUSIONS = (
    "FusionConvAdd",
    "FusionConvBN",
    "FusionConvMul",
    "FusionConvTransposeAdd",
    "FusionConvTransposeBN",
    "FusionConvTransposeMul",
    "FusionGemmAdd",
    "FusionGemmMul",
)


def simplify(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[Decision, ...]]:
    """The model with constants folded and shape arithmetic gone, input and output names kept.

    A model that the simplifier cannot digest is returned as it was, with a decision that says so:
    it may still import.
    """
    import onnx

    before = len(model.graph.node)
    names = _interface(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    try:
        # onnxslim prints its progress; stdout belongs to --json.
        with contextlib.redirect_stdout(io.StringIO()):
            slim = _slim(copy)
            # What one round folds lets the next see more: shape arithmetic of transformers takes
            # several. The rounds end by themselves; the bound is against a simplifier's bug.
            for _ in range(MAX_ROUNDS):
                nodes = len(slim.graph.node)
                slim = _slim(slim)
                if len(slim.graph.node) >= nodes:
                    break
    except Exception as error:  # third-party pattern code: anything may come out of it
        reason = f"onnxslim failed ({type(error).__name__}: {error}); imported as exported"
        return model, (_decision(applied=False, reason=reason),)
    if slim is None or _interface(slim) != names:
        reason = "onnxslim changed the graph's inputs or outputs; imported as exported"
        return model, (_decision(applied=False, reason=reason),)
    after = len(slim.graph.node)
    return slim, (_decision(applied=True, reason=f"{before} nodes to {after}"),)


def _slim(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxslim

    return onnxslim.slim(model, model_check=False, skip_fusion_patterns=list(_WEIGHT_FUSIONS))


def _decision(*, applied: bool, reason: str) -> Decision:
    return Decision(transform="Simplify", subject="graph", applied=applied, reason=reason)


def _interface(model: onnx.ModelProto) -> tuple[list[str], list[str]]:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in constants]
    return inputs, [value.name for value in model.graph.output]
