from __future__ import annotations

import gc
import itertools
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tvm_iovt.errors import DeviceError, UsageError
from tvm_iovt.runtime.pipeline import Pipeline
from tvm_iovt.runtime.pipeline_stage import StageError
from tvm_iovt.types import TensorSpec

ACTIONS = ("receive", "compute", "send")


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    until(lambda: not set(threading.enumerate()) - before)


def until(condition: Callable[[], object]) -> None:
    """Wait for something; the deadline only guards against waiting for ever."""
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come"
        time.sleep(0.01)


def frame(i: int) -> dict[str, np.ndarray]:
    return {"x": np.full((2,), 1000 * i, np.float32)}


def pipeline(devices: list[Any], **options: Any) -> Pipeline:
    return Pipeline([d.stage() for d in devices], [devices[-1].output], **options)


def most_frames(devices: list[Any], *, queue_frames: int, sequential: bool = False) -> int:
    """That were read from the source and have not come out: in each lane one, and the queues."""
    lanes = sum(device.lanes for device in devices)
    return 1 if sequential else lanes + queue_frames * (len(devices) + 1)


class Source:
    """Counts what was read of it."""

    def __init__(self, n: int, *, seconds: float = 0.0, fails_at: int | None = None) -> None:
        self.n, self.seconds, self.fails_at = n, seconds, fails_at
        self.read = 0

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for i in range(self.n):
            if self.seconds:
                time.sleep(self.seconds)
            if i == self.fails_at:
                raise OSError("the camera is gone")
            self.read += 1
            yield frame(i)


def check(results: list[Any], n: int, stages: int) -> None:
    assert [r.index for r in results] == list(range(n))
    for i, result in enumerate(results):
        (output,) = result.outputs.values()
        np.testing.assert_array_equal(output, frame(i)["x"] + stages)
        assert result.latency_s >= sum(t.receive_s + t.compute_s + t.send_s for t in result.stages)


# --- Order and results -------------------------------------------------------------------------


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lanes=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    queue_frames=st.integers(1, 3),
    sequential=st.booleans(),
    frames=st.integers(0, 25),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_frame_comes_out_once_and_in_order(
    fakes: Any, lanes: list[int], queue_frames: int, sequential: bool, frames: int, seed: int
) -> None:
    delays = np.random.default_rng(seed).choice([0, 0, 0.0005, 0.002], size=997)
    devices = fakes.chain(
        *(
            {"lanes": n, "seconds": lambda a, k, s=s: delays[hash((a, k, s)) % 997]}
            for s, n in enumerate(lanes)
        )
    )
    source = Source(frames)
    found = pipeline(devices, queue_frames=queue_frames, sequential=sequential)
    results = []
    most = most_frames(devices, queue_frames=queue_frames, sequential=sequential)
    for result in found.run(source):
        results.append(result)
        assert source.read - len(results) <= most
    check(results, frames, len(lanes))
    for device in devices:
        assert device.computed_together <= 1
        assert device.open_lanes == 0
        assert device.calls.get("open") == device.calls.get("close") == device.lanes


def test_a_graph_with_skips_and_several_outputs(fakes: Any) -> None:
    devices = [
        fakes.Device("a", ("x",), "a"),
        fakes.Device("b", ("a", "y"), "b"),
        fakes.Device("c", ("a", "b", "x"), "c"),
    ]
    found = Pipeline([d.stage() for d in devices], ["a", "c", "y"])
    assert found.inputs == ("x", "y")
    frames = [{"x": np.array([i]), "y": np.array([100 * i])} for i in range(9)]
    for i, result in enumerate(found.run(frames)):
        a, b = i + 1, i + 1 + 100 * i + 1
        expected = {"a": a, "c": a + b + i + 1, "y": 100 * i}
        assert {name: int(value[0]) for name, value in result.outputs.items()} == expected
        assert list(result.outputs) == ["a", "c", "y"]


def test_outputs_belong_to_the_caller(fakes: Any) -> None:
    given_frame = {"x": np.zeros(3), "y": np.zeros(3)}
    device = fakes.Device("a", ("x",), "a")
    (result,) = Pipeline([device.stage()], ["a", "y"]).run([given_frame])
    for value in result.outputs.values():
        value += 7
    assert not given_frame["y"].any()


