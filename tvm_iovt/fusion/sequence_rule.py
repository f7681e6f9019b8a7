"""A convolution behind a convolution, pool, padding or crop."""

from __future__ import annotations

from tvm_iovt.fusion.convolution import InexactError, add
from tvm_iovt.fusion.costs import (
    OperatorTime,
    composed_time,
    costs_more,
    fused_time,
    shared_weight,
    time_apart,
)
from tvm_iovt.fusion.linear_graph import (
    CARRIERS,
    SPATIAL,
    Blocked,
    Chain,
    LinearGraph,
    Value,
    composed,
    walk,
    while_affine,
)
from tvm_iovt.fusion.outcome import Fusion, Outcome, Refusal, describe


def fuse_sequence(graph: LinearGraph, value: Value, time: OperatorTime | None) -> Outcome:
    """A convolution and the convolution, pool, padding or crop that alone reads its result."""
    chain = walk(graph, value)
    if not chain.operators:
        return None
    last = chain.operators[0]
    between = while_affine(chain.operators[1:])
    below = chain.operators[1 + len(between) :]
    if not below:
        return _near_miss_sequence(graph, chain)
    first = below[0]
    kinds = {last.kind, first.kind}
    images = kinds <= SPATIAL and "conv2d" in kinds
    if not images and kinds != {"dense"}:
        return None
    operators = (last, *between, first)
    carrier = last if last.kind in CARRIERS else first
    subject = f"{first.name}, {last.name}"
    shared = shared_weight(graph, operators, time)
    if shared:
        return Refusal(subject=subject, reason=shared)
    separate = time_apart(graph, first, time) + time_apart(graph, last, time)
    try:
        # A depthwise before a pointwise convolution makes a kernel of gigabytes: estimate first.
        fused = composed_time(graph, first, last, time)
        if fused > separate:
            return Refusal(subject=subject, reason=costs_more(fused, separate))
        total = add([composed(graph, operators)])
    except InexactError as error:
        return Refusal(subject=subject, reason=str(error))
    fused = fused_time(graph, total, first.operand, last.result, time)
    if fused > separate:
        return Refusal(subject=subject, reason=costs_more(fused, separate))
    return Fusion(
        operators=operators,
        carrier=carrier,
        source=first.operand,
        convolution=total,
        subject=subject,
        reason=f"one after another: {describe(total)}",
    )


def _near_miss_sequence(graph: LinearGraph, chain: Chain) -> Outcome:
    """Two convolutions that a second consumer alone keeps apart."""
    last = chain.operators[0]
    if last.kind != "conv2d" or graph.uses(last.operand) < 2:
        return None
    first = graph.operator(last.operand)
    if isinstance(first, Blocked) or first.kind != "conv2d":
        return None
    return Refusal(subject=f"{first.name}, {last.name}", reason=chain.blocked.reason)
