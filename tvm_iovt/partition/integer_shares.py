"""Whole units of a resource (threads, slices of a server) over claimants, by tables of seconds.

`tables[i][r]` is what claimant `i` takes with `r` units; infinite where it cannot run with so many.
The tables need not fall with `r`: a claimant whose work gets slower with more units is given fewer.
Both objectives are solved exactly for any tables:

- `longest` (the claimants work at the same time): a bound `T` can be held if and only if the least
  units that keep each claimant within `T` add up to no more than there are. That is monotone in
  `T`, and the optimum is an entry of a table, so a binary search over the entries finds it. Of the
  ways to hold it, the one of the least sum is taken.
- `sum` (one after the other): dynamic programming over claimants and units used. Giving each next
  unit to whom it helps most would be exact for convex tables only.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from tvm_iovt.errors import IovtError

OBJECTIVES = ("longest", "sum")

Tables = Sequence[Sequence[float]]


def share_out(tables: Tables, total: int, objective: str = "longest") -> tuple[int, ...] | None:
    """Units for each claimant, at most `total` together.

    Args:
        tables: Seconds of each claimant by units, from zero units on.
        total: Units that there are.
        objective: One of `OBJECTIVES`: what is least.

    Returns:
        The units, as few as the optimum needs; None if no sharing is possible.

    Raises:
        IovtError: An unknown objective, a negative total, or an entry that is negative or NaN.
    """
    if objective not in OBJECTIVES or total < 0:
        raise IovtError(
            "Units cannot be shared out", seen=f"objective {objective!r}, {total} units in total"
        )
    if not all(entry >= 0 for entry in itertools.chain.from_iterable(tables)):
        raise IovtError("Units cannot be shared out", seen="a time that is negative or NaN")
    if objective == "sum":
        return _least_sum(tables, total)
    bound_s = _least_bound(tables, total)
    if bound_s is None:
        return None
    within = [[s if s <= bound_s else float("inf") for s in table] for table in tables]
    return _least_sum(within, total)


def _least_bound(tables: Tables, total: int) -> float | None:
    """The least longest time, or None if there is no sharing."""
    entries = sorted({s for table in tables for s in table[: total + 1] if s < float("inf")})
    low, high = 0, len(entries)
    while low < high:
        middle = (low + high) // 2
        if _units_needed(tables, entries[middle]) <= total:
            high = middle
        else:
            low = middle + 1
    if not tables:
        return 0.0
    return entries[low] if low < len(entries) else None


def _units_needed(tables: Tables, bound_s: float) -> float:
    """The least units that keep every claimant within a time; infinite if nothing does."""
    return sum(
        next((float(r) for r, s in enumerate(table) if s <= bound_s), float("inf"))
        for table in tables
    )


def _least_sum(tables: Tables, total: int) -> tuple[int, ...] | None:
    """The sharing of the least sum, and of those one of the fewest units."""
    least = np.zeros(total + 1)  # by units that may be used, over the claimants so far
    taken = []
    for table in tables:
        sums = np.full(total + 1, np.inf)
        units = np.zeros(total + 1, dtype=np.int64)
        for r, seconds in enumerate(table[: total + 1]):
            candidate = least[: total + 1 - r] + seconds
            better = candidate < sums[r:]
            sums[r:][better] = candidate[better]
            units[r:][better] = r
        least = sums
        taken.append(units)
    if not np.isfinite(least[-1]):
        return None
    left = int(np.argmin(least))  # the first of equals: the fewest units
    shares = []
    for units in reversed(taken):
        shares.append(int(units[left]))
        left -= shares[-1]
    return tuple(reversed(shares))