def test_several_streams_through_open_devices(fakes: Any) -> None:
    devices = fakes.chain({}, {"lanes": 2})
    with pipeline(devices) as found:
        for n in (3, 0, 8):
            check(list(found.run(Source(n))), n, 2)
            assert found.statistics().frames == n
        assert [d.open_lanes for d in devices] == [1, 2]
        with pytest.raises(UsageError, match="one stream at a time"):
            for _ in found.run(Source(2)):
                next(found.run(Source(1)))
        check(list(found.run(Source(4))), 4, 2)
    assert [d.open_lanes for d in devices] == [0, 0]
    check(list(found.run(Source(4))), 4, 2)  # and closed again, it opens them itself
    assert [r.index for r in found.run(Source(2), first_frame=40)] == [40, 41]


@pytest.mark.parametrize(
    ("stages", "outputs", "message"),
    [
        ([], ["x"], "at least one stage"),
        ([("x", "a")], [], "at least one"),
        ([("x", "a"), ("x", "a")], ["a"], "Two stages of a pipeline make a"),
        ([("b", "a"), ("a", "b")], ["a"], "takes b before it is made"),
        ([("a", "a")], ["a"], "takes a before it is made"),
    ],
)
def test_stages_that_do_not_fit_together(
    fakes: Any, stages: list[tuple[str, str]], outputs: list[str], message: str
) -> None:
    made = [fakes.Device("d", (i,), o).stage() for i, o in stages]
    with pytest.raises(UsageError, match=message):
        Pipeline(made, outputs)


# --- Back-pressure and memory ------------------------------------------------------------------


@pytest.mark.parametrize(("queue_frames", "lanes"), [(1, 1), (2, 1), (3, 2)])
def test_the_source_is_read_only_when_there_is_room(
    fakes: Any, queue_frames: int, lanes: int
) -> None:
    source = Source(60)
    devices = fakes.chain({"lanes": lanes}, {"lanes": lanes})
    most = most_frames(devices, queue_frames=queue_frames)
    results = pipeline(devices, queue_frames=queue_frames).run(source)
    for got in range(1, 4):
        next(results)
        until(lambda got=got: source.read >= got + most)  # only the caller is slow
        time.sleep(0.05)
        assert source.read == got + most
    results.close()
    assert source.read == 3 + most


def test_one_frame_at_a_time_when_sequential(fakes: Any) -> None:
    source = Source(5)
    devices = fakes.chain({}, {}, {"lanes": 2})
    for got, _ in enumerate(pipeline(devices, sequential=True).run(source), start=1):
        time.sleep(0.02)
        assert source.read <= got + 1
    assert source.read == 5


def test_tensors_are_dropped_when_nobody_behind_needs_them(fakes: Any) -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def frames() -> Iterator[dict[str, np.ndarray]]:
        for i in range(30):
            array = frame(i)["x"]
            alive.append(weakref.ref(array))
            yield {"x": array}
            del array

    blocked = fakes.chain({}, {"block": ("compute", 4)}, {})
    found = pipeline(blocked, queue_frames=1)
    results = found.run(frames())
    for _ in range(4):
        next(results)
    until(lambda: len(alive) > 6 and not any(ref() is not None for ref in alive[:6]))
    # 0 to 3 came out, 4 is in stage 1, 5 waits before it; stage 0 has computed 6, 7 waits for it.
    # Only stage 0 takes these arrays.
    assert len(alive) <= 8 + 1
    blocked[1].release.set()
    for result in results:
        output = weakref.ref(result.outputs["t2"])
        del result
        until(lambda output=output: output() is None)
    del results
    gc.collect()
    until(lambda: not any(ref() is not None for ref in alive))


def test_a_slow_source_holds_up_no_result(fakes: Any) -> None:
    arrived = [threading.Event() for _ in range(4)]
    in_time = []

    def camera() -> Iterator[dict[str, np.ndarray]]:
        for i, event in enumerate(arrived):
            yield frame(i)
            in_time.append(event.wait(60))  # the next frame comes after this one's result

    for result in pipeline(fakes.chain({}, {})).run(camera()):
        arrived[result.index].set()
    assert in_time == [True] * 4


# --- Speed -------------------------------------------------------------------------------------


def of_one(action: str, seconds: float) -> Callable[[str, int], float]:
    return lambda a, n: seconds if a == action else 0.0


