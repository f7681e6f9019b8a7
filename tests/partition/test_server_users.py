"""Users of a server: their latencies by cut and units."""

from __future__ import annotations

import math

import pytest

from tvm_iovt.errors import IovtError
from tvm_iovt.partition.server_users import User


def test_the_cut_follows_the_units() -> None:
    on_server, half, alone = (
        (math.inf, 15.0, 9.0, 7.0, 6.0),
        (math.inf, 9.0, 7.0, 5.0 + 4 / 3, 6.5),
        (9.0, 9.0, 9.0, 9.0, 9.0),
    )
    user = User(name="u", latency_s=(on_server, half, alone))
    assert [user.best_cut(units) for units in range(5)] == [2, 1, 1, 1, 0]
    assert user.table() == pytest.approx((9.0, 9.0, 7.0, 5.0 + 4 / 3, 6.0))
    assert user.units == 4


def test_more_units_may_be_left_unused() -> None:
    user = User(name="u", latency_s=((5.0, 3.0, 4.0),))
    assert user.table() == (5.0, 3.0, 3.0)


def test_latencies_that_are_none_are_refused() -> None:
    with pytest.raises(IovtError, match="do not fit together"):
        User(name="u", latency_s=((1.0,), (1.0, 2.0)))
    with pytest.raises(IovtError, match="negative or NaN"):
        User(name="u", latency_s=((math.nan,),))
