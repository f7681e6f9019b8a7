"""What stages of one machine do to each other, with timers that answer at once."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tvm_iovt import host_cpu, targets
from tvm_iovt.errors import DeviceError, TuningError
from tvm_iovt.probe.sharing import shared_bandwidth, slowdown_beside

HOST = targets.load("host")


class Timer:
    """Dies in its `dies_at`-th call."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.dies_at, self.calls, self.closed = dies_at, 0, False
        self.threads: set[int] = set()

    def call(self, method: str, *arguments: object, timeout_s: float) -> float:
        assert not self.closed
        self.threads.add(threading.get_ident())
        self.calls += 1
        if self.calls - 1 == self.dies_at:
            raise TuningError("A process ended", seen="signal 9")
        return 2.0

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_cpu, "usable_cores", lambda: 4)


def probed(function: Any, *timers: Timer) -> float:
    waiting = list(timers)
    try:
        return float(function(HOST, 2, lambda spec: waiting.pop(0), lambda message: None))
    finally:
        assert all(timer.closed for timer in timers)


@pytest.mark.parametrize("function", [slowdown_beside, shared_bandwidth])
@pytest.mark.parametrize("dies", [0, 1])
def test_either_of_two_that_dies_is_an_error(function: Any, dies: int) -> None:
    last_call = {slowdown_beside: 3, shared_bandwidth: 1}[function]  # while both are at work
    timers = [Timer(), Timer()]
    timers[dies].dies_at = last_call
    with pytest.raises(DeviceError, match="A process ended") as caught:
        probed(function, *timers)
    assert caught.value.seen == "signal 9"


def test_both_work_at_once_and_are_compared_with_one() -> None:
    timers = Timer(), Timer()
    assert probed(slowdown_beside, *timers) == 1.0
    assert timers[0].threads == {threading.get_ident()}
    assert timers[1].threads - timers[0].threads, "the neighbour has a thread of its own"
    assert probed(shared_bandwidth, Timer(), Timer()) > 0
