"""Sharing out whole units: both objectives equal brute force, for tables of any form."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tvm_iovt.errors import IovtError
from tvm_iovt.partition.integer_shares import share_out


def random_tables(random: np.random.Generator) -> tuple[list[list[float]], int]:
    total = int(random.integers(0, 7))
    tables = []
    for _ in range(int(random.integers(1, 5))):
        table = random.integers(0, 9, int(random.integers(1, 9))).astype(float)
        table[random.random(len(table)) < 0.2] = math.inf
        tables.append(table.tolist())
    return tables, total


def every_sharing(tables: list[list[float]], total: int) -> list[tuple[int, ...]]:
    shares = itertools.product(*(range(len(table)) for table in tables))
    return [
        share
        for share in shares
        if sum(share) <= total
        and all(table[r] < math.inf for table, r in zip(tables, share, strict=True))
    ]


def values(tables: list[list[float]], share: tuple[int, ...]) -> tuple[float, float, int]:
    taken = [table[r] for table, r in zip(tables, share, strict=True)]
    return max(taken), sum(taken), sum(share)


def test_both_objectives_equal_brute_force() -> None:
    random = np.random.default_rng(0)
    impossible = 0
    for _ in range(1500):
        tables, total = random_tables(random)
        every = every_sharing(tables, total)
        longest, least = (share_out(tables, total, o) for o in ("longest", "sum"))
        if not every:
            impossible += 1
            assert longest is None
            assert least is None
            continue
        assert longest in every
        assert values(tables, longest) == min(values(tables, share) for share in every)
        assert least in every
        by_sum = [values(tables, share)[1:] for share in every]
        assert values(tables, least)[1:] == min(by_sum)
    assert 50 < impossible < 1000


def test_no_claimants_need_nothing() -> None:
    assert share_out([], 3) == ()
    assert share_out([], 3, "sum") == ()


@pytest.mark.parametrize(
    ("tables", "total", "objective"),
    [([[1.0]], -1, "sum"), ([[1.0]], 1, "most"), ([[math.nan]], 1, "sum"), ([[-1.0]], 1, "sum")],
)
def test_what_is_not_valid_is_refused(tables, total, objective) -> None:
    with pytest.raises(IovtError, match="cannot be shared out"):
        share_out(tables, total, objective)
