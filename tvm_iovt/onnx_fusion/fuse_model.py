"""The fusion rules on an ONNX model, repeated until nothing is left to fuse."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from tvm_iovt.fusion.convolution import InexactError
from tvm_iovt.fusion.rules import (
    Fusion,
    OperatorTime,
    Outcome,
    Refusal,
    fold_affine,
    fuse_sequence,
    fuse_sum,
)
from tvm_iovt.onnx_fusion.onnx_graph import OnnxGraph
from tvm_iovt.onnx_fusion.write_fusion import write_fusion
from tvm_iovt.types import Decision

if TYPE_CHECKING:
    import onnx

OnDecision = Callable[[Decision], None]
_Rule = Callable[[OnnxGraph, str, "OperatorTime | None"], Outcome | Iterable[Fusion | Refusal]]

# Branches first: a whole branch is put together in float64 before it is rounded once. Then one
# makes room for the next: merged branches expose the batch norm behind their sum, a folded batch
# norm the convolution before it.
_RULES: tuple[tuple[str, _Rule], ...] = (
    ("FuseParallelConvs", fuse_sum),
    ("FuseBatchNorm", fold_affine),
    ("FuseSequentialConvs", fuse_sequence),
)


def fuse_onnx(
    model: onnx.ModelProto,
    *,
    time: OperatorTime | None,
    on_decision: OnDecision = lambda decision: None,
) -> onnx.ModelProto:
    """A copy of the model with batch norms, parallel branches and sequences folded.

    Inputs, outputs, open axes, metadata, opsets and all nodes that are not fused stay as they are
    and where they are. Nodes and constants that nobody reads disappear only if a fusion made them
    so. Bodies of control flow (If, Loop, Scan) and of functions are not fused; what they read from
    outside counts as read.

    Args:
        model: Opset 7 or later, external data loaded.
        time: Estimates an operator's seconds from its FLOPs and bytes; fusions that cost more than
            they save are refused. None fuses whatever is exact.
        on_decision: Called with every fusion made, in order, and with what is refused in the end.
    """
    import onnx

    fused = onnx.ModelProto()
    fused.CopyFrom(model)
    graph = OnnxGraph(fused)
    while True:
        decisions = [d for name, rule in _RULES for d in _apply(graph, name, rule, time)]
        applied = [decision for decision in decisions if decision.applied]
        for decision in applied or decisions:
            on_decision(decision)
        if not applied:
            graph.finish()
            return fused


def _apply(
    graph: OnnxGraph, name: str, rule: _Rule, time: OperatorTime | None
) -> Iterable[Decision]:
    """Ask a rule at every operator, and write what it says."""
    for value in graph.values():
        outcome = rule(graph, value, time)
        found = (outcome,) if isinstance(outcome, (Fusion, Refusal)) else outcome or ()
        for one in found:
            applied, reason = False, one.reason
            if isinstance(one, Fusion):
                try:
                    write_fusion(graph, value, one)
                    applied = True
                except InexactError as error:
                    reason = str(error)
            yield Decision(transform=name, subject=one.subject, applied=applied, reason=reason)
