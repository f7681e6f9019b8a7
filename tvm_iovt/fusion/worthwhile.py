"""Which branches of a sum are worth merging."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from tvm_iovt.fusion.branches import Branch
from tvm_iovt.fusion.costs import (
    OperatorTime,
    added_time,
    costs_more,
    shared_weight,
    time_apart,
    traffic_time,
)
from tvm_iovt.fusion.linear_graph import LinearGraph, Value
from tvm_iovt.fusion.outcome import Refusal

# Up to here, every choice of branches is compared; there are never many more.
_MAX_BRANCHES = 10


def worthwhile(
    graph: LinearGraph, members: list[Branch], source: Value, time: OperatorTime | None
) -> tuple[list[Branch], list[Refusal]]:
    """The branches whose fusion saves most time; none when fewer than two are left.

    Args:
        graph: The graph.
        members: Branches that can be merged exactly, with their normal forms.
        source: What they read.
        time: None merges all.
    """
    together = [operator for branch in members for operator in branch.operators(source)]
    shared = [shared_weight(graph, b.operators(source), time, together) for b in members]
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
    apart_s = {id(b): _branch_time(graph, b, source, time) for b in members}

    def total_s(chosen: Sequence[Branch]) -> float:
        rest = sum(apart_s[id(b)] for b in members if b not in chosen)
        forms = [b.convolution for b in chosen if b.convolution is not None]
        return rest + added_time(graph, forms, source, members[0].term.value, time)

    choices = [list(c) for c in _choices(members) if _fusible(c, source)]
    chosen = min(choices, key=total_s)
    best_s, separate_s = total_s(chosen), sum(apart_s.values())
    if best_s > separate_s:
        names = " + ".join(b.name(source) for b in members)
        return [], [*refusals, Refusal(subject=names, reason=costs_more(best_s, separate_s))]
    for branch in members:
        if branch not in chosen:
            reason = costs_more(total_s([*chosen, branch]), best_s)
            refusals.append(Refusal(subject=branch.name(source), reason=reason))
    return chosen, refusals


def _choices(members: Sequence[Branch]) -> Iterator[Sequence[Branch]]:
    """Choices of two branches and more, all of them first."""
    if len(members) > _MAX_BRANCHES:
        yield members
        return
    for count in range(len(members), 1, -1):
        yield from itertools.combinations(members, count)


def _fusible(members: Sequence[Branch], source: Value) -> bool:
    return len(members) > 1 and any(b.has_conv(source) for b in members)


def _branch_time(graph: LinearGraph, branch: Branch, source: Value, time: OperatorTime) -> float:
    """A branch on its own; the addition of its result is one more pass over that."""
    operators = branch.operators(source)
    spatial = sum(time_apart(graph, o, time) for o in operators)
    assert branch.convolution is not None
    channels = branch.convolution.out_channels
    return spatial + traffic_time(graph, branch.term.value, channels, time)
