"""The order in which the passes run: read this file as a table of contents."""

from __future__ import annotations

from typing import Any

from tvm import relax

from relay_passes.dequantize_after_conv import DequantizeAfterConv
from relay_passes.fold_clip import FoldClip
from relay_passes.reparameterize import Reparameterize
from relay_passes.restore_clip import RestoreClip
from relay_passes.rewriter import OnDecision
from tvm_iovt.fusion.rules import OperatorTime


def fusion_passes(
    on_decision: OnDecision | None = None, time: OperatorTime | None = None
) -> tuple[Any, ...]:
    """Passes that make one operator of several with constant weights.

    They run before `cleanup_passes`: afterwards the weights of quantized convolutions are whole
    numbers that must not be scaled.

    Args:
        on_decision: Called with every fusion made or refused.
        time: Estimates an operator's seconds from its FLOPs and bytes; fusions that cost more than
            they save are refused. None fuses whatever is exact.
    """
    return (
        # Batch norms, parallel branches and sequences, to a fixed point.
        Reparameterize(on_decision, time),
    )


def cleanup_passes(on_decision: OnDecision | None = None) -> tuple[Any, ...]:
    """Passes that bring an imported module to the form that everything behind expects.

    Args:
        on_decision: Called with every rewrite made or refused.
    """
    return (
        # Importer idioms back to single operators.
        RestoreClip(on_decision),
        # Chains of clips, which those make visible.
        FoldClip(on_decision),
        # Quantized arithmetic as integer kernels do it, while its constants are still in sight.
        DequantizeAfterConv(on_decision),
        # What the rewrites left behind.
        relax.transform.CanonicalizeBindings(),
        relax.transform.DeadCodeElimination(),
    )
