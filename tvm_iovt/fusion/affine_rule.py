"""Batch norms, scales and shifts of channels beside a convolution or dense layer."""

from __future__ import annotations

from collections.abc import Sequence

from tvm_iovt.fusion.convolution import InexactError, add
from tvm_iovt.fusion.costs import (
    OperatorTime,
    costs_more,
    fused_time,
    pass_time,
    shared_weight,
    time_apart,
)
from tvm_iovt.fusion.linear_graph import (
    AFFINE,
    CARRIERS,
    Blocked,
    Chain,
    LinearGraph,
    LinearOperator,
    Value,
    composed,
    walk,
    while_affine,
)
from tvm_iovt.fusion.outcome import Fusion, Outcome, Refusal


def fold_affine(graph: LinearGraph, value: Value, time: OperatorTime | None) -> Outcome:
    """Batch norms, scales and shifts into the convolution or dense layer beside them.

    Args:
        graph: The graph.
        value: Result of the last operator of the pattern.
        time: Decides where the fused form costs something (a bias that differs along the border);
            None fuses whatever is exact.
    """
    chain = walk(graph, value)
    if not chain.operators and chain.blocked.kind == "batch_norm":
        return Refusal(subject=graph.name(value), reason=chain.blocked.reason)
    after = while_affine(chain.operators)
    if not after:
        return _fold_into_next(graph, chain, time)
    if _feeds_affine(graph, value):
        return None
    subject = ", ".join(operator.name for operator in reversed(after))
    if len(after) == len(chain.operators) or chain.operators[len(after)].kind not in CARRIERS:
        if not any(operator.kind == "batch_norm" for operator in after):
            return None
        if _feeds_carrier(graph, value):
            return None
        between = len(after) < len(chain.operators)
        reason = f"reads {chain.operators[len(after)].kind}" if between else chain.blocked.reason
        return Refusal(subject=subject, reason=reason)
    carrier = chain.operators[len(after)]
    if _is_bias(graph, after, carrier):
        return None
    operators = (*after, carrier)
    shared = shared_weight(graph, operators, time)
    if shared:
        return Refusal(subject=subject, reason=shared)
    try:
        # A transposed convolution has no normal form: only what follows it is put together.
        parts = after if carrier.kind == "conv2d_transpose" else operators
        total = composed(graph, parts)
    except InexactError as error:
        return Refusal(subject=subject, reason=str(error))
    return Fusion(
        operators=operators,
        carrier=carrier,
        source=carrier.operand,
        convolution=total,
        subject=subject,
        reason=f"folded into {carrier.name}",
    )


def _fold_into_next(graph: LinearGraph, chain: Chain, time: OperatorTime | None) -> Outcome:
    """Affine operators in front of a convolution or dense layer."""
    if not chain.operators or chain.operators[0].kind not in CARRIERS:
        return None
    carrier = chain.operators[0]
    before = while_affine(chain.operators[1:])
    if not before or _is_bias(graph, before, *chain.operators[1 + len(before) :][:1]):
        return None
    operators = (carrier, *before)
    subject = before[0].name
    if carrier.kind == "conv2d_transpose":
        return Refusal(subject=subject, reason="stands before a transposed convolution")
    shared = shared_weight(graph, operators, time)
    if shared:
        return Refusal(subject=subject, reason=shared)
    try:
        total = add([composed(graph, operators)])
    except InexactError as error:
        return Refusal(subject=subject, reason=str(error))
    # Fused, the constant bias map is read. On its own, it is computed by the operator before it,
    # and costs a pass only where there is none.
    separate = time_apart(graph, carrier, time)
    if _is_input(graph, before[-1].operand):
        separate += pass_time(graph, carrier.operand, total.in_channels, time)
    fused = fused_time(graph, total, before[-1].operand, carrier.result, time)
    # The bound hides reading a bias map behind arithmetic; a kernel does not always.
    if fused > separate or (time is not None and total.has_bias_map and fused == separate):
        return Refusal(subject=subject, reason=costs_more(fused, separate))
    note = " with a bias that differs along the border" if total.has_bias_map else ""
    return Fusion(
        operators=operators,
        carrier=carrier,
        source=before[-1].operand,
        convolution=total,
        subject=subject,
        reason=f"folded into {carrier.name}{note}",
    )


def _is_bias(
    graph: LinearGraph, affine: Sequence[LinearOperator], *carrier: LinearOperator
) -> bool:
    """Whether affine operators are the bias of the one before them, as the format writes it."""
    return tuple(operator.kind for operator in (*affine, *carrier)) in graph.canonical


def _is_input(graph: LinearGraph, value: Value) -> bool:
    found = graph.operator(value)
    return isinstance(found, Blocked) and not found.operands


def _feeds_carrier(graph: LinearGraph, value: Value) -> bool:
    """Whether the one operator that reads a value may take what is before it."""
    found = _read_by(graph, value)
    return found is not None and found.kind in CARRIERS


def _feeds_affine(graph: LinearGraph, value: Value) -> bool:
    """Whether the one operator that reads a value acts on channels: it is folded with it."""
    found = _read_by(graph, value)
    if found is None or found.kind not in AFFINE:
        return False
    try:
        found.convolution()
    except InexactError:
        return False
    return True


def _read_by(graph: LinearGraph, value: Value) -> LinearOperator | None:
    reader = graph.reader(value)
    found = graph.operator(reader) if reader is not None else None
    return found if isinstance(found, LinearOperator) else None
