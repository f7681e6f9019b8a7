from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_iovt.report.axes import count_ticks, duration_axis, time_ticks


def texts(ticks):
    return [text for _, text in ticks]


def test_durations_have_one_unit_and_no_more_digits_than_they_need():
    assert texts(duration_axis(1.9e-3, 2.14e-3)[2]) == ["1.9 ms", "2.0 ms", "2.1 ms"]
    assert texts(duration_axis(10e-6, 50e-6)[2]) == ["20 µs", "40 µs"]


def test_noise_does_not_fill_a_vertical_axis():
    low_s, high_s, _ = duration_axis(1.000, 1.001)
    assert high_s - low_s >= 0.1


@pytest.mark.parametrize(
    ("end_s", "unit", "first", "last"),
    [
        (0.5, "seconds", "0", "0.5"),
        (45, "seconds", "0", "40"),
        (100, "seconds", "0", "100"),
        (150, "minutes", "0:00", "2:30"),
        (1200, "minutes", "0:00", "20:00"),
        (3 * 3600, "hours", "0:00", "3:00"),
        (86400 * 30, "days", "0", "30"),
    ],
)
def test_wall_time_is_counted_in_what_fits(end_s, unit, first, last):
    found, ticks = time_ticks(end_s)
    assert (found, ticks[0][1], ticks[-1][1]) == (unit, first, last)


@given(st.floats(1e-3, 1e8))
def test_ticks_of_time_are_few_distinct_and_on_the_axis(end_s):
    _, ticks = time_ticks(end_s)
    assert 2 <= len(ticks) <= 7
    assert all(0 <= at <= end_s * (1 + 1e-9) for at, _ in ticks)
    assert len(set(texts(ticks))) == len(ticks)


@given(st.integers(1, 10**7))
def test_counts_are_whole(end):
    ticks = count_ticks(float(end))
    assert len(ticks) >= 2
    assert all(at == int(at) <= end for at, _ in ticks)


@given(st.floats(1e-9, 1e3), st.floats(1, 50))
def test_a_vertical_axis_holds_what_it_was_made_for(low_s, factor):
    bottom_s, top_s, ticks = duration_axis(low_s, low_s * factor)
    assert 0 <= bottom_s < low_s <= low_s * factor < top_s
    assert len(ticks) >= 2
    assert len(set(texts(ticks))) == len(ticks)
    assert all(bottom_s * (1 - 1e-9) <= at_s <= top_s * (1 + 1e-9) for at_s, _ in ticks)
