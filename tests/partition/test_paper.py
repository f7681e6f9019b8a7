"""Plans by the published formulas, and that the corrected costs are not as simple as they are."""

from __future__ import annotations

import numpy as np
import pytest

from tvm_iovt.cost_graph import INPUT, CostGraph, Edge, Unit
from tvm_iovt.errors import IovtError
from tvm_iovt.partition.paper import nearest_position, paper_plan
from tvm_iovt.types import TensorSpec


def chain(flops: list[int], sizes: list[int]) -> CostGraph:
    """Units of so many FLOPs; `sizes[p]` bytes cross position `p`."""
    units = tuple(
        Unit(
            index=i,
            name=f"u{i}",
            operators=(),
            kind="conv",
            flops=count,
            bytes_in=sizes[i],
            bytes_out=sizes[i + 1],
            bytes_weights=1000,
        )
        for i, count in enumerate(flops)
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


GRAPH = chain([4_000_000, 3_000_000, 2_000_000, 1_000_000], [9000, 8000, 3000, 1000, 100])
NUMBERS = {"peaks_flops": (1e9, 8e9), "bandwidths": (1e9, 4e9), "link_bytes_per_s": 1e6}


def test_a_plan_has_the_formulas_numbers() -> None:
    plan = paper_plan(GRAPH, **NUMBERS, utilisation=(1.0, 0.5))
    moved = 9000 + 2 * (8000 + 3000 + 1000) + 100 + 4 * 1000
    assert plan.share == 0.0
    assert plan.position == 0
    assert plan.first_s == 0
    assert plan.second_s == pytest.approx(moved / (0.5 * 4e9))  # N / I0 are the bytes
    assert plan.transfer_s == pytest.approx(9e-3)
    assert plan.latency_s == pytest.approx(plan.second_s + plan.transfer_s)
    assert "constraint is met" in plan.reason  # 270 FLOPs a byte
    assert 0 < plan.gradient_share < 1
    assert "0 of 4 units" in plan.reason
    assert paper_plan(GRAPH, **NUMBERS, transmitted_bytes=0).transfer_s == 0


def test_the_gradient_cuts_near_its_start() -> None:
    plan = paper_plan(GRAPH, **NUMBERS, algorithm="gradient")
    assert plan.share == pytest.approx(0.5, abs=1e-3)
    assert plan.position == 1  # 40 % of the FLOPs; behind the next unit it is 70 %


def test_a_faster_first_device_takes_everything() -> None:
    plan = paper_plan(GRAPH, (8e9, 1e9), (4e9, 1e9), 1e6)
    assert (plan.share, plan.position) == (1.0, 4)
    low = paper_plan(GRAPH, (8e13, 1e9), (4e9, 1e9), 1e6)
    assert "not met" in low.reason


@pytest.mark.parametrize(
    ("share", "position"), [(0, 0), (0.19, 0), (0.21, 1), (0.5, 1), (0.56, 2), (0.9, 4), (1, 4)]
)
def test_the_nearest_boundary(share: float, position: int) -> None:
    graph = chain([4, 3, 3, 0], [1, 1, 1, 1, 1])
    assert nearest_position(graph, share) == position


def test_ends_mean_one_device_also_with_units_without_flops() -> None:
    graph = chain([0, 5, 5, 0, 0], [1] * 6)
    assert [nearest_position(graph, share) for share in (0.0, 0.45, 1.0)] == [0, 2, 5]


def test_what_the_formulas_do_not_apply_to_is_refused() -> None:
    with pytest.raises(IovtError, match="do not apply"):
        paper_plan(chain([0, 0], [1, 1, 1]), **NUMBERS)
    with pytest.raises(IovtError, match="do not apply"):
        paper_plan(GRAPH, **NUMBERS, algorithm="newton")


def test_real_cut_bytes_have_optima_inside_where_the_formulas_have_none() -> None:
    """The same random networks and devices, planned both ways."""
    random = np.random.default_rng(0)
    inside_paper = inside_real = 0
    for _ in range(400):
        count = int(random.integers(4, 12))
        flops = random.integers(1, 100, count) * 1_000_000
        # As in vision networks, tensors get smaller towards the end.
        sizes = 10 ** (6 - 3 * np.linspace(0, 1, count + 1) + random.normal(0, 0.3, count + 1))
        graph = chain(flops.tolist(), sizes.astype(int).tolist())
        peaks = (float(10 ** random.uniform(9, 10.5)), float(10 ** random.uniform(10, 11.5)))
        bandwidths = (10e9, 50e9)
        link = float(10 ** random.uniform(6, 8))
        plan = paper_plan(graph, peaks, bandwidths, link)
        inside_paper += 0 < plan.share < 1

        def unit_s(device: int, graph=graph, peaks=peaks, bandwidths=bandwidths) -> list[float]:
            return [
                max(u.flops / peaks[device], u.nbytes / bandwidths[device]) for u in graph.units
            ]

        first_s, second_s = unit_s(0), unit_s(1)
        latencies = [
            sum(first_s[:p])
            + sum(second_s[p:])
            + (graph.crossing_bytes[p] / link if p < count else 0)
            for p in range(count + 1)
        ]
        best = latencies.index(min(latencies))
        inside_real += 0 < best < count
    assert inside_paper == 0
    assert inside_real > 100