def test_the_slowest_stage_sets_the_rate(fakes: Any) -> None:
    times_s = (0.01, 0.03, 0.02)
    found = pipeline(fakes.chain(*({"seconds": of_one("compute", s)} for s in times_s)))
    check(list(found.run(Source(25))), 25, 3)
    stats, timeline = found.statistics(), found.timeline()
    assert stats.frames_per_s <= 1.02 / 0.03
    slowest = max(stats.stages, key=lambda s: s.mean.compute_s)
    assert max(stats.stages, key=lambda s: s.occupancy) is slowest
    # A machine that is busy wakes a sleeper late: what was measured is the measure.
    assert stats.frames_per_s <= 1.1 / slowest.mean.compute_s
    each_s = [[s.end_s - s.start_s for s in timeline.of(i, "compute")] for i in range(3)]
    for stage, spans_s, least_s in zip(stats.stages, each_s, times_s, strict=True):
        assert least_s <= stage.mean.compute_s
        assert stage.mean.compute_s == pytest.approx(np.mean(spans_s))


def test_frames_overlap_only_when_not_sequential(fakes: Any) -> None:
    together = threading.Barrier(4, timeout=60)

    def meeting(stage: int) -> Callable[[str, int], float]:
        """The stages compute four frames in a row at the same time, or never get on."""

        def seconds(action: str, n: int) -> float:
            if action == "compute" and n == 5 - stage:
                together.wait()
            return 0.0

        return seconds

    found = pipeline(fakes.chain(*({"seconds": meeting(stage)} for stage in range(4))))
    check(list(found.run(Source(12))), 12, 4)

    devices = fakes.chain(*({"seconds": of_one("compute", 0.002)} for _ in range(4)))
    found = pipeline(devices, sequential=True)
    check(list(found.run(Source(12))), 12, 4)
    spans = found.timeline().spans
    assert all(a.end_s <= b.start_s for a, b in itertools.pairwise(spans))


def test_a_second_lane_receives_while_the_first_computes(fakes: Any) -> None:
    together = threading.Barrier(2, timeout=60)

    def meeting(action: str, n: int) -> float:
        if (action, n) in {("compute", 0), ("receive", 1)}:
            together.wait()
        return 0.002

    (device,) = fakes.chain({"lanes": 2, "seconds": meeting})
    check(list(pipeline([device]).run(Source(20))), 20, 1)
    assert device.computed_together == 1

    (device,) = fakes.chain({"lanes": 1, "seconds": lambda action, n: 0.002})
    found = pipeline([device])
    check(list(found.run(Source(20))), 20, 1)
    spans = found.timeline().spans
    assert all(a.end_s <= b.start_s for a, b in itertools.pairwise(spans))


def test_the_timeline_tells_who_did_what(fakes: Any) -> None:
    devices = fakes.chain({"seconds": of_one("compute", 0.004)}, {"lanes": 2})
    found = pipeline(devices)
    list(found.run(Source(10)))
    timeline = found.timeline()
    assert timeline.stages == ("stage 0 on fake0", "stage 1 on fake1")
    assert len(timeline.spans) == 2 * 3 * 10
    assert timeline.left_out == 0
    assert [s.start_s for s in timeline.spans] == sorted(s.start_s for s in timeline.spans)
    assert timeline.length_s >= 0.04
    for stage in (0, 1):
        for action in ACTIONS:
            spans = timeline.of(stage, action)
            assert sorted(s.frame for s in spans) == list(range(10))
            assert {s.lane for s in spans} <= set(range(devices[stage].lanes))
        for i in range(10):
            mine = [s for s in timeline.spans if (s.stage, s.frame) == (stage, i)]
            assert [s.action for s in mine] == list(ACTIONS)
            assert all(a.end_s <= b.start_s for a, b in itertools.pairwise(mine))
    sums_s = sum(s.end_s - s.start_s for s in timeline.of(0, "compute"))
    assert timeline.busy_s(0) == pytest.approx(sums_s)
    assert timeline.occupancy(0) == pytest.approx(sums_s / timeline.length_s)


