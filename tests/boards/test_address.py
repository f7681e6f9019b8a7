from __future__ import annotations

import pytest

from tvm_iovt.boards.address import (
    TRACKER_PORT,
    Address,
    check_port,
    is_loopback,
    parse_address,
)
from tvm_iovt.errors import UsageError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.7:9200", "10.0.0.7", 9200),
        ("tracker.lan", "tracker.lan", TRACKER_PORT),
        (" tracker.lan:1 ", "tracker.lan", 1),
        ("[::1]:9200", "::1", 9200),
        ("[fe80::1]", "fe80::1", TRACKER_PORT),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    found = parse_address(text, what="tracker")
    assert found == Address(host=host, port=port)
    assert parse_address(str(found), what="tracker") == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":9190",
        "host:",
        "host:0",
        "host:65536",
        "host:nine",
        "::1",
        "a b:1",
        "http://x:1",
        "h:²",
        "a..b:1",
        f"{'h' * 64}.lan",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="address of the tracker") as caught:
        parse_address(text, what="tracker")
    assert caught.value.seen
    assert caught.value.do


def test_ports() -> None:
    assert check_port("board", 0) == 0
    for port in (-1, 65536):
        with pytest.raises(UsageError, match="out of range"):
            check_port("board", port)


def test_who_can_reach_a_host() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "10.0.0.1", "::", "board.lan")))
