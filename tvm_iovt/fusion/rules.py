"""The fusion rules: which operators become one, and why others do not.

Each rule looks at the operator that computes one value and says `Fusion`, `Refusal`, or None when
the pattern is not there at all. Rules change nothing; the graph's own rewriter does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tvm_iovt.fusion.convolution import (
    Convolution,
    InexactError,
    Pair,
    add,
    composed_kernel_size,
    identity,
    negate,
)
from tvm_iovt.fusion.linear_graph import (
    AFFINE,
    CARRIERS,
    SPATIAL,
    Blocked,
    Chain,
    LinearGraph,
    LinearOperator,
    Term,
    Value,
    ancestors,
    composed,
    walk,
)

OperatorTime = Callable[[int, int], float]
"""Seconds that an operator of so many FLOPs and bytes takes; see `tvm_iovt.roofline.Ceilings`."""

# How far the search for a branch's origin goes on behind an operator that is not linear, to tell a
# near miss from an unrelated sum.
_NEAR_MISS_STEPS = 16

# What a merged branch can be written as.
_MERGEABLE = frozenset({"conv2d", "dense"})

# Stands for an unknown image size in the comparison of costs.
_NOMINAL_HW = (32, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """Operators that become one.

    Attributes:
        operators: What is replaced.
        carrier: The operator whose form (layout, types) the new one takes.
        source: What the new operator reads.
        convolution: The new operator. For a transposed convolution: what is applied to the
            channels of its result.
        rest: Terms of the sum that remain to be added.
        subject: The operators' names.
        reason: What was done.
    """

    operators: tuple[LinearOperator, ...]
    carrier: LinearOperator
    source: Value
    convolution: Convolution
    rest: tuple[Term, ...] = ()
    subject: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A pattern that is left alone, and why."""

    subject: str
    reason: str


Outcome = Fusion | Refusal | None


def fold_affine(graph: LinearGraph, value: Value, time: OperatorTime | None) -> Outcome:
    """Batch norms, scales and shifts into the convolution or dense layer beside them.

    Args:
        graph: The graph.
        value: Result of the last operator of the pattern.
        time: Decides where the fused form costs something (a bias that differs along the border);
            None fuses whatever is exact.
    """
    chain = walk(graph, value)
    after = _while_affine(chain.operators)
    if not after:
        return _fold_into_next(graph, chain, time)
    subject = after[0].name
    if len(after) == len(chain.operators) or chain.operators[len(after)].kind not in CARRIERS:
        if not any(operator.kind == "batch_norm" for operator in after):
            return None
        between = len(after) < len(chain.operators)
        reason = f"reads {chain.operators[len(after)].kind}" if between else chain.blocked.reason
        return Refusal(subject=subject, reason=reason)
    carrier = chain.operators[len(after)]
    if tuple(operator.kind for operator in (*after, carrier)) in graph.canonical:
        return None
    operators = (*after, carrier)
    shared = _shared_weight(graph, operators, time)
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
    before = _while_affine(chain.operators[1:])
    if not before:
        return None
    operators = (carrier, *before)
    subject = before[0].name
    if carrier.kind == "conv2d_transpose":
        return Refusal(subject=subject, reason="stands before a transposed convolution")
    shared = _shared_weight(graph, operators, time)
    if shared:
        return Refusal(subject=subject, reason=shared)
    try:
        total = add([composed(graph, operators)])
    except InexactError as error:
        return Refusal(subject=subject, reason=str(error))
    # Fused, the constant bias map is read. On its own, it is computed by the operator before it,
    # and costs a pass only where there is none.
    separate = _time(graph, carrier, time)
    if _is_input(graph, before[-1].operand):
        separate += _pass_time(graph, carrier.operand, carrier, time)
    fused = _fused_time(graph, total, carrier, time)
    if fused > separate:
        return Refusal(subject=subject, reason=_costs_more(fused, separate))
    note = " with a bias that differs along the border" if total.has_bias_map else ""
    return Fusion(
        operators=operators,
        carrier=carrier,
        source=before[-1].operand,
        convolution=total,
        subject=subject,
        reason=f"folded into {carrier.name}{note}",
    )


