"""Parallel branches of one input that are added."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from tvm_iovt.fusion.branches import MERGEABLE, Branch, flatten
from tvm_iovt.fusion.convolution import InexactError, add, identity, negate
from tvm_iovt.fusion.costs import OperatorTime
from tvm_iovt.fusion.linear_graph import Blocked, LinearGraph, Term, Value, ancestors, composed
from tvm_iovt.fusion.outcome import Fusion, Refusal, describe
from tvm_iovt.fusion.worthwhile import worthwhile

# How far the search for a branch's origin goes on behind an operator that is not linear, to tell a
# near miss from an unrelated sum.
_NEAR_MISS_STEPS = 16


def fuse_sum(
    graph: LinearGraph, value: Value, time: OperatorTime | None
) -> tuple[Fusion | Refusal, ...]:
    """Parallel branches of one input that are added.

    Returns:
        At most one `Fusion` (the terms that it leaves over may make another), and a `Refusal` for
        every term that reads the same input but cannot join.
    """
    found = graph.terms(value)
    if found is None or _feeds_sum(graph, value):
        return ()
    if isinstance(found, Blocked):
        return _near_miss_sum(graph, found)
    terms = flatten(graph, found)
    branches = [Branch.read(graph, term) for term in terms]
    refusals: list[Refusal] = []
    for source in _common_sources(branches):
        members = [b for b in branches if b.reaches(source)]
        members, inexact = _exact(graph, members, source)
        refusals += inexact
        members, costly = worthwhile(graph, members, source, time)
        refusals += costly
        if members:
            fusion = _sum_fusion(members, source, branches)
            near = _near_misses(graph, branches, members, {source})
            return (fusion, *_unique([*refusals, *near]))
    return _unique([*refusals, *_near_misses(graph, branches, [], set())])


def _feeds_sum(graph: LinearGraph, value: Value) -> bool:
    """Whether the one operator that reads a sum is a sum, too: they are merged together."""
    reader = graph.reader(value)
    return reader is not None and isinstance(graph.terms(reader), tuple)


def _common_sources(branches: list[Branch]) -> list[Value]:
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
    graph: LinearGraph, members: list[Branch], source: Value
) -> tuple[list[Branch], list[Refusal]]:
    """The branches that have a normal form which can be added to the first convolution's."""
    kept: list[Branch] = []
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


def _sum_fusion(members: list[Branch], source: Value, branches: list[Branch]) -> Fusion:
    merged = add([b.convolution for b in members if b.convolution is not None])
    operators = tuple(itertools.chain.from_iterable(b.operators(source) for b in members))
    convolutions = [operator for operator in operators if operator.kind in MERGEABLE]
    # The largest kernel is the one that the others are added to.
    carrier = max(convolutions, key=lambda o: o.convolution().kernel.shape[2:])
    return Fusion(
        operators=operators,
        carrier=carrier,
        source=source,
        convolution=merged,
        rest=tuple(b.term for b in branches if b not in members),
        subject=" + ".join(b.name(source) for b in branches if b in members),
        reason=f"{len(members)} branches: {describe(merged)}",
    )


def _near_misses(
    graph: LinearGraph, branches: list[Branch], members: list[Branch], sources: set[Value]
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
                found.append(Refusal(subject=graph.name(branch.term.value), reason=reason))
                break
    return found


def _near_miss_sum(graph: LinearGraph, blocked: Blocked) -> tuple[Refusal, ...]:
    """A broadcast sum whose operands are branches of one input."""
    branches = [Branch.read(graph, Term(value)) for value in blocked.operands]
    if not _common_sources(branches):
        return ()
    return (Refusal(subject=blocked.name, reason=blocked.reason),)


def _unique(refusals: Iterable[Refusal]) -> tuple[Refusal, ...]:
    return tuple({refusal.subject: refusal for refusal in refusals}.values())
