import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_iovt.report import units

PREFIX = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
SECONDS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9, "ps": 1e-12}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (14_000_000, "14.0 MB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
    ],
)
def test_bytes(value, text):
    assert units.format_bytes(value) == text


def test_flops_macs_and_counts():
    assert units.format_flops(1_200_000_000) == "1.2 GFLOP"
    assert units.format_macs(385_000_000) == "385.0 MMAC"
    assert units.format_count(3_490_000) == "3.5 M"
    assert units.format_count(12) == "12"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 s"),
        (0.0032, "3.20 ms"),
        (0.0123, "12.3 ms"),
        (45e-6, "45.0 µs"),
        (0.4567, "457 ms"),
        (1.5, "1.50 s"),
        (0.99999, "1.00 s"),
        (59.96, "1 min 00 s"),
        (125.4, "2 min 05 s"),
        (7260.0, "2 h 01 min"),
        (math.inf, "inf"),
    ],
)
def test_seconds(value, text):
    assert units.format_seconds(value) == text


@given(st.integers(min_value=0, max_value=10**20))
def test_scaled_numbers_stay_below_a_thousand_and_near_the_value(value):
    number, _, unit = units.format_bytes(value).partition(" ")
    scale = PREFIX[unit.removesuffix("B")]
    assert float(number) < 1000 or unit == "EB"
    assert math.isclose(float(number) * scale, value, rel_tol=0.06, abs_tol=0.5)


@given(st.integers(min_value=0, max_value=10**17), st.integers(min_value=1, max_value=9))
def test_scaling_keeps_the_order(value, step):
    def size(text):
        number, _, unit = text.partition(" ")
        return float(number) * PREFIX[unit.removesuffix("B")]

    assert size(units.format_bytes(value)) <= size(units.format_bytes(value + step))


@given(st.floats(min_value=1e-9, max_value=59.9))
def test_seconds_read_back(value):
    number, unit = units.format_seconds(value).split(" ")
    assert math.isclose(float(number) * SECONDS[unit], value, rel_tol=0.06)
    assert float(number) < 1000 or unit == "s"


@given(st.floats(min_value=1e-12, max_value=1))
def test_a_positive_share_is_never_zero(fraction):
    assert units.format_percent(fraction) != "0.0%"


def test_errors_and_cosine():
    assert units.format_error(0.0) == "0"
    assert units.format_error(5.5e-6) == "5.5e-06"
    assert units.format_cosine(1.0) == "1"
    assert units.format_cosine(0.9999996) == "0.9999996"
    assert units.format_cosine(1 - 1e-12) == "1-1e-12"
    assert units.format_cosine(0.93) == "0.93"
    assert units.format_cosine(math.nan) == "nan"


def test_range_shares_the_unit_of_its_upper_end():
    assert units.format_seconds_range(0.0119, 0.0138) == "11.9 .. 13.8 ms"
    assert units.format_seconds_range(0.0009, 0.0012) == "0.90 .. 1.20 ms"


def test_shapes():
    assert units.format_shape((1, 3, "H", "W")) == "1 x 3 x H x W"
    assert units.format_shape((1, 3, 8, 8)) == "1x3x8x8"
    assert units.format_shape(()) == "scalar"


@given(st.text())
def test_printable_text_has_no_control_characters(text):
    assert units.printable(text).isprintable()
    assert not re.search(r"[\x00-\x1f\x7f]", units.printable(text))


def test_nouns_follow_their_number():
    assert [units.counted(count, "trial") for count in (0, 1, 2)] == [
        "0 trials",
        "1 trial",
        "2 trials",
    ]
