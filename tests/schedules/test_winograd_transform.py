from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_iovt.schedules.winograd_transform import (
    Rows,
    axis,
    combination_operations,
    combinations,
    matrix,
    transform_weights,
)

SIZES = [(1, 3), (2, 1), (2, 2), (2, 3), (3, 3), (4, 3), (6, 3), (2, 5), (4, 5), (2, 7)]
NUMBERS = st.fractions(min_value=-4, max_value=4, max_denominator=8)


def product(rows: Rows, values: list[Fraction]) -> list[Fraction]:
    return [sum((a * b for a, b in zip(row, values, strict=True)), Fraction(0)) for row in rows]


@given(st.data(), st.sampled_from(SIZES), st.sampled_from([1, 2, 3]))
def test_a_tile_is_a_correlation_exactly(data, size, stride):
    transform = axis(*size, stride)
    inputs = data.draw(st.lists(NUMBERS, min_size=transform.inputs, max_size=transform.inputs))
    taps = data.draw(st.lists(NUMBERS, min_size=transform.taps, max_size=transform.taps))
    products = [
        a * b
        for a, b in zip(
            product(transform.data, inputs), product(transform.weights, taps), strict=True
        )
    ]
    expected = [
        sum((inputs[x * stride + k] * taps[k] for k in range(len(taps))), Fraction(0))
        for x in range(transform.outputs)
    ]
    assert product(transform.result, products) == expected


@pytest.mark.parametrize(
    ("outputs", "taps", "stride", "products"),
    [
        (2, 3, 1, 4),
        (4, 3, 1, 6),
        (6, 3, 1, 8),
        (4, 5, 1, 8),
        (2, 3, 2, 3 + 2),  # taps 0 and 2 give F(2,2), tap 1 gives F(2,1)
        (4, 3, 2, 5 + 4),
        (2, 5, 2, 4 + 3),
        (2, 2, 3, 2 + 2),  # no tap is left for the third phase
    ],
)
def test_products_of_a_tile(outputs, taps, stride, products):
    transform = axis(outputs, taps, stride)
    assert transform.products == products
    assert transform.inputs == (outputs - 1) * stride + taps


def test_tiles_beyond_the_points_are_refused():
    assert axis(6, 3).products == 8
    with pytest.raises(ValueError, match="9 points of 7"):
        axis(8, 3)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_sums_that_share_parts_equal_the_matrix(size, stride):
    transform = axis(*size, stride)
    for rows in (transform.data, transform.result):
        values = [Fraction(3 * i * i + 1, 7) for i in range(len(rows[0]))]
        assert combinations(rows, values, Fraction) == product(rows, values)


@given(st.data())
def test_sums_of_any_matrix_equal_it(data):
    """Pairs of rows and of columns that look opposite but are not must not be merged."""
    width = data.draw(st.integers(1, 5))
    row = st.lists(
        st.sampled_from([-2, -1, 0, 0, 1, 2]).map(Fraction), min_size=width, max_size=width
    )
    rows = tuple(tuple(r) for r in data.draw(st.lists(row, min_size=1, max_size=5)))
    values = [Fraction(5 * i + 2, 3 + i) for i in range(width)]
    assert combinations(rows, values, Fraction) == product(rows, values)


@dataclass(frozen=True)
class Term:
    """An expression; equal ones are computed once."""

    text: str
    seen: frozenset[str] = frozenset()

    def _with(self, sign: str, other: Term) -> Term:
        # A multiplication is fused into the sum that takes its product.
        text = f"({self.text} {sign} {other.text})"
        counted = {text} if sign != "*" else set()
        return Term(text, self.seen | other.seen | counted)

    def __add__(self, other: Term) -> Term:
        return self._with("+", other)

    def __sub__(self, other: Term) -> Term:
        return self._with("-", other)

    def __mul__(self, other: Term) -> Term:
        return self._with("*", other)


@pytest.mark.parametrize(
    ("size", "data", "result"),
    [((2, 3), 4, 4), ((4, 3), 12, 10), ((6, 3), 24, 20), ((4, 5), 24, 16)],
)
def test_equal_parts_are_written_equally(size, data, result):
    """Counts additions, multiply-adds and subtractions, those of equal operands once."""
    transform = axis(*size)
    for rows, expected in ((transform.data, data), (transform.result, result)):
        values = [Term(f"x{i}") for i in range(len(rows[0]))]
        sums = combinations(rows, values, lambda x: Term(str(x)))
        assert len(frozenset[str]().union(*(s.seen for s in sums))) == expected
        # What the planner counts is near: loads, stores and moves come on top.
        assert expected <= combination_operations(rows) <= 1.5 * expected


def test_chains_start_with_a_term_that_is_added():
    rows = ((Fraction(-1), Fraction(0), Fraction(4)), (Fraction(-1), Fraction(-2), Fraction(0)))
    values = [Term("a"), Term("b"), Term("c")]
    first, second = combinations(rows, values, lambda x: Term(str(x)))
    assert first.text == "((c * 4.0) - a)"
    assert second.text == "((0.0 - a) - (b * 2.0))"  # nothing here can be started with


def test_weights_are_transformed_on_both_axes():
    weights = np.arange(2 * 3 * 3 * 3, dtype=np.float32).reshape(2, 3, 3, 3)
    rows, cols = axis(2, 3), axis(4, 3)
    transformed = transform_weights(weights, rows, cols)
    assert transformed.shape == (2, 3, 4, 6) and transformed.dtype == np.float64
    exact = [
        sum(
            rows.weights[2][i] * cols.weights[3][j] * Fraction(float(weights[1, 2, i, j]))
            for i in range(3)
            for j in range(3)
        )
    ]
    assert transformed[1, 2, 2, 3] == pytest.approx(float(exact[0]), rel=1e-15)


def test_matrices_are_the_exact_numbers_rounded():
    assert matrix(((Fraction(1, 2), Fraction(-4)), (Fraction(0), Fraction(1, 3)))).tolist() == [
        [0.5, -4.0],
        [0.0, 1 / 3],
    ]
