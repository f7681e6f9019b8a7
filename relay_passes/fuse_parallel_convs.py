"""Parallel branches that are added, as one convolution.

    Given:                                          # a RepVGG block, C channels
        %a = batch_norm(conv2d(%x, w3x3, pad 1))
        %b = batch_norm(conv2d(%x, w1x1))
        %c = batch_norm(%x)
        %y = add(add(%a, %b), %c)
    Result:
        %d = conv2d(%x, w, pad 1)                   # w = s_a w3x3 + pad(s_b w1x1) + s_c identity
        %y = add(%d, bias)

A branch is any chain of operators with constant parameters that is linear in the common input:
convolutions of any kernel (asymmetric, dilated), stride, padding and groups, batch norms, scales,
average pools that count their padding, paddings, crops, or the input itself. Each kernel is placed
where its taps read, so branches need not be centred on one another. Sums are flattened first: the
order of the additions and foreign terms (a residual) between the branches do not matter.

RepVGG arXiv 2101.03697, ACNet 1908.03930, DBB 2103.13425, MobileOne 2206.04040.
"""

from __future__ import annotations

from typing import Any

import tvm

from relay_passes.fusion_pass import FusionPass
from relay_passes.fusion_rewriter import Found
from tvm_iovt.fusion.linear_graph import LinearGraph
from tvm_iovt.fusion.rules import OperatorTime, fuse_sum


@tvm.transform.module_pass(opt_level=0, name="FuseParallelConvs")
class FuseParallelConvs(FusionPass):
    """Merges parallel linear branches of a sum into one convolution.

    Args:
        on_decision: Called with every merge made, and every branch that had to stay apart.
        time: Estimates an operator's seconds from its FLOPs and bytes; branches whose merge costs
            more than it saves stay apart. None merges whatever is exact.
    """

    transform = "FuseParallelConvs"

    def rule(self, graph: LinearGraph, value: Any, time: OperatorTime | None) -> Found:
        """See `tvm_iovt.fusion.rules.fuse_sum`."""
        return fuse_sum(graph, value, time)
