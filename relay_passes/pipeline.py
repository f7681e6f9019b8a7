"""The order in which the passes run: read this file as a table of contents."""

from __future__ import annotations

from typing import Any

from tvm import relax

from relay_passes.dequantize_after_conv import DequantizeAfterConv
from relay_passes.fold_clip import FoldClip
from relay_passes.reparameterize import Reparameterize
from relay_passes.restore_clip import RestoreClip
from relay_passes.restore_pad import RestorePad
from relay_passes.rewriter import OnDecision
from tvm_iovt.fusion.rules import OperatorTime


def graph_passes(
    on_decision: OnDecision | None = None, *, fuse: bool = True, time: OperatorTime | None = None
) -> tuple[Any, ...]:
    """Passes that bring an imported module to the form that everything behind expects.

    Args:
        on_decision: Called with every rewrite made or refused.
        fuse: Whether batch norms, branches and sequences are folded.
        time: Estimates an operator's seconds from its FLOPs and bytes; fusions that cost more than
            they save are refused. None fuses whatever is exact.
    """
    return (
        # Importer idioms back to single operators.
        RestoreClip(on_decision),
        RestorePad(on_decision),
        # Chains of clips, which those make visible.
        FoldClip(on_decision),
        # Batch norms, parallel branches and sequences, to a fixed point.
        *((Reparameterize(on_decision, time),) if fuse else ()),
        # Quantized arithmetic as integer kernels do it. The weights become whole numbers that must
        # not be scaled, so all fusion comes before.
        DequantizeAfterConv(on_decision),
        # What the rewrites left behind.
        relax.transform.CanonicalizeBindings(),
        relax.transform.DeadCodeElimination(),
    )
