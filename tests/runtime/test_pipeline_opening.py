from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from tvm_iovt.runtime.pipeline import Pipeline
from tvm_iovt.runtime.pipeline_opening import PipelineOpening


def opening_of(device: Any, told: threading.Event) -> PipelineOpening:
    def open_it() -> Pipeline:
        pipeline = Pipeline([device.stage()], ["a"])
        pipeline.open()
        return pipeline

    return PipelineOpening(open_it, then=told.set)


def test_it_opens_elsewhere_and_is_taken(fakes: Any) -> None:
    device, told = fakes.Device("d", ("x",), "a", block=("open", 0)), threading.Event()
    opening = opening_of(device, told)
    assert not told.is_set()
    device.release.set()
    assert told.wait(60)
    pipeline = opening.take()
    assert pipeline is not None
    assert opening.abandon() is None
    assert device.open_lanes == 1, "it belongs to who has taken it"
    pipeline.close()
    assert device.open_lanes == 0


def test_what_nobody_takes_is_closed(fakes: Any) -> None:
    device, told = fakes.Device("d", ("x",), "a"), threading.Event()
    opening = opening_of(device, told)
    assert opening.abandon(60) is None
    assert device.calls == {"open": 1, "close": 1}


def test_a_device_that_opens_too_late_is_closed_then(fakes: Any) -> None:
    device, told = fakes.Device("d", ("x",), "a", block=("open", 0)), threading.Event()
    opening = opening_of(device, told)
    assert opening.abandon(0.0) is None
    device.release.set()
    assert told.wait(60)
    deadline_s = time.monotonic() + 60
    while device.calls.get("close") != 1:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert opening.take() is None


def test_a_device_that_cannot_be_opened_is_none(fakes: Any) -> None:
    device, told = fakes.Device("d", ("x",), "a", fail=("open", 0)), threading.Event()
    opening = opening_of(device, told)
    assert told.wait(60)
    assert opening.take() is None


def test_a_mistake_of_the_program_is_raised() -> None:
    def broken() -> Pipeline:
        raise ZeroDivisionError

    told = threading.Event()
    opening = PipelineOpening(broken, then=told.set)
    assert told.wait(60)
    with pytest.raises(ZeroDivisionError):
        opening.take()
    assert opening.abandon() is None
