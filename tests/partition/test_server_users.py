"""Users of a server: their latencies by cut and units."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from tvm_iovt.cost_graph import INPUT, CostGraph, Edge, Unit
from tvm_iovt.errors import IovtError
from tvm_iovt.partition.evaluate import evaluate
from tvm_iovt.partition.lmos import split_placement
from tvm_iovt.partition.problem import Device, Problem, Route
from tvm_iovt.partition.server_users import User
from tvm_iovt.types import Link, TensorSpec


def problem(edge_s: list[float], server_s: list[float], sizes: list[int]) -> Problem:
    """A chain; `sizes[p]` bytes cross position `p`; the caller is at the edge."""
    units = tuple(
        Unit(
            index=i,
            name=f"u{i}",
            operators=(),
            kind="conv",
            flops=1,
            bytes_in=sizes[i],
            bytes_out=sizes[i + 1],
            bytes_weights=100,
        )
        for i in range(len(edge_s))
    )
    edges = tuple(
        Edge(
            spec=TensorSpec(name=f"t{i}", shape=(size,), dtype="uint8"),
            producer=INPUT + i,
            consumers=(i,) if i < len(units) else (),
            is_output=i == len(units),
        )
        for i, size in enumerate(sizes)
    )
    link = Route(hops=(Link(src="edge", dst="server", bytes_per_s=1000.0, latency_s=0.01),))
    none = Route()
    return Problem(
        graph=CostGraph(units=units, edges=edges),
        devices=(Device(name="edge", stage_s=0.25), Device(name="server", stage_s=0.5)),
        unit_s=(tuple(edge_s), tuple(server_s)),
        routes=((none, link, none), (link, none, link), (none, link, none)),
    )


def test_the_cut_follows_the_units() -> None:
    user = User.of_parts("u", [0.0, 4.0, 9.0], [3.0, 1.0, 0.0], [12.0, 4.0, 0.0], units=4)
    assert [user.best_cut(units) for units in range(5)] == [2, 1, 1, 1, 0]
    assert user.table() == pytest.approx((9.0, 9.0, 7.0, 5.0 + 4 / 3, 6.0))
    assert user.units == 4


def test_one_unit_gives_the_latencies_of_the_problem() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        count = int(random.integers(1, 8))
        asked = problem(
            random.uniform(1, 9, count).tolist(),
            random.uniform(0.1, 2, count).tolist(),
            random.integers(1, 3000, count + 1).tolist(),
        )
        user = User.of_problem("u", asked, units=3, speedup=lambda count: count**0.5)
        for cut, row in enumerate(user.latency_s):
            prediction = evaluate(asked, split_placement(asked, 0, 1, cut)).prediction
            assert row[1] == pytest.approx(prediction.latency_s)
            on_server = sum(asked.unit_s[1][cut:])
            assert row[1] - row[3] == pytest.approx(on_server * (1 - 3**-0.5))
            assert row[0] == (row[1] if cut == count else math.inf)


def test_cuts_that_a_device_cannot_do_are_never_best() -> None:
    asked = problem([1.0, math.inf, 1.0], [9.0, 9.0, 9.0], [10, 10, 10, 10])
    user = User.of_problem("u", asked, units=2)
    assert [row[1] < math.inf for row in user.latency_s] == [True, True, False, False]
    small = dataclasses.replace(asked.devices[1], memory_bytes=200)
    asked = dataclasses.replace(asked, devices=(asked.devices[0], small))
    assert User.of_problem("u", asked, units=2).table() == (math.inf,) * 3


def test_latencies_that_are_none_are_refused() -> None:
    with pytest.raises(IovtError, match="do not fit together"):
        User(name="u", latency_s=((1.0,), (1.0, 2.0)))
    with pytest.raises(IovtError, match="negative or NaN"):
        User(name="u", latency_s=((math.nan,),))
    with pytest.raises(IovtError, match="speed u up"):
        User.of_parts("u", [1.0], [1.0], [1.0], units=2, speedup=lambda count: 0)
    with pytest.raises(IovtError, match="cuts of u"):
        User.of_parts("u", [1.0], [], [1.0], units=2)
