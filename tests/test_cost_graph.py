"""Cost graphs: what crosses a cut, counted two ways, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_iovt.cost_graph import INPUT, CostGraph, Edge, Unit
from tvm_iovt.errors import IovtError
from tvm_iovt.json_codec import from_json, to_json
from tvm_iovt.types import TensorSpec


def unit(index: int, name: str = "") -> Unit:
    return Unit(
        index=index,
        name=name or f"u{index}",
        operators=(f"op{index}",),
        kind="conv",
        flops=1,
        bytes_in=0,
        bytes_out=0,
        bytes_weights=0,
    )


def edge(name: str, producer: int, *consumers: int, size: int = 1, is_output: bool = False) -> Edge:
    spec = TensorSpec(name=name, shape=(size,), dtype="uint8")
    return Edge(spec=spec, producer=producer, consumers=consumers, is_output=is_output)


@st.composite
def graphs(draw: st.DrawFn) -> CostGraph:
    count = draw(st.integers(1, 7))
    edges = []
    for producer in range(INPUT, count):
        later = range(producer + 1, count)
        some = st.sets(st.sampled_from(later), max_size=3) if later else st.just(set())
        consumers = tuple(sorted(draw(some)))
        size = draw(st.integers(1, 9))
        output = draw(st.booleans())
        edges.append(edge(f"t{producer}", producer, *consumers, size=size, is_output=output))
    return CostGraph(units=tuple(map(unit, range(count))), edges=tuple(edges))


@given(graphs())
def test_crossing_bytes_are_those_of_the_crossing_edges(graph):
    for position, nbytes in enumerate(graph.crossing_bytes):
        assert nbytes == sum(e.nbytes for e in graph.crossing(range(position)))


@given(graphs())
def test_graphs_survive_json(graph):
    assert from_json(CostGraph, to_json(graph)) == graph


def test_a_cut_is_named_by_the_unit_or_an_operator_of_it():
    graph = CostGraph(units=(unit(0, "conv_a"), unit(1, "conv_b")), edges=())
    assert graph.position_after("conv_a") == 1
    assert graph.position_after("op1") == 2
    with pytest.raises(IovtError, match="no operator 'conv_c'") as caught:
        graph.position_after("conv_c")
    assert "conv_a" in caught.value.seen


@pytest.mark.parametrize("wrong", [edge("t", 1, 0), edge("t", 0, 5), edge("t", 0, 1, 1)])
def test_edges_that_do_not_fit_are_refused(wrong):
    with pytest.raises(IovtError, match="edge t"):
        CostGraph(units=(unit(0), unit(1)), edges=(wrong,))


def test_units_out_of_order_are_refused():
    with pytest.raises(IovtError, match="out of order"):
        CostGraph(units=(unit(1),), edges=())