def fuse_sequence(graph: LinearGraph, value: Value, time: OperatorTime | None) -> Outcome:
    """A convolution and the convolution, pool, padding or crop that alone reads its result."""
    chain = walk(graph, value)
    if not chain.operators:
        return None
    last = chain.operators[0]
    between = _while_affine(chain.operators[1:])
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
    shared = _shared_weight(graph, operators, time)
    if shared:
        return Refusal(subject=subject, reason=shared)
    separate = _time(graph, first, time) + _time(graph, last, time)
    try:
        # A depthwise before a pointwise convolution makes a kernel of gigabytes: estimate first.
        fused = _composed_time(graph, first, last, time)
        if fused > separate:
            return Refusal(subject=subject, reason=_costs_more(fused, separate))
        total = add([composed(graph, operators)])
    except InexactError as error:
        return Refusal(subject=subject, reason=str(error))
    fused = _fused_time(graph, total, last, time)
    if fused > separate:
        return Refusal(subject=subject, reason=_costs_more(fused, separate))
    return Fusion(
        operators=operators,
        carrier=carrier,
        source=first.operand,
        convolution=total,
        subject=subject,
        reason=f"one after another: {_describe(total)}",
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


def fuse_sum(
    graph: LinearGraph, value: Value, time: OperatorTime | None
) -> tuple[Fusion | Refusal, ...]:
    """Parallel branches of one input that are added.

    Returns:
        At most one `Fusion` (the terms that it leaves over may make another), and a `Refusal` for
        every term that reads the same input but cannot join.
    """
    found = graph.terms(value)
    if found is None or graph.feeds_sum(value):
        return ()
    if isinstance(found, Blocked):
        return _near_miss_sum(graph, found)
    terms = _flatten(graph, found)
    branches = [_Branch.read(graph, term) for term in terms]
    refusals: list[Refusal] = []
    for source in _common_sources(branches):
        members = [b for b in branches if b.reaches(source)]
        members, inexact = _exact(graph, members, source)
        refusals += inexact
        members, costly = _worthwhile(graph, members, source, time)
        refusals += costly
        if members:
            fusion = _sum_fusion(members, source, branches)
            near = _near_misses(graph, branches, members, {source})
            return (fusion, *_unique([*refusals, *near]))
    return _unique([*refusals, *_near_misses(graph, branches, [], set())])


class _Branch:
    """One term of a sum and the values that it can be said to read."""

    def __init__(self, term: Term, chain: Chain) -> None:
        self.term = term
        self.chain = chain
        self.convolution: Convolution | None = None

    @staticmethod
    def read(graph: LinearGraph, term: Term) -> _Branch:
        chain = walk(graph, term.value)
        if graph.uses(term.value) > 1 and chain.operators:
            name = chain.operators[0].name
            blocked = Blocked(reason=f"the output of {name} has another consumer")
            chain = Chain(value=term.value, operators=(), blocked=blocked)
        return _Branch(term, chain)

    def sources(self) -> list[Value]:
        """From the term itself backwards."""
        return [self.chain.source(depth) for depth in range(len(self.chain.operators) + 1)]

    def reaches(self, source: Value) -> bool:
        return source in self.sources()

    def operators(self, source: Value) -> tuple[LinearOperator, ...]:
        return self.chain.operators[: self.sources().index(source)]

    def has_conv(self, source: Value) -> bool:
        return any(operator.kind in _MERGEABLE for operator in self.operators(source))

    @property
    def convolves(self) -> bool:
        """Whether the branch itself is a convolution, for all that can be said."""
        return any(operator.kind in _MERGEABLE for operator in self.chain.operators)

    def name(self, source: Value) -> str:
        operators = self.operators(source)
        spatial = [o.name for o in reversed(operators) if o.kind in SPATIAL | _MERGEABLE]
        return " > ".join(spatial) or (operators[0].name if operators else "identity")


def _common_sources(branches: list[_Branch]) -> list[Value]:
    """Values that several branches read, one of them by a convolution; the most promising first."""
    depths: dict[Value, list[int]] = {}
    for branch in branches:
        for depth, source in enumerate(branch.sources()):
            depths.setdefault(source, []).append(depth)
    common = [
        source
        for source, found in depths.items()
        if len(found) > 1 and any(b.reaches(source) and b.has_conv(source) for b in branches)
    ]
    return sorted(common, key=lambda source: (-len(depths[source]), sum(depths[source])))


def _exact(
    graph: LinearGraph, members: list[_Branch], source: Value
) -> tuple[list[_Branch], list[Refusal]]:
    """The branches that have a normal form which can be added to the first convolution's."""
    kept: list[_Branch] = []
    refusals: list[Refusal] = []
    # Convolutions first: they set the channels that an identity takes.
    for branch in sorted(members, key=lambda b: not b.has_conv(source)):
        operators = branch.operators(source)
        try:
            if operators:
                operator = composed(graph, operators)
            else:
                known = kept[0].convolution if kept else None
                if known is None:
                    continue
                operator = identity(known.in_channels)
            if branch.term.sign < 0:
                operator = negate(operator)
            if kept:
                assert kept[0].convolution is not None
                add([kept[0].convolution, operator])
        except InexactError as error:
            refusals.append(Refusal(subject=branch.name(source), reason=str(error)))
            continue
        branch.convolution = operator
        kept.append(branch)
    return kept, refusals


def _worthwhile(
    graph: LinearGraph, members: list[_Branch], source: Value, time: OperatorTime | None
) -> tuple[list[_Branch], list[Refusal]]:
    """The branches whose fusion saves time; empty when fewer than two are left."""
    together = [operator for branch in members for operator in branch.operators(source)]
    shared = [_shared_weight(graph, b.operators(source), time, together) for b in members]
    refusals = [
        Refusal(subject=b.name(source), reason=reason)
        for b, reason in zip(members, shared, strict=True)
        if reason
    ]
    members = [b for b, reason in zip(members, shared, strict=True) if not reason]
    if not _fusible(members, source):
        return [], refusals
    if time is None:
        return members, refusals
    result = members[0].term.value

    def total_s(chosen: list[_Branch]) -> float:
        apart = sum(_branch_time(graph, b, source, time) for b in members if b not in chosen)
        if not chosen:
            return apart
        merged = add([b.convolution for b in chosen if b.convolution is not None])
        return apart + _operator_time(graph, merged, source, result, time)

    separate_s, chosen = total_s([]), members
    best_s = total_s(chosen)
    while len(chosen) > 2:
        fewer = [[b for b in chosen if b is not out] for out in chosen]
        fewer = [subset for subset in fewer if _fusible(subset, source)]
        if not fewer:
            break
        candidate = min(fewer, key=total_s)
        candidate_s = total_s(candidate)
        if candidate_s >= best_s:
            break
        chosen, best_s = candidate, candidate_s
    if best_s > separate_s:
        names = " + ".join(b.name(source) for b in members)
        return [], [*refusals, Refusal(subject=names, reason=_costs_more(best_s, separate_s))]
    for branch in members:
        if branch not in chosen:
            reason = _costs_more(total_s([*chosen, branch]), best_s)
            refusals.append(Refusal(subject=branch.name(source), reason=reason))
    return chosen, refusals


def _fusible(members: list[_Branch], source: Value) -> bool:
    return len(members) > 1 and any(b.has_conv(source) for b in members)


def _sum_fusion(members: list[_Branch], source: Value, branches: list[_Branch]) -> Fusion:
    merged = add([b.convolution for b in members if b.convolution is not None])
    operators = tuple(itertools.chain.from_iterable(b.operators(source) for b in members))
    convolutions = [operator for operator in operators if operator.kind in _MERGEABLE]
    # The largest kernel is the one that the others are added to.
    carrier = max(convolutions, key=lambda o: o.convolution().kernel.shape[2:])
    return Fusion(
        operators=operators,
        carrier=carrier,
        source=source,
        convolution=merged,
        rest=tuple(b.term for b in branches if b not in members),
        subject=" + ".join(b.name(source) for b in branches if b in members),
        reason=f"{len(members)} branches: {_describe(merged)}",
    )


def _flatten(graph: LinearGraph, terms: Iterable[Term]) -> list[Term]:
    flat: list[Term] = []
    for term in terms:
        inner = graph.terms(term.value) if graph.uses(term.value) == 1 else None
        if isinstance(inner, tuple):
            flat += [Term(t.value, t.sign * term.sign) for t in _flatten(graph, inner)]
        else:
            flat.append(term)
    return flat


def _near_misses(
    graph: LinearGraph, branches: list[_Branch], members: list[_Branch], sources: set[Value]
) -> list[Refusal]:
    """Branches that would have joined but for an operator on the way."""
    found = []
    reachable = sources | {s for b in branches if b not in members for s in b.sources()}
    for branch in branches:
        if branch in members or not (members or any(b.convolves for b in branches)):
            continue
        own = set(branch.sources()) if branch.chain.operators else {branch.term.value}
        behind = branch.chain.source(len(branch.chain.operators))
        for value, obstacle in ancestors(graph, behind, _NEAR_MISS_STEPS):
            if value in reachable - own:
                reason = branch.chain.blocked.reason or obstacle
                name = branch.chain.operators[0].name if branch.chain.operators else "a branch"
                found.append(Refusal(subject=name, reason=reason))
                break
    return found


def _near_miss_sum(graph: LinearGraph, blocked: Blocked) -> tuple[Refusal, ...]:
    """A broadcast sum whose operands are branches of one input."""
    branches = [_Branch.read(graph, Term(value)) for value in blocked.operands]
    if not _common_sources(branches):
        return ()
    return (Refusal(subject=blocked.name, reason=blocked.reason),)


def _unique(refusals: Iterable[Refusal]) -> tuple[Refusal, ...]:
    return tuple({refusal.subject: refusal for refusal in refusals}.values())


def _while_affine(operators: tuple[LinearOperator, ...]) -> tuple[LinearOperator, ...]:
    return tuple(itertools.takewhile(lambda operator: operator.kind in AFFINE, operators))


def _shared_weight(
    graph: LinearGraph,
    operators: Sequence[LinearOperator],
    time: OperatorTime | None,
    together: Sequence[LinearOperator] = (),
) -> str:
    """Why weights should stay as they are: others read them, so folding would store them twice.

    Args:
        graph: The graph.
        operators: Those whose weights are looked at.
        time: None fuses all the same.
        together: All that will be fused, if more; weights that only they share are fine.
    """
    if time is None:
        return ""
    for operator in operators:
        if operator.weight is None:
            continue
        own = sum(o.weight == operator.weight for o in together or operators)
        if graph.weight_uses(operator.weight) > own:
            return f"the weight of {operator.name} is shared with another operator"
    return ""


def _branch_time(graph: LinearGraph, branch: _Branch, source: Value, time: OperatorTime) -> float:
    """A branch on its own; the addition of its result is one more pass over that."""
    operators = branch.operators(source)
    spatial = sum(_time(graph, o, time) for o in operators)
    return spatial + _traffic_time(graph, branch.term.value, branch.convolution, time)


def _time(graph: LinearGraph, operator: LinearOperator, time: OperatorTime | None) -> float:
    if time is None or operator.kind in AFFINE:
        return 0.0
    return _operator_time(graph, operator.convolution(), operator.operand, operator.result, time)


def _fused_time(
    graph: LinearGraph, fused: Convolution, last: LinearOperator, time: OperatorTime | None
) -> float:
    if time is None:
        return 0.0
    return _operator_time(graph, fused, None, last.result, time)


def _composed_time(
    graph: LinearGraph, first: LinearOperator, last: LinearOperator, time: OperatorTime | None
) -> float:
    """Lower bound of two operators' time as one."""
    if time is None:
        return 0.0
    size = composed_kernel_size(first.convolution(), last.convolution())
    area = _area(graph.image_hw(last.result) or _NOMINAL_HW)
    return time(2 * size * area, size * graph.element_bytes(last.result))


def _operator_time(
    graph: LinearGraph, operator: Convolution, operand: Value, result: Value, time: OperatorTime
) -> float:
    out_hw = graph.image_hw(result) or _NOMINAL_HW
    in_hw = (out_hw[0] * operator.strides[0], out_hw[1] * operator.strides[1])
    if operand is not None:
        in_hw = graph.image_hw(operand) or in_hw
    elements = (
        operator.in_channels * _area(in_hw)
        + operator.out_channels * _area(out_hw)
        + operator.kernel.size
        + operator.bias.size
    )
    return time(operator.flops(out_hw), elements * graph.element_bytes(result))


def _is_input(graph: LinearGraph, value: Value) -> bool:
    found = graph.operator(value)
    return isinstance(found, Blocked) and not found.operands


def _pass_time(
    graph: LinearGraph, value: Value, reader: LinearOperator, time: OperatorTime | None
) -> float:
    """An operator that reads and writes a tensor once."""
    if time is None:
        return 0.0
    traffic = _traffic_time(graph, value, reader.convolution(), time, of_input=True)
    return time(0, 0) + 2 * traffic


def _traffic_time(
    graph: LinearGraph,
    value: Value,
    operator: Convolution | None,
    time: OperatorTime,
    *,
    of_input: bool = False,
) -> float:
    if operator is None:
        return 0.0
    channels = operator.in_channels if of_input else operator.out_channels
    nbytes = channels * _area(graph.image_hw(value) or _NOMINAL_HW) * graph.element_bytes(value)
    return time(0, nbytes) - time(0, 0)


def _area(hw: Pair) -> int:
    return hw[0] * hw[1]


def _costs_more(fused_s: float, separate_s: float) -> str:
    return (
        f"costs more than it saves: estimated {fused_s * 1e6:.1f} us fused, "
        f"{separate_s * 1e6:.1f} us apart"
    )


def _describe(operator: Convolution) -> str:
    """`3x3, 48 to 96 channels`, with what is out of the ordinary."""
    parts = [
        f"{operator.size[0]}x{operator.size[1]}, {operator.in_channels} to "
        f"{operator.out_channels} channels"
    ]
    if operator.groups > 1:
        parts.append(f"{operator.groups} groups")
    if operator.dilation != (1, 1):
        parts.append(f"dilation {operator.dilation[0]}x{operator.dilation[1]}")
    if operator.has_bias_map:
        parts.append("a bias that differs along the border")
    return ", ".join(parts)