# --- Errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("at", [0, 5])
def test_a_failing_stage_is_named_behind_the_finished_frames(
    fakes: Any, stage: int, action: str, at: int, lanes: int
) -> None:
    options: list[dict[str, Any]] = [{"lanes": lanes} for _ in range(3)]
    options[stage]["fail"] = (action, at)
    devices = fakes.chain(*options)
    results = []
    with pytest.raises(StageError) as caught:
        for result in pipeline(devices).run(Source(1000)):
            results.append(result)
    error = caught.value
    # With two lanes the n-th receive may belong to one frame later or earlier.
    slack = 0 if lanes == 1 or action == "compute" else 1
    assert error.frame is not None
    assert abs(error.frame - at) <= slack
    check(results, error.frame, 3)
    assert error.stage == stage
    assert isinstance(error, DeviceError)
    assert error.what == f"Stage {stage} on fake{stage} failed to {action} frame {error.frame}"
    assert error.seen == f"RuntimeError: stage {stage} on fake{stage} broke"
    assert isinstance(error.__cause__, RuntimeError)
    assert all(d.open_lanes == 0 for d in devices)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lanes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    faults=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(ACTIONS), st.integers(0, 12)), max_size=4
    ),
    source_fails_at=st.one_of(st.none(), st.integers(0, 20)),
    stop_after=st.one_of(st.none(), st.integers(0, 12)),
    seed=st.integers(0, 2**32 - 1),
)
def test_nothing_hangs_or_gets_lost_whatever_fails(
    fakes: Any,
    lanes: list[int],
    faults: list[tuple[int, str, int]],
    source_fails_at: int | None,
    stop_after: int | None,
    seed: int,
) -> None:
    delays = np.random.default_rng(seed).choice([0, 0, 0.0005, 0.002], size=997)
    options: list[dict[str, Any]] = [
        {"lanes": n, "seconds": lambda a, k, s=s: delays[hash((a, k, s)) % 997]}
        for s, n in enumerate(lanes)
    ]
    for stage, action, at in faults:
        options[stage % len(lanes)]["fail"] = (action, at)
    devices = fakes.chain(*options)
    results: list[Any] = []
    stream = pipeline(devices).run(Source(20, fails_at=source_fails_at))
    error: BaseException | None = None
    try:
        for result in stream:
            results.append(result)
            if len(results) == stop_after:
                break
    except (StageError, OSError) as caught:
        error = caught
    stream.close()
    check(results, len(results), len(lanes))
    if isinstance(error, StageError):
        assert error.frame == len(results)
    elif error is not None:
        assert len(results) == source_fails_at
    elif len(results) != stop_after:
        assert len(results) == 20
    assert all(d.open_lanes == 0 for d in devices)


def test_an_error_of_the_source_comes_behind_its_frames(fakes: Any) -> None:
    results = []
    with pytest.raises(OSError, match="the camera is gone"):
        for result in pipeline(fakes.chain({}, {})).run(Source(9, fails_at=6)):
            results.append(result)
    check(results, 6, 2)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"y": np.zeros(2)}, "Frame 2 lacks inputs"),
        (7, "Frame 2 is no mapping"),
        ({"x": np.zeros(3, np.float32)}, "Frame 2 does not fit: Input x has the wrong shape"),
        ({"x": [1, 2]}, "Frame 2 does not fit: Input x is not a NumPy array"),
    ],
)
def test_a_bad_frame_is_named(fakes: Any, bad: Any, message: str) -> None:
    spec = TensorSpec(name="x", shape=(2,), dtype="float32")
    found = pipeline(fakes.chain({}), inputs=[spec])
    results = []
    with pytest.raises(UsageError, match=message):
        for result in found.run([frame(0), frame(1), bad, frame(3)]):
            results.append(result)
    check(results, 2, 1)


def test_a_device_that_cannot_be_opened(fakes: Any) -> None:
    devices = fakes.chain({}, {"lanes": 2, "fail": ("open", 1)}, {})
    source = Source(3)
    with pytest.raises(StageError, match="Stage 1 on fake1 failed to open") as caught:
        next(pipeline(devices).run(source))
    assert caught.value.frame is None
    assert source.read == 0
    assert [d.open_lanes for d in devices] == [0, 0, 0]


def test_a_device_that_fails_is_told_before_others_have_opened(fakes: Any) -> None:
    devices = fakes.chain({"block": ("open", 0)}, {"fail": ("open", 0)})
    # With a year's time: waiting for the first device would be waiting for ever.
    found = pipeline(devices, action_timeout_s=3e7, close_timeout_s=0.0)
    with pytest.raises(StageError, match="Stage 1 on fake1 failed to open"):
        found.open()
    devices[0].release.set()
    until(lambda: devices[0].calls.get("close") == 1)  # who opens too late closes again


