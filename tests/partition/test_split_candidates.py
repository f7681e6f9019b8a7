"""Candidates of a dynamic split: natural bottlenecks, and what each cut costs."""

from __future__ import annotations

import math

import pytest

from tvm_iovt.cost_graph import INPUT, CostGraph, Edge, Unit
from tvm_iovt.partition.split_candidates import Candidate, natural_bottlenecks
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


def test_latency_by_bandwidth() -> None:
    cut = Candidate(position=1, before_s=1.0, after_s=0.7, nbytes=30)
    assert cut.latency_s(10.0) == pytest.approx(1 + 3 + 0.7)
    assert cut.latency_s(0.0) == math.inf
    last = Candidate(position=3, before_s=7.0, after_s=0.0, nbytes=0)
    assert last.latency_s(0.0) == last.latency_s(10.0) == 7.0
