"""Batch norms, and scales and shifts of channels, folded into the weights beside them.

    Given:
        %c = conv2d(%x, w)                       # or conv2d_transpose, or a dense layer
        %b = add(%c, bias)
        %y = batch_norm(%b, gamma, beta, mean, variance)[0]
    Result:
        %c = conv2d(%x, w * s)                   # s = gamma / sqrt(variance + epsilon)
        %y = add(%c, beta + (bias - mean) * s)

The batch norm may also stand before the convolution. If that pads its input, the padding does not
carry the batch norm's shift as the image does, and the fused bias differs along the border: it
becomes a constant tensor of the output's size, which `auto` weighs against the batch norm's cost.

Batch normalization: arXiv 1502.03167; folding: arXiv 1712.05877, section 3.2.
"""

from __future__ import annotations

from typing import Any

import tvm

from relay_passes.fusion_pass import FusionPass
from relay_passes.fusion_rewriter import Found
from tvm_iovt.fusion.linear_graph import LinearGraph
from tvm_iovt.fusion.rules import OperatorTime, fold_affine


@tvm.transform.module_pass(opt_level=0, name="FuseBatchNorm")
class FuseBatchNorm(FusionPass):
    """Folds batch norms into convolutions, transposed convolutions and dense layers.

    Args:
        on_decision: Called with every folding made or refused.
        time: Estimates an operator's seconds from its FLOPs and bytes; foldings that cost more
            than they save are refused. None folds whatever is exact.
    """

    transform = "FuseBatchNorm"

    def rule(self, graph: LinearGraph, value: Any, time: OperatorTime | None) -> Found:
        """See `tvm_iovt.fusion.rules.fold_affine`."""
        return fold_affine(graph, value, time)
