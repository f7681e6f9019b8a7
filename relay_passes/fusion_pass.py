"""What the fusion passes have in common: their arguments, and a rule asked at every operator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from relay_passes.fusion_rewriter import Found, fuse
from relay_passes.rewriter import OnDecision
from tvm_iovt.fusion.linear_graph import LinearGraph
from tvm_iovt.fusion.rules import OperatorTime


class FusionPass(ABC):
    """Base of the passes that apply one fusion rule; see `tvm_iovt.fusion.rules`.

    Args:
        on_decision: Called with every fusion made or refused.
        time: Estimates an operator's seconds from its FLOPs and bytes; fusions that cost more than
            they save are refused. None fuses whatever is exact.
    """

    transform: ClassVar[str]
    """Name of the pass, for its decisions."""

    def __init__(
        self, on_decision: OnDecision | None = None, time: OperatorTime | None = None
    ) -> None:
        self._on_decision = on_decision
        self._time = time

    def transform_module(self, mod: Any, _ctx: Any) -> Any:
        """Fuse in every Relax function of `mod`."""
        return fuse(mod, self.transform, self.rule, self._time, self._on_decision)

    @abstractmethod
    def rule(self, graph: LinearGraph, value: Any, time: OperatorTime | None) -> Found:
        """What becomes of the operator that computes a value."""
