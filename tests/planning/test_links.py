"""Links as users write them."""

from __future__ import annotations

import pytest

from tvm_iovt.errors import UsageError
from tvm_iovt.planning.links import parse_link, parse_links


@pytest.mark.parametrize(
    ("text", "bytes_per_s", "latency_s"),
    [
        ("arm=100Mbit/s,2ms", 12.5e6, 2e-3),
        ("arm=100Mbit,2ms", 12.5e6, 2e-3),
        ("arm=40MB/s", 40e6, 0.0),
        ("arm = 1Gbps, 500us", 125e6, 500e-6),
        ("arm=5kB,1s", 5e3, 1.0),
        ("arm=800bit/s", 100.0, 0.0),
        ("arm=1.5GB/s", 1.5e9, 0.0),
    ],
)
def test_rates_and_latencies(text, bytes_per_s, latency_s):
    link = parse_link(text)
    assert link.target == "arm"
    assert link.bytes_per_s == pytest.approx(bytes_per_s)
    assert link.latency_s == pytest.approx(latency_s)


@pytest.mark.parametrize(
    "text", ["arm", "arm=", "=1MB", "arm=fast", "arm=1MB,", "arm=1MB,2", "arm=-1MB", "arm=1MX"]
)
def test_what_cannot_be_read_is_refused(text):
    with pytest.raises(UsageError, match="cannot be read"):
        parse_link(text)


def test_a_rate_of_zero_is_refused():
    with pytest.raises(UsageError, match="positive"):
        parse_link("arm=0MB")


def test_links_to_unknown_targets_are_refused():
    with pytest.raises(UsageError, match="'arm'") as caught:
        parse_links(["arm=1MB"], ["host"])
    assert caught.value.seen == "host"


def test_a_target_has_one_link():
    texts = ["arm=5Mbit/s", "host=1MB", "arm=6Mbit/s"]
    with pytest.raises(UsageError, match="2 things of the way to arm") as caught:
        parse_links(texts, ["host", "arm"])
    assert caught.value.seen == "arm=5Mbit/s and arm=6Mbit/s"
    assert len(parse_links(texts[:2], ["host", "arm"])) == 2
