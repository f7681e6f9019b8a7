"""The fusion passes, repeated until nothing is left to fuse.

One makes room for the next: merged branches expose the batch norm behind their sum (QARepVGG,
RepViT), a folded batch norm exposes the convolution before it.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from relay_passes.fuse_batch_norm import FuseBatchNorm
from relay_passes.fuse_parallel_convs import FuseParallelConvs
from relay_passes.fuse_sequential_convs import FuseSequentialConvs
from relay_passes.rewriter import OnDecision
from tvm_iovt.fusion.rules import OperatorTime
from tvm_iovt.types import Decision


@tvm.transform.module_pass(opt_level=0, name="Reparameterize")
class Reparameterize:
    """Folds batch norms, parallel branches and sequences, to a fixed point.

    Args:
        on_decision: Called with every fusion made, in order, and with what is refused in the end.
        time: Estimates an operator's seconds from its FLOPs and bytes; fusions that cost more than
            they save are refused. None fuses whatever is exact.
    """

    def __init__(
        self, on_decision: OnDecision | None = None, time: OperatorTime | None = None
    ) -> None:
        self._on_decision = on_decision
        self._time = time

    def transform_module(self, mod: Any, _ctx: Any) -> Any:
        """Fuse in every Relax function of `mod`."""
        decisions: list[Decision] = []
        # Branches first: a whole branch is put together in float64 before it is rounded once.
        passes = [
            FuseParallelConvs(decisions.append, self._time),
            FuseBatchNorm(decisions.append, self._time),
            FuseSequentialConvs(decisions.append, self._time),
        ]
        while True:
            decisions.clear()
            fused = tvm.transform.Sequential(passes)(mod)
            applied = [decision for decision in decisions if decision.applied]
            self._report(applied or decisions)
            if not applied:
                return mod
            mod = relax.transform.CanonicalizeBindings()(fused)

    def _report(self, decisions: list[Decision]) -> None:
        if self._on_decision is not None:
            for decision in decisions:
                self._on_decision(decision)
