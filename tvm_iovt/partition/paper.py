"""Plans by the published formulas of `paper_model`, for comparison with the exact planners."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from tvm_iovt.cost_graph import CostGraph
from tvm_iovt.errors import IovtError
from tvm_iovt.partition.paper_model import PaperModel, gradient_share, grid_share


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperPlan:
    """What the published method would do with a network.

    Attributes:
        share: Of the network on the first device, by the chosen algorithm.
        position: The cut: the unit boundary whose share of the FLOPs is nearest.
        latency_s: What the formulas promise.
        first_s: T1.
        second_s: T2.
        transfer_s: T3.
        grid_share: By grid search.
        gradient_share: By gradient descent.
        reason: In words.
    """

    share: float
    position: int
    latency_s: float
    first_s: float
    second_s: float
    transfer_s: float
    grid_share: float
    gradient_share: float
    reason: str


def paper_plan(
    graph: CostGraph,
    peaks_flops: tuple[float, float],
    bandwidths: tuple[float, float],
    link_bytes_per_s: float,
    transmitted_bytes: float | None = None,
    utilisation: tuple[float, float] = (1.0, 1.0),
    k: float = 1.0,
    p: float = 1.0,
    *,
    algorithm: str = "grid",
    enforce_ridges: bool = False,
) -> PaperPlan:
    """The published method's plan for a network; all arguments are numbers as in `PaperModel`.

    Args:
        graph: The network. Its intensity is that of all FLOPs to all traffic, weights included.
        peaks_flops: FLOPs a second of the first and the second device.
        bandwidths: Bytes a second of their memories.
        link_bytes_per_s: From one to the other; infinite where nothing has to move.
        transmitted_bytes: Ne; by default the bytes of the network's inputs.
        utilisation: Of the devices.
        k: Share of computation by share of the network.
        p: Share of traffic by share of the network.
        algorithm: `grid` or `gradient`.
        enforce_ridges: Whether the grid search leaves out what the constraint forbids.

    Raises:
        IovtError: A number is not valid, there is no such algorithm, or the network has no FLOPs.
    """
    flops = sum(unit.flops for unit in graph.units)
    nbytes = sum(unit.nbytes for unit in graph.units)
    if algorithm not in ("grid", "gradient") or not flops or not nbytes:
        raise IovtError(
            "The published formulas do not apply",
            seen=f"algorithm {algorithm!r} (known: grid, gradient), {flops} FLOPs, {nbytes} bytes",
        )
    model = PaperModel(
        flops=flops,
        intensity=flops / nbytes,
        peaks_flops=peaks_flops,
        bandwidths=bandwidths,
        link_bytes_per_s=link_bytes_per_s,
        transmitted_bytes=(
            graph.crossing_bytes[0] if transmitted_bytes is None else transmitted_bytes
        ),
        utilisation=utilisation,
        k=k,
        p=p,
    )
    by_grid = grid_share(model, enforce_ridges=enforce_ridges)
    by_gradient = gradient_share(model)
    share = by_grid if algorithm == "grid" else by_gradient
    position = nearest_position(graph, share)
    met = model.within_ridges(share)
    return PaperPlan(
        share=share,
        position=position,
        latency_s=model.latency_s(share),
        first_s=model.first_s(share),
        second_s=model.second_s(share),
        transfer_s=model.transfer_s,
        grid_share=by_grid,
        gradient_share=by_gradient,
        reason=f"the published formulas put {share:.0%} of the network on the first device, "
        f"{position} of {len(graph.units)} units; their ridge constraint is "
        f"{'met' if met else 'not met'}",
    )


def nearest_position(graph: CostGraph, share: float) -> int:
    """The unit boundary whose share of the FLOPs before it is nearest to a share.

    Units without FLOPs make equals; of those it is the one towards the end that the share is nearer
    to, as the ends stand for the whole network on one device.
    """
    done = [0, *itertools.accumulate(unit.flops for unit in graph.units)]
    total = done[-1] or 1
    away = [abs(flops / total - share) for flops in done]
    nearest = min(away)
    equals = [position for position, distance in enumerate(away) if distance == nearest]
    return equals[-1] if share >= 0.5 else equals[0]
