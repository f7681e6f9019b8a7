"""A convolution and the one that alone reads it, as one convolution.

    Given:
        %m = conv2d(%x, w1x1) + b1          # (N, M, H, W)
        %y = conv2d(%m, w3x3, pad p) + b2
    Result:
        %y = conv2d(%x, w, pad p) + b       # w[o, i] = sum over m of w3x3[o, m] * w1x1[m, i]

The padding trap: the second convolution pads with zeros, where the first would go on with its bias
b1. The result is wrong along the border unless p = 0 or b1 = 0, or the bias is what the second
convolution makes of the constant map of b1 (a constant tensor, exact). A first kernel of several
taps under a padded second one has no such repair and is refused.

Average pools, paddings and crops count as convolutions; depthwise before pointwise is the
case of a grouped first one. Most such fusions cost more FLOPs than they save, so this pass is meant
to be run with an estimate of time. DBB: arXiv 2103.13425, transforms III and V.
"""

from __future__ import annotations

from typing import Any

import tvm

from relay_passes.fusion_pass import FusionPass
from relay_passes.fusion_rewriter import Found
from tvm_iovt.fusion.linear_graph import LinearGraph
from tvm_iovt.fusion.rules import OperatorTime, fuse_sequence


@tvm.transform.module_pass(opt_level=0, name="FuseSequentialConvs")
class FuseSequentialConvs(FusionPass):
    """Composes a convolution with the convolution, pool, padding or crop behind or before it.

    Args:
        on_decision: Called with every composition made or refused.
        time: Estimates an operator's seconds from its FLOPs and bytes; compositions that cost more
            than they save are refused. None composes whatever is exact.
    """

    transform = "FuseSequentialConvs"

    def rule(self, graph: LinearGraph, value: Any, time: OperatorTime | None) -> Found:
        """See `tvm_iovt.fusion.rules.fuse_sequence`."""
        return fuse_sequence(graph, value, time)
