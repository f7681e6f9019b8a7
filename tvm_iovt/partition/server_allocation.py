"""Several networks share one server: where each is cut, and what part of the server it gets.

Each user (a camera with a network) runs the first part of its network itself, and the rest on a
server that has `R` units of a resource to give (cores, slices of a GPU). IAO (arXiv 2007.09072)
alternates two steps: with the units fixed, each user's best cut; then one unit moves from the user
that is delayed least to the one that is delayed most.

With the cut chosen anew for each number of units, a user is the table
`best(r) = min over cuts and r' <= r of latency(cut, r')`, which does not rise with `r`. For the
*longest* latency, moving units is then optimal: let `M` be the longest and `need_k` the least units
with `best_k < M`. A unit moves to a user at `M` from one that stays below `M` without it, that is,
from one that has more than `need_k`. If the needs add up to `R` or less, such a donor exists while
anyone is at `M`, nobody is brought to `M`, and each move fills one missing unit, so `M` falls; if
they do not, no allocation is below `M`. (To stop as soon as a move does not help, which is right
for strictly falling tables, can be too early: a second unit may be needed before anything is
gained.) For the *sum* of latencies such moves find no more than a local optimum unless the tables
are convex; `allocate` uses dynamic programming for it instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_iovt.errors import IovtError, UsageError
from tvm_iovt.partition.integer_shares import OBJECTIVES, share_out
from tvm_iovt.partition.server_users import User


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAllocation:
    """Cuts and units of users.

    Attributes:
        cuts: Of each user.
        units: That each user uses.
        latency_s: Of each user.
    """

    cuts: tuple[int, ...]
    units: tuple[int, ...]
    latency_s: tuple[float, ...]

    @property
    def longest_s(self) -> float:
        """The most delayed user's latency."""
        return max(self.latency_s, default=0.0)

    @property
    def sum_s(self) -> float:
        """Of all users."""
        return sum(self.latency_s)


def allocate(users: Sequence[User], units: int, objective: str = "longest") -> ServerAllocation:
    """The best cuts and units, exactly, for any latencies.

    Args:
        users: Of the server.
        units: That it has.
        objective: What is least: `longest` latency (and of those the least sum), or `sum`.

    Raises:
        UsageError: The server's units do not suffice for all users.
        IovtError: There is no such objective.
    """
    if objective not in OBJECTIVES:
        raise IovtError(f"There is no objective {objective!r}", seen=f"known: {OBJECTIVES}")
    shares = share_out([user.table() for user in users], max(units, 0), objective)
    if shares is None:
        raise _too_few(users, units)
    return _allocation(users, shares)


def move_units(
    users: Sequence[User], start: Sequence[int], *, moves: int | None = None
) -> tuple[ServerAllocation, int]:
    """The least longest latency from an allocation that is there, by moving units one by one.

    While users come and go this disturbs few of them. With all the moves it wants, the longest
    latency is the least that there is, see above.

    Args:
        users: Of the server.
        start: Units that each has now; all of the server's, together.
        moves: The most moves; by default as many as it takes.

    Returns:
        The allocation, and the moves that were made.

    Raises:
        IovtError: `start` does not fit the users.
        UsageError: A user cannot run with the units it would have.
    """
    tables = [user.table() for user in users]
    held = list(start)
    if len(held) != len(users) or any(count < 0 for count in held):
        raise IovtError("The units that users have do not fit them", seen=f"{held}")
    made = 0
    while users and (moves is None or made < moves):
        latencies = [_at(table, count) for table, count in zip(tables, held, strict=True)]
        longest_s = max(latencies)
        after = [
            _at(table, count - 1) if count else math.inf
            for table, count in zip(tables, held, strict=True)
        ]
        donor = after.index(min(after))
        if after[donor] >= longest_s:
            break
        held[donor] -= 1
        held[latencies.index(longest_s)] += 1
        made += 1
    if any(_at(table, count) == math.inf for table, count in zip(tables, held, strict=True)):
        raise _too_few(users, sum(held))
    return _allocation(users, held), made


def _at(table: Sequence[float], units: int) -> float:
    return table[min(units, len(table) - 1)]


def _allocation(users: Sequence[User], shares: Sequence[int]) -> ServerAllocation:
    """With the best cut of each user, and no more units than it has a use for."""
    used = []
    for user, share in zip(users, shares, strict=True):
        table = user.table()
        used.append(table.index(_at(table, share)))
    cuts = tuple(user.best_cut(count) for user, count in zip(users, used, strict=True))
    return ServerAllocation(
        cuts=cuts,
        units=tuple(used),
        latency_s=tuple(
            user.latency_s[cut][count] for user, cut, count in zip(users, cuts, used, strict=True)
        ),
    )


def _too_few(users: Sequence[User], units: int) -> UsageError:
    return UsageError(
        f"The server cannot serve {len(users)} users at once",
        seen=f"{units} units; alone, they need at least "
        + ", ".join(
            f"{next((r for r, s in enumerate(u.table()) if s < math.inf), 'more than it has')}"
            f" ({u.name})"
            for u in users
        ),
        do="give it fewer users, or let networks run on their own devices, too",
    )