def test_an_interrupt_is_passed_on_while_devices_open(fakes: Any) -> None:
    main = threading.get_ident()
    (device,) = fakes.chain({"block": ("open", 0)})

    def interrupted() -> None:
        until(lambda: device.calls.get("open"))
        signal.pthread_kill(main, signal.SIGINT)

    found = pipeline([device], close_timeout_s=3e7, interrupt=device.release.set)
    user = threading.Thread(target=interrupted)
    user.start()
    with pytest.raises(KeyboardInterrupt):
        found.open()
    user.join()
    assert device.open_lanes == 0


def test_an_own_error_of_a_device_is_passed_on_when_it_is_opened(fakes: Any) -> None:
    (device,) = fakes.chain({})

    def refuse() -> None:
        raise UsageError("These CPUs cannot be used")

    device.open_lane = refuse
    with pytest.raises(UsageError, match="These CPUs"):
        pipeline([device]).open()


@pytest.mark.parametrize("action", ACTIONS)
def test_a_device_that_does_not_answer_counts_as_failed(fakes: Any, action: str) -> None:
    devices = fakes.chain({}, {"block": (action, 3)}, {})
    found = pipeline(devices, action_timeout_s=1.0, close_timeout_s=0.2)
    results = []
    with pytest.raises(StageError, match=f"Stage 1 on fake1 failed to {action} frame 3") as caught:
        for result in found.run(Source(50)):
            results.append(result)
    assert "no answer" in caught.value.seen
    check(results, 3, 3)
    devices[1].release.set()


def test_frames_before_one_that_is_stuck_are_waited_for(fakes: Any) -> None:
    devices = fakes.chain({"block": ("compute", 3)}, {"seconds": of_one("compute", 0.5)})
    found = pipeline(devices, queue_frames=3, action_timeout_s=1.2, close_timeout_s=0.2)
    results = []
    with pytest.raises(StageError, match="Stage 0 on fake0 failed to compute frame 3"):
        for result in found.run(Source(50)):
            results.append(result)
    check(results, 3, 2)
    devices[0].release.set()


def test_a_device_that_does_not_open_in_time(fakes: Any) -> None:
    devices = fakes.chain({}, {"block": ("open", 0)})
    with pytest.raises(StageError, match="Stage 1 on fake1 failed to open"):
        pipeline(devices, action_timeout_s=1.0, close_timeout_s=0.2).open()
    devices[1].release.set()


def test_a_lane_that_blocks_or_fails_in_close_does_not_cost_results(fakes: Any) -> None:
    for fault in ("block", "fail"):
        devices = fakes.chain({}, {fault: ("close", 0)}, {})
        results = []
        with pytest.raises(StageError, match="Stage 1 on fake1 failed to close"):
            for result in pipeline(devices, close_timeout_s=1.0).run(Source(6)):
                results.append(result)
        check(results, 6, 3)
        devices[1].release.set()


def test_an_error_is_not_hidden_by_one_in_close(fakes: Any) -> None:
    devices = fakes.chain({"fail": ("compute", 2)}, {"block": ("close", 0)})
    with pytest.raises(StageError, match="failed to compute frame 2"):
        list(pipeline(devices, close_timeout_s=0.2).run(Source(6)))
    devices[1].release.set()


def test_after_a_failure_the_pipeline_can_be_opened_again(fakes: Any) -> None:
    devices = fakes.chain({}, {"fail": ("compute", 2)})
    found = pipeline(devices)
    with found:
        with pytest.raises(StageError):
            list(found.run(Source(6)))
        assert [d.open_lanes for d in devices] == [0, 0]
        check(list(found.run(Source(6))), 6, 2)


# --- Stopping early ----------------------------------------------------------------------------


@pytest.mark.parametrize("after", [1, 7])
def test_closing_early_stops_all_threads(fakes: Any, after: int) -> None:
    devices = fakes.chain({}, {"lanes": 2, "seconds": of_one("receive", 0.01)}, {})
    source = Source(10**9)
    for result in pipeline(devices).run(source):
        if result.index + 1 == after:
            break
    gc.collect()
    assert all(d.open_lanes == 0 for d in devices)
    assert source.read < 30


