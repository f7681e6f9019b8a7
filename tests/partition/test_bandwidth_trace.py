"""Traces of a link: transfers over steps, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from tvm_iovt.errors import UsageError
from tvm_iovt.partition.bandwidth_trace import BandwidthTrace, read_trace


def test_a_transfer_takes_the_bandwidth_as_it_comes() -> None:
    trace = BandwidthTrace([10.0, 11.0, 12.0, 14.0], [100.0, 0.0, 50.0, 1000.0])
    assert trace.end_s == 4.0
    assert [trace.at(t) for t in (-1, 0, 1, 1.5, 2, 3.9, 4, 99)] == [
        100, 100, 0, 0, 50, 50, 1000, 1000,
    ]  # fmt: skip
    assert trace.transfer_s(0.0, 0) == 0
    assert trace.transfer_s(0.0, 50) == pytest.approx(0.5)
    assert trace.transfer_s(0.5, 50) == pytest.approx(0.5)  # just before the link is down
    assert trace.transfer_s(0.5, 60) == pytest.approx(0.5 + 1 + 0.2)
    assert trace.transfer_s(1.25, 100) == pytest.approx(0.75 + 2)
    assert trace.transfer_s(1.25, 600) == pytest.approx(0.75 + 2 + 0.5)
    assert trace.transfer_s(99.0, 500) == pytest.approx(0.5)


def test_transfers_equal_small_steps() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        times = np.cumsum(random.integers(1, 5, 6)) / 10
        rates = random.integers(0, 4, 6) * 10.0
        rates[-1] = 10.0
        trace = BandwidthTrace(times.tolist(), rates.tolist())
        begin_s, nbytes = float(random.uniform(0, 3)), float(random.uniform(0.5, 40))
        fine = begin_s + np.arange(0, 8, 1e-4)
        sent = np.cumsum(_rates(trace, fine)) * 1e-4
        assert trace.transfer_s(begin_s, nbytes) == pytest.approx(
            1e-4 * (np.searchsorted(sent, nbytes) + 1), abs=2e-3
        )


def _rates(trace: BandwidthTrace, times: np.ndarray) -> np.ndarray:
    steps = np.searchsorted(trace.time_s, times, side="right") - 1
    return np.asarray(trace.bytes_per_s)[np.maximum(steps, 0)]


def test_a_trace_is_read() -> None:
    trace = read_trace("# 4G\n time_s , bytes_per_s\n\n100,1e6\r\n100.5, 0\n101,2500000\n")
    assert trace.time_s == (0.0, 0.5, 1.0)
    assert trace.bytes_per_s == (1e6, 0.0, 2.5e6)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("", "first line ''"),
        ("time,rate\n1,2\n", "first line 'time,rate'"),
        ("time_s,bytes_per_s\n", "0 times"),
        ("time_s,bytes_per_s\n1,2\n3\n", "line 3: '3'"),
        ("time_s,bytes_per_s\n1,2,3\n", "line 2: '1,2,3'"),
        ("time_s,bytes_per_s\n1,fast\n", "line 2: '1,fast'"),
        ("time_s,bytes_per_s\n1,2\n1,2\n", "1.0 s after 1.0 s in row 2"),
        ("time_s,bytes_per_s\n1,-2\n", "-2.0 bytes/s in row 1"),
        ("time_s,bytes_per_s\n1,nan\n", "nan bytes/s in row 1"),
        ("time_s,bytes_per_s\ninf,1\n", "inf s"),
        ("time_s,bytes_per_s\n1,1\n2,0\n", "down at the end"),
    ],
)
def test_what_is_no_trace_is_refused(text, seen) -> None:
    with pytest.raises(UsageError, match="no trace") as caught:
        read_trace(text)
    assert seen in caught.value.seen
    assert "time_s,bytes_per_s" in caught.value.do
