"""Sizes and short times."""

from __future__ import annotations

import pytest

from tvm_iovt.cli.quantities import parse_interval, parse_size
from tvm_iovt.errors import UsageError


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("512MB", 512_000_000), ("1.5 GB", 1_500_000_000), ("2GiB", 2**31), ("100B", 100)],
)
def test_sizes(text, nbytes):
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "512", "MB", "0MB", "-1MB", "1Mbit", "0.1B"])
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match="size"):
        parse_size(text)


@pytest.mark.parametrize(("text", "seconds"), [("33ms", 0.033), ("0.5 s", 0.5), ("200us", 2e-4)])
def test_intervals(text, seconds):
    assert parse_interval(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "33", "0ms", "-1s", "1h"])
def test_what_is_no_interval(text):
    with pytest.raises(UsageError, match="interval"):
        parse_interval(text)
