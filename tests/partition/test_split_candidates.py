"""Candidates of a dynamic split: natural bottlenecks, and what each cut costs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_iovt.cost_graph import INPUT, CostGraph, Edge, Unit
from tvm_iovt.errors import IovtError
from tvm_iovt.partition.split_candidates import Candidate, candidates, natural_bottlenecks
from tvm_iovt.types import TensorSpec


def chain(*sizes: int) -> CostGraph:
    """A chain whose position `p` so many bytes cross."""
    units = tuple(
        Unit(
            index=i,
            name=f"u{i}",
            operators=(),
            kind="conv",
            flops=1,
            bytes_in=sizes[i],
            bytes_out=sizes[i + 1],
            bytes_weights=0,
        )
        for i in range(len(sizes) - 1)
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
    return CostGraph(units=units, edges=edges)


def test_natural_bottlenecks_are_below_all_before() -> None:
    graph = chain(100, 400, 90, 95, 90, 30, 60, 29, 10)
    assert graph.crossing_bytes == (100, 400, 90, 95, 90, 30, 60, 29, 10)
    assert natural_bottlenecks(graph) == (2, 5, 7)
    assert natural_bottlenecks(graph, compression=0.5) == (5, 7)
    assert natural_bottlenecks(graph, compression=0.1) == ()


@given(st.lists(st.integers(1, 50), min_size=2, max_size=12), st.floats(0.1, 10))
def test_no_other_cut_can_win_if_the_device_is_not_faster(sizes, rate) -> None:
    """Of equally slow units, a cut that is no bottleneck moves more and computes more here."""
    graph = chain(*sizes)
    count = len(graph.units)
    device_s, server_s = [2.0] * count, [1.0] * count
    some = candidates(graph, device_s, server_s)
    every = candidates(graph, device_s, server_s, positions=range(count + 1))
    assert min(c.latency_s(rate) for c in some) == min(c.latency_s(rate) for c in every)


def test_costs_of_cuts_by_hand() -> None:
    graph = chain(100, 20, 50, 10)
    first, cut, last = candidates(
        graph, [1.0, 2.0, 4.0], [0.1, 0.2, 0.4], positions=(3, 1, 0), link_latency_s=0.05
    )
    assert first == Candidate(position=0, before_s=0, after_s=pytest.approx(0.8), nbytes=110)
    assert (cut.position, cut.before_s, cut.nbytes) == (1, 1.0, 30)
    assert cut.after_s == pytest.approx(0.7)
    assert cut.latency_s(10.0) == pytest.approx(1 + 3 + 0.7)
    assert cut.latency_s(0.0) == math.inf
    assert (last.before_s, last.after_s, last.nbytes) == (7.0, 0, 0)
    assert last.latency_s(0.0) == 7.0
    (one_way,) = candidates(
        graph, [1.0] * 3, [0.0] * 3, positions=(1,), link_latency_s=0.05, returns_outputs=False
    )
    assert (one_way.nbytes, one_way.after_s) == (20, 0.05)


def test_what_does_not_fit_is_refused() -> None:
    graph = chain(5, 5, 5)
    with pytest.raises(IovtError, match="Times do not fit"):
        candidates(graph, [1.0], [1.0, 1.0])
    with pytest.raises(IovtError, match="no such cuts"):
        candidates(graph, [1.0] * 2, [1.0] * 2, positions=(3,))
