from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tvm_iovt.errors import DeviceError
from tvm_iovt.runtime.adaptation import HOME, Drift, DriftSettings, Part, PreparedCut
from tvm_iovt.runtime.adaptive_pipeline import AdaptivePipeline
from tvm_iovt.runtime.pipeline import Pipeline
from tvm_iovt.runtime.pipeline_stage import StageError

QUICK = DriftSettings(
    dwell_frames=12, dwell_s=0.0, patience=5, patience_s=0.0, half_life_frames=1e9
)


def prepared(name: str, *targets: str) -> PreparedCut:
    """All stages of it are expected to take 2 ms, and nothing to be moved."""
    places = [HOME, *targets, HOME]
    return PreparedCut(
        name=name,
        compute=tuple(Part(key=(t,), predicted_s=0.002) for t in targets),
        transfers=tuple(Part(key=(a, b), predicted_s=0.0) for a, b in itertools.pairwise(places)),
        latency_s=0.002 * len(targets),
        period_s=0.002 if len(targets) > 1 else 0.0025,
        noise=0.3,
    )


def frames(n: int) -> Iterator[dict[str, np.ndarray]]:
    for i in range(n):
        yield {"x": np.full(2, 10 * i)}


def run(adaptive: AdaptivePipeline, n: int) -> Iterator[Any]:
    """All results; the next pipeline is open soon, however busy the machine is."""
    for result in adaptive.run(frames(n)):
        yield result
        for thread in threading.enumerate():
            if thread.name == "opens the next pipeline":
                thread.join()


class World:
    """Two devices, the second of which becomes slow; one cut uses both and the other the first."""

    def __init__(self, fakes: Any, slow_from: int, **options: Any) -> None:
        self.fakes, self.slow_from, self.options = fakes, slow_from, options
        self.opened: list[int] = []
        self.devices: list[Any] = []

    def slow(self, action: str, n: int) -> float:
        if action != "compute":
            return 0.0
        return 0.025 if n >= self.slow_from else 0.002

    def make(self, cut: int) -> Pipeline:
        self.opened.append(cut)
        steady = {"seconds": lambda action, n: 0.002 if action == "compute" else 0.0}
        if cut == 0:
            devices = self.fakes.chain(steady, {"seconds": self.slow, **self.options})
            outputs = ["t1"]
        else:
            devices = self.fakes.chain(steady)
            outputs = ["t0"]
        self.devices += devices
        return Pipeline([d.stage() for d in devices], outputs, close_timeout_s=0.5)

    def adaptive(self) -> AdaptivePipeline:
        cuts = [prepared("both", "a", "b"), prepared("one", "a")]
        return AdaptivePipeline(Drift(cuts, settings=QUICK), self.make)

    def check(self, results: list[Any], n: int, switched_at: int | None) -> None:
        assert [r.index for r in results] == list(range(n))
        finished_s = [r.timing.finished_s for r in results]
        assert finished_s == sorted(finished_s)
        for r in results:
            both = switched_at is None or r.index < switched_at
            (value,) = r.outputs.values()
            assert list(value) == [10 * r.index + (2 if both else 1)] * 2
        assert all(d.open_lanes == 0 for d in self.devices)


def test_no_drift_no_switch(fakes: Any) -> None:
    world = World(fakes, slow_from=10**9)
    adaptive = world.adaptive()
    world.check(list(adaptive.run(frames(60))), 60, None)
    assert world.opened == [0]
    assert adaptive.switches == []


def test_a_switch_loses_no_frame_and_keeps_the_order(fakes: Any) -> None:
    world = World(fakes, slow_from=20)
    adaptive = world.adaptive()
    results = list(run(adaptive, 150))
    assert world.opened == [0, 1]
    (switch,) = adaptive.switches
    assert (switch.before, switch.after, switch.made) == ("both", "one", True)
    assert 25 <= switch.frame < 60
    assert "computing on b takes" in switch.reason
    world.check(results, 150, switch.frame)
    stats = adaptive.statistics()
    assert stats is not None
    assert stats.frames == 150
    assert len(stats.stages) == 1
    assert 150 / stats.length_s <= 1.1 * stats.frames_per_s


def test_the_new_pipeline_opens_while_the_old_one_is_open(fakes: Any) -> None:
    world = World(fakes, slow_from=5)
    make, old_lanes = world.make, []

    def watch(cut: int) -> Pipeline:
        if cut == 1:
            old_lanes.append([d.open_lanes for d in world.devices])
        return make(cut)

    world.make = watch  # type: ignore[method-assign]
    results = list(run(world.adaptive(), 80))
    assert old_lanes == [[1, 1]]
    assert len(results) == 80


