"""The graph passes, as one or several targets want them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tvm_iovt.roofline import assumed_ceilings
from tvm_iovt.types import Decision, TargetSpec

if TYPE_CHECKING:
    from tvm_iovt.frontend.network import Network
    from tvm_iovt.fusion.rules import OperatorTime


def run_graph_passes(
    network: Network, specs: Sequence[TargetSpec], fuse: str
) -> tuple[Any, tuple[Decision, ...]]:
    """The network's module after the graph passes, and what they decided.

    Args:
        network: The imported network.
        specs: The targets that run it, or parts of it.
        fuse: `always`, `auto` or `never`, see `CompileOptions`.
    """
    import relay_passes
    from tvm_iovt import _tvm

    decisions: list[Decision] = []
    time = _time_on_all(specs) if fuse == "auto" else None
    passes = relay_passes.graph_passes(decisions.append, fuse=fuse != "never", time=time)
    module = _tvm.tvm.transform.Sequential(passes)(network.module)
    return module, tuple(decisions)


def annotate(
    network: Network, specs: Sequence[TargetSpec], fuse: str
) -> tuple[Any, tuple[Decision, ...]]:
    """As `run_graph_passes`, with the costs of the network's units beside it (`AnnotateCost`)."""
    import relay_passes

    module, decisions = run_graph_passes(network, specs, fuse)
    annotate_cost: Any = relay_passes.AnnotateCost(network.inputs, network.outputs)
    return annotate_cost(module), decisions


def _time_on_all(specs: Sequence[TargetSpec]) -> OperatorTime:
    """Sum over the targets: which of them runs an operator is not known before it is planned."""
    ceilings = [assumed_ceilings(spec) for spec in specs]
    return lambda flops, nbytes: sum(each.time_s(flops, nbytes) for each in ceilings)