def test_open_devices_survive_an_early_end(fakes: Any) -> None:
    devices = fakes.chain({}, {"lanes": 2, "seconds": of_one("compute", 0.005)}, {})
    with pipeline(devices) as found:
        for n in (1, 3):
            stream = found.run(Source(10**9))
            for _ in range(n):
                next(stream)
            stream.close()
        check(list(found.run(Source(5))), 5, 3)
        assert [d.calls["open"] for d in devices] == [1, 2, 1]


@pytest.mark.parametrize("leave", ["block", "close"])
def test_a_pipeline_can_be_closed_under_a_stream(fakes: Any, leave: str) -> None:
    devices = fakes.chain({}, {"lanes": 2})
    # Nobody is waited for: with a year's time, waiting for a lane would be waiting for ever.
    found = pipeline(devices, close_timeout_s=3e7)
    if leave == "block":
        with found:
            stream = found.run(Source(10**9))
            next(stream)
    else:
        found.open()
        stream = found.run(Source(10**9))
        next(stream)
        found.close()
    assert [d.open_lanes for d in devices] == [0, 0]
    with pytest.raises(UsageError, match="closed while a stream ran") as caught:
        list(stream)
    assert caught.value.do
    check(list(found.run(Source(4))), 4, 2)


class Unstartable(threading.Thread):
    """A machine that has no thread left for the source."""

    def start(self) -> None:
        if self.name == "source of the pipeline":
            raise RuntimeError("can't start new thread")
        super().start()


def test_a_source_without_a_thread_does_not_spoil_the_pipeline(
    fakes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = fakes.chain({}, {})
    found = pipeline(devices)
    with monkeypatch.context() as patch:
        patch.setattr(threading, "Thread", Unstartable)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            next(found.run(Source(3)))
    assert [d.open_lanes for d in devices] == [0, 0]
    check(list(found.run(Source(3))), 3, 2)


def test_a_source_that_blocks_does_not_keep_the_caller(fakes: Any) -> None:
    unblock = threading.Event()

    def camera() -> Iterator[dict[str, np.ndarray]]:
        yield frame(0)
        unblock.wait()

    stream = pipeline(fakes.chain({}), close_timeout_s=0.3).run(camera())
    next(stream)
    stream.close()  # which would never end if it waited for the camera
    unblock.set()


def test_an_interrupted_caller_leaves_nothing_behind(fakes: Any) -> None:
    devices = fakes.chain({"seconds": of_one("compute", 0.01)}, {})
    with pytest.raises(KeyboardInterrupt):
        for result in pipeline(devices).run(Source(10**9)):
            if result.index == 3:
                raise KeyboardInterrupt
    gc.collect()
    assert all(d.open_lanes == 0 for d in devices)


def test_control_c_while_a_device_computes(fakes: Any) -> None:
    main = threading.get_ident()

    def interrupting(action: str, n: int) -> float:
        if (action, n) == ("compute", 1):  # the caller waits for its second result, or will soon
            signal.pthread_kill(main, signal.SIGINT)
            return 0.5
        return 0.0

    devices = fakes.chain({}, {"seconds": interrupting})
    with pytest.raises(KeyboardInterrupt):
        list(pipeline(devices).run(Source(1000)))
    assert all(d.open_lanes == 0 for d in devices)


def test_an_interrupt_is_passed_on_before_devices_are_waited_for(fakes: Any) -> None:
    main = threading.get_ident()
    devices = fakes.chain({"block": ("compute", 1)})

    def interrupted() -> None:
        until(lambda: devices[0].calls.get("compute") == 2)  # it will not come back by itself
        signal.pthread_kill(main, signal.SIGINT)

    # With a year's time: whoever waits before the device is let go waits for ever.
    found = pipeline(devices, close_timeout_s=3e7, interrupt=devices[0].release.set)
    user = threading.Thread(target=interrupted)
    user.start()
    with pytest.raises(KeyboardInterrupt):
        list(found.run(Source(9)))
    user.join()
    assert devices[0].open_lanes == 0


def test_only_an_interrupt_is_one(fakes: Any) -> None:
    told: list[int] = []
    (device,) = fakes.chain({"fail": ("compute", 2)})
    found = pipeline([device], interrupt=lambda: told.append(1))
    with pytest.raises(StageError):
        list(found.run(Source(9)))
    stream = found.run(Source(9))
    next(stream)
    stream.close()
    assert told == []