def test_the_stream_goes_on_while_the_next_pipeline_is_opened(fakes: Any) -> None:
    world = World(fakes, slow_from=5)
    make, asked = world.make, threading.Event()

    def slow_to_open(cut: int) -> Pipeline:
        pipeline = make(cut)
        if cut == 1:
            world.devices[-1].block = ("open", 0)
            asked.set()
        return pipeline

    world.make = slow_to_open  # type: ignore[method-assign]
    adaptive = world.adaptive()
    stream = adaptive.run(frames(10**9))
    results = []
    while not asked.is_set():
        results.append(next(stream))
    results += itertools.islice(stream, 12)
    assert adaptive.switches == []
    world.devices[-1].release.set()
    while not adaptive.switches:
        results.append(next(stream))
    (switch,) = adaptive.switches
    results += itertools.islice(stream, 2)
    stream.close()
    world.check(results, len(results), switch.frame)
    before, after = results[switch.frame - 1 : switch.frame + 1]
    assert switch.made
    assert switch.pause_s == after.timing.finished_s - before.timing.finished_s > 0


def test_a_stream_that_ends_while_the_next_pipeline_is_opened(fakes: Any) -> None:
    world = World(fakes, slow_from=0)
    make, opening, ended = world.make, threading.Event(), threading.Event()

    def slow_to_open(cut: int) -> Pipeline:
        pipeline = make(cut)
        if cut == 1:
            opening.set()
            ended.wait()
        return pipeline

    def until_it_opens() -> Iterator[dict[str, np.ndarray]]:
        for frame in frames(10**9):
            if opening.is_set():
                break
            yield frame
        ended.set()

    world.make = slow_to_open  # type: ignore[method-assign]
    adaptive = world.adaptive()
    results = list(adaptive.run(until_it_opens()))
    assert adaptive.switches == []
    world.check(results, len(results), None)
    assert world.devices[-1].calls["open"] == world.devices[-1].calls["close"] == 1


def test_devices_that_serve_one_at_a_time_are_closed_first(fakes: Any) -> None:
    world = World(fakes, slow_from=5)
    make = world.make

    def exclusive(cut: int) -> Pipeline:
        if any(d.open_lanes for d in world.devices):
            raise DeviceError("The board is taken")
        return make(cut)

    world.make = exclusive  # type: ignore[method-assign]
    adaptive = world.adaptive()
    results = list(run(adaptive, 80))
    (switch,) = adaptive.switches
    assert switch.made
    world.check(results, 80, switch.frame)


def test_a_cut_that_cannot_be_opened_leaves_the_old_one_running(fakes: Any) -> None:
    world = World(fakes, slow_from=5)
    make = world.make

    def broken(cut: int) -> Pipeline:
        if cut == 1:
            raise DeviceError("The GPU is gone", seen="no device")
        return make(cut)

    world.make = broken  # type: ignore[method-assign]
    adaptive = world.adaptive()
    results = list(run(adaptive, 60))
    (switch,) = adaptive.switches
    assert not switch.made
    assert "cannot be used: The GPU is gone no device" in switch.reason
    world.check(results, 60, None)


def test_a_device_that_hangs_when_it_is_left_does_not_stop_the_stream(fakes: Any) -> None:
    world = World(fakes, slow_from=5, block=("close", 0))
    adaptive = world.adaptive()
    results = list(run(adaptive, 80))
    for device in world.devices:
        device.release.set()
    (switch,) = adaptive.switches
    assert switch.made
    assert "failed to close" in switch.reason
    world.check(results, 80, switch.frame)


@pytest.mark.parametrize("n", [0, 1, 11, 12, 13, 14, 15, 16, 17, 18])
def test_sources_that_end_around_a_switch(fakes: Any, n: int) -> None:
    world = World(fakes, slow_from=0)
    adaptive = world.adaptive()
    results = list(run(adaptive, n))
    world.check(results, n, adaptive.switches[0].frame if adaptive.switches else None)


def test_a_failure_names_the_frame_of_the_stream(fakes: Any) -> None:
    world = World(fakes, slow_from=5)
    make = world.make

    def failing(cut: int) -> Pipeline:
        pipeline = make(cut)
        if cut == 1:
            world.devices[-1].fail = ("compute", 7)
        return pipeline

    world.make = failing  # type: ignore[method-assign]
    adaptive = world.adaptive()
    results = []
    with pytest.raises(StageError) as caught:
        for result in run(adaptive, 200):
            results.append(result)
    (switch,) = adaptive.switches
    assert caught.value.frame == switch.frame + 7
    world.check(results, switch.frame + 7, switch.frame)


def test_closing_early_leaves_no_thread(fakes: Any) -> None:
    before = set(threading.enumerate())
    for stop in (3, 40):
        world = World(fakes, slow_from=5)
        stream = world.adaptive().run(frames(10**6))
        for _ in range(stop):
            next(stream)
        stream.close()
        assert all(d.open_lanes == 0 for d in world.devices)
    deadline_s = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before
