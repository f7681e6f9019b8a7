"""One server, several networks: exact for both objectives, and moving units ends at the optimum."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tvm_iovt.errors import IovtError, UsageError
from tvm_iovt.partition.server_allocation import allocate, move_units
from tvm_iovt.partition.server_users import User


def random_user(random: np.random.Generator, units: int, name: str) -> User:
    """With steps of the speedup, so that single units may bring nothing."""
    cuts = int(random.integers(1, 4))
    step = int(random.integers(1, 3))
    server_s = random.integers(1, 20, cuts).astype(float)
    if random.random() < 0.8:
        server_s[-1] = 0.0  # it can do without the server
    edge_s = random.integers(0, 10, cuts).astype(float) + random.integers(0, 5, cuts)
    rows = []
    for edge, server in zip(edge_s.tolist(), server_s.tolist(), strict=True):
        without = math.inf if server else edge
        served = (edge + server / math.ceil(count / step) for count in range(1, units + 1))
        rows.append((without, *served))
    return User(name=name, latency_s=tuple(rows))


def every_allocation(users: list[User], units: int) -> list[list[float]]:
    """Latencies of all users, for every choice of cuts and units."""
    found = []
    for shares in itertools.product(range(units + 1), repeat=len(users)):
        if sum(shares) <= units:
            for cuts in itertools.product(*(range(len(user.latency_s)) for user in users)):
                latencies = [
                    user.latency_s[cut][share]
                    for user, cut, share in zip(users, cuts, shares, strict=True)
                ]
                if max(latencies) < math.inf:
                    found.append(latencies)
    return found


def problems(count: int, seed: int) -> list[tuple[list[User], int]]:
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        units = int(random.integers(1, 6))
        users = [random_user(random, units, f"u{i}") for i in range(int(random.integers(1, 4)))]
        made.append((users, units))
    return made


def check(users: list[User], units: int, found) -> None:
    assert sum(found.units) <= units
    for user, cut, share, latency_s in zip(
        users, found.cuts, found.units, found.latency_s, strict=True
    ):
        assert user.latency_s[cut][share] == latency_s


def test_both_objectives_equal_brute_force() -> None:
    impossible = 0
    for users, units in problems(500, 0):
        every = every_allocation(users, units)
        if not every:
            impossible += 1
            with pytest.raises(UsageError, match="cannot serve"):
                allocate(users, units)
            continue
        longest = allocate(users, units)
        check(users, units, longest)
        assert (longest.longest_s, longest.sum_s) == min((max(s), sum(s)) for s in every)
        least = allocate(users, units, "sum")
        check(users, units, least)
        assert least.sum_s == min(map(sum, every))
    assert 0 < impossible < 250


def test_moving_units_ends_at_the_optimum_from_anywhere() -> None:
    random = np.random.default_rng(3)
    moved = 0
    for users, units in problems(1500, 1):
        start = random.multinomial(units, np.full(len(users), 1 / len(users))).tolist()
        try:
            best = allocate(users, units)
        except UsageError:
            with pytest.raises(UsageError, match="cannot serve"):
                move_units(users, start)
            continue
        found, moves = move_units(users, start)
        check(users, units, found)
        assert found.longest_s == best.longest_s
        assert moves <= units * len({s for user in users for s in user.table()})
        moved += moves > 0
    assert moved > 300


def test_moves_go_on_where_one_unit_alone_brings_nothing() -> None:
    slow = User(name="slow", latency_s=((9.0, 9.0, 9.0, 2.0),))
    idle = User(name="idle", latency_s=((1.0, 1.0, 1.0, 1.0),))
    found, moves = move_units([slow, idle], [0, 3])
    assert moves == 3
    assert found.latency_s == (2.0, 1.0)
    assert found.units == (3, 0)
    assert move_units([slow, idle], [0, 3], moves=1)[0].longest_s == 9.0


def test_moving_units_is_not_exact_for_the_sum() -> None:
    stepped = User(name="stepped", latency_s=((9.0, 9.0, 1.0),))
    smooth = User(name="smooth", latency_s=((6.0, 5.0, 4.0),))
    two = (stepped, smooth)
    sums = [sum(u.table()[r] for u, r in zip(two, (r, 2 - r), strict=True)) for r in range(3)]
    assert sums == [13.0, 14.0, 7.0]  # from (0, 2), one unit alone makes it worse
    assert allocate(two, 2, "sum").units == (2, 0)


def test_more_units_are_left_when_they_slow_a_user_down() -> None:
    user = User(name="u", latency_s=((5.0, 3.0, 4.0),))
    assert user.table() == (5.0, 3.0, 3.0)
    assert allocate([user], 2).units == (1,)
    for held in (2, 7):  # also with more than it has latencies for
        found, moves = move_units([user], [held])
        assert (found.units, found.latency_s, moves) == ((1,), (3.0,), 0)


def test_errors_say_who_and_what() -> None:
    needy = User(name="cam", latency_s=((math.inf, math.inf, 1.0),))
    with pytest.raises(UsageError, match="2 users") as caught:
        allocate([needy, needy], 3)
    assert "2 (cam)" in caught.value.seen
    with pytest.raises(IovtError, match="no objective"):
        allocate([needy], 2, "mean")
    with pytest.raises(IovtError, match="do not fit them"):
        move_units([needy], [1, 1])
