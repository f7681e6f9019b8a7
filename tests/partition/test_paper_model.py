"""The published formulas, their defects included: linear in the share, without a roof."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tvm_iovt.errors import IovtError
from tvm_iovt.partition.paper_model import PaperModel, gradient_share, grid_share


def model(**fields) -> PaperModel:
    values = {
        "flops": 2e9,
        "intensity": 50.0,
        "peaks_flops": (0.5e12, 4e12),
        "bandwidths": (20e9, 100e9),
        "link_bytes_per_s": 12.5e6,
        "transmitted_bytes": 600e3,
    }
    return PaperModel(**(values | fields))


def random_model(random: np.random.Generator, **fields) -> PaperModel:
    def pair(low: float, high: float) -> tuple[float, float]:
        first, second = 10 ** random.uniform(low, high, 2)
        return float(first), float(second)

    factor = float(random.uniform(0.2, 1))
    return model(
        **{
            "flops": float(10 ** random.uniform(7, 11)),
            "intensity": float(10 ** random.uniform(0, 3)),
            "peaks_flops": pair(9, 13),
            "bandwidths": pair(9, 12),
            "link_bytes_per_s": float(10 ** random.uniform(5, 9)),
            "transmitted_bytes": float(10 ** random.uniform(3, 7)),
            "utilisation": pair(-1, 0),
            "k": factor,
            "p": factor,
            "accuracy_losses": pair(-3, 0),
            "accuracy_weight": float(random.uniform(0, 1)),
        }
        | fields
    )


def test_the_terms_by_hand() -> None:
    formulas = model(k=0.8, p=0.5, utilisation=(0.5, 0.25))
    # C = 0.4, M = 0.25 of the work on the first device.
    first_intensity, second_intensity = 0.4 / 0.25 * 50, 0.6 / 0.75 * 50
    assert formulas.first_s(0.5) == pytest.approx(0.5 * 2e9 / (0.5 * first_intensity * 20e9))
    assert formulas.second_s(0.5) == pytest.approx(0.5 * 2e9 / (0.25 * second_intensity * 100e9))
    assert formulas.transfer_s == pytest.approx(0.048)
    assert model().second_s(0.0) == pytest.approx(2e9 / (50 * 100e9))
    assert model(link_bytes_per_s=math.inf).transfer_s == 0
    assert model().first_s(0.0) == model().second_s(1.0) == 0
    assert formulas.latency_s(0.5) == pytest.approx(
        formulas.first_s(0.5) + formulas.second_s(0.5) + 0.048
    )
    lossy = model(accuracy_losses=(0.1, 0.3), accuracy_weight=2.0)
    assert lossy.cost(0.25) - lossy.latency_s(0.25) == pytest.approx(2 * (0.025 + 0.225))


def test_there_is_no_roof() -> None:
    """41 GB/s at an intensity of 300 promise 18 times the peak of 0.665 TFLOP/s."""
    formulas = model(intensity=300.0, bandwidths=(41e9, 41e9), peaks_flops=(0.665e12, 0.665e12))
    assert formulas.within_ridges(0.5)
    rate = formulas.flops * 0.5 / formulas.first_s(0.5)
    assert rate / 0.665e12 == pytest.approx(18.5, abs=0.1)


def test_with_equal_factors_no_optimum_lies_inside() -> None:
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(10_000):
        formulas = random_model(random)
        ends = formulas.cost(0.0), formulas.cost(1.0)
        for share in (0.1, 0.37, 0.5, 0.9):
            line = ends[0] + share * (ends[1] - ends[0])
            assert formulas.cost(share) == pytest.approx(line, rel=1e-9)
            inside += formulas.cost(share) < min(ends) * (1 - 1e-9)
    assert inside == 0


def test_grid_search_returns_an_end_with_equal_factors() -> None:
    random = np.random.default_rng(1)
    found = [grid_share(random_model(random)) for _ in range(300)]
    assert set(found) == {0.0, 1.0}


def test_different_factors_can_have_an_optimum_inside() -> None:
    random = np.random.default_rng(2)
    inside = 0
    for _ in range(200):
        k, p = random.uniform(0.5, 1.5, 2)
        formulas = random_model(random, k=float(k), p=float(p), accuracy_weight=0.0)
        share = grid_share(formulas)
        assert 0 <= share <= formulas.largest_share <= 1
        every = np.linspace(0, formulas.largest_share, 101)
        assert formulas.cost(share) == pytest.approx(min(map(formulas.cost, every.tolist())))
        inside += 0 < share < formulas.largest_share
    assert 0 < inside < 150


@pytest.mark.parametrize(("k", "p"), [(1.0, 0.6), (0.6, 1.0), (1.0, 1.0), (1.0, 1.4)])
def test_ends_are_limits(k: float, p: float) -> None:
    formulas = model(k=k, p=p)
    end = formulas.largest_share
    for term in (formulas.first_s, formulas.second_s):
        assert term(end) == pytest.approx(term(end - 1e-9), abs=1e-8)
    assert math.isinf(model(k=1.4, p=0.5).second_s(1 / 1.4))


def test_gradient_descent_takes_the_published_steps() -> None:
    assert gradient_share(model()) == pytest.approx(0.5, abs=0.1)  # seconds: hardly moves
    slow = model(flops=2e13, utilisation=(0.01, 1.0))
    assert gradient_share(slow) == 0.0 == grid_share(slow)
    slow = model(flops=2e13, utilisation=(1.0, 0.01))
    assert gradient_share(slow) == 1.0 == grid_share(slow)
    formulas = model()
    slope = formulas.cost(1.0) - formulas.cost(0.0)
    assert gradient_share(formulas) == pytest.approx(0.5 - 100 * 0.01 * slope, rel=1e-4)


def test_the_ridges_are_only_kept_if_asked() -> None:
    below = model(intensity=10.0)  # the ridges are 25 and 40 FLOPs a byte
    assert not below.within_ridges(0.5)
    between = model(intensity=30.0)
    assert [between.within_ridges(share) for share in (0.0, 0.5, 1.0)] == [False, False, True]
    # The first part takes more of the traffic than of the computation: I2 is 0.8 / 0.6 * 30 = 40.
    assert model(intensity=30.01, k=0.4, p=0.8, bandwidths=(1e12, 100e9)).within_ridges(0.5)
    assert not model(intensity=29.99, k=0.4, p=0.8, bandwidths=(1e12, 100e9)).within_ridges(0.5)
    assert grid_share(between) == 0.0
    assert grid_share(between, enforce_ridges=True) == 1.0
    assert grid_share(below, enforce_ridges=True) == grid_share(below)


@pytest.mark.parametrize(
    "wrong",
    [
        {"bandwidths": (0.0, 1.0)},
        {"peaks_flops": (1.0,)},
        {"k": -1.0},
        {"flops": math.nan},
        {"link_bytes_per_s": 0.0},
        {"transmitted_bytes": -1.0},
        {"accuracy_losses": (0.0,)},
    ],
)
def test_numbers_that_make_no_sense_are_refused(wrong) -> None:
    with pytest.raises(IovtError, match="two devices and positive numbers"):
        model(**wrong)
