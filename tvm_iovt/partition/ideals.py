"""Cuts of general graphs: all sets of units that are closed under predecessors.

Every way to cut a graph into stages is a chain of such sets (its ideals), so a search over them is
exact (Tarnawski et al. 2020, arXiv:2006.16423). Residual networks have few more of them than units;
long branches side by side multiply, and then a choice of them must do.
"""

from __future__ import annotations

import numpy as np

from tvm_iovt.errors import IovtError
from tvm_iovt.partition.cut_points import Bools, CutPoints, crossing_bytes
from tvm_iovt.partition.placement import predecessors
from tvm_iovt.partition.problem import Problem

MAX_IDEALS = 1500
"""Matrices of each device over pairs of ideals: 18 MB each, and up to a second of search."""

_CELLS = 8_000_000  # ideals times units that are listed to choose among


class TooManyIdealsError(IovtError):
    """A graph has more closed sets of units than are searched.

    Args:
        limit: How many would have been.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(
            "There are too many ways to cut this network to try all of them",
            seen=f"more than {limit} sets of units that could run first",
            do="cut along the order of its units",
        )
        self.limit = limit


def ideals(problem: Problem, limit: int = MAX_IDEALS) -> list[int]:
    """All closed sets of units, as bits, smaller ones first.

    Raises:
        TooManyIdealsError: There are more than the limit.
    """
    before = predecessors(problem.graph)
    after: list[list[int]] = [[] for _ in before]
    for unit, mask in enumerate(before):
        for other in _members(mask):
            after[other].append(unit)
    ready = sum(1 << unit for unit, mask in enumerate(before) if not mask)
    found = [0]
    level = {0: ready}
    while level:
        following: dict[int, int] = {}
        for ideal, free in level.items():
            for unit in _members(free):
                larger = ideal | 1 << unit
                if larger in following:
                    continue
                freed = sum(1 << other for other in after[unit] if not before[other] & ~larger)
                following[larger] = free & ~(1 << unit) | freed
                if len(found) + len(following) > limit:
                    raise TooManyIdealsError(limit)
        found += following
        level = following
    return found


def ideal_points(problem: Problem, limit: int = MAX_IDEALS) -> CutPoints:
    """One cut point for each ideal.

    Raises:
        TooManyIdealsError: There are more than the limit.
    """
    found = ideals(problem, limit)
    return CutPoints.of_sets(problem, membership(found, len(problem.graph.units)))


def narrow_points(problem: Problem, limit: int = MAX_IDEALS) -> tuple[CutPoints, int]:
    """So many ideals that the least crosses, of each size, and all along the topological order.

    Returns:
        Them, and how many ideals there are.

    Raises:
        TooManyIdealsError: There are too many to choose among.
    """
    units = len(problem.graph.units)
    found = ideals(problem, max(limit, _CELLS // units))
    member = membership(found, units)
    sizes = member.sum(axis=1)
    crossing = crossing_bytes(problem, member)
    along = (member == (np.arange(units) < sizes[:, None])).all(axis=1)
    order = np.lexsort((crossing, ~along, sizes))
    rank = np.empty(len(found), dtype=np.int64)
    rank[order] = np.arange(len(found)) - np.searchsorted(sizes, sizes[order])
    if len(found) > limit:
        # The first of each size, which lies along the order, then the second of each, and so on.
        kept = np.lexsort((crossing, rank))[: max(limit, units + 1)]
        member = member[np.sort(kept)]
    return CutPoints.of_sets(problem, member), len(found)


def membership(sets: list[int], units: int) -> Bools:
    """Sets of units, as bits, as one row of truth values each."""
    width = (units + 7) // 8
    raw = b"".join(one.to_bytes(width, "little") for one in sets)
    rows = np.frombuffer(raw, dtype=np.uint8).reshape(len(sets), width)
    return np.unpackbits(rows, axis=1, count=units, bitorder="little").astype(np.bool_)


def _members(mask: int) -> list[int]:
    """The numbers that a mask has the bits of, increasing."""
    members = []
    while mask:
        low = mask & -mask
        members.append(low.bit_length() - 1)
        mask ^= low
    return members
