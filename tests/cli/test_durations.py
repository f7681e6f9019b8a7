from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_iovt.cli.durations import parse_duration
from tvm_iovt.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("20m", 1200),
        ("20min", 1200),
        ("1h30m", 5400),
        ("1h 30m 5s", 5405),
        ("0.5h", 1800),
        ("1H", 3600),
        (" 2m ", 120),
        ("0h0m1s", 1),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


WRONG = "|90|0s|0h0m|-5m|1d|5m1h|1m1m|inf s|1e3s|٣m|1h30|m|400d|9000h|1h;rm|\x1b[2Js| "


@pytest.mark.parametrize("text", [*WRONG.split("|"), "9" * 400 + "h"])
def test_anything_else_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration(text)
    assert "20m" in caught.value.do
    assert "\x1b" not in str(caught.value)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(1, 59))
def test_units_add_up(hours: int, minutes: int, seconds: int) -> None:
    assert parse_duration(f"{hours}h{minutes}m{seconds}s") == 3600 * hours + 60 * minutes + seconds


@given(st.text(max_size=30))
def test_no_text_breaks_the_parser(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert 0 < parse_duration(text) <= 365 * 86400
