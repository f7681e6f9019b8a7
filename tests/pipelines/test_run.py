"""Bundles on streams of frames, on this machine alone."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_iovt.errors import BundleError, UsageError
from tvm_iovt.frames import open_frames
from tvm_iovt.pipelines import PipelineError, run_pipeline
from tvm_iovt.pipelines import run as run_module
from tvm_iovt.runtime import adaptation
from tvm_iovt.runtime.adaptation import DriftSettings
from tvm_iovt.runtime.timeline import COMPUTE
from tvm_iovt.types import TensorSpec

FRAMES = 30


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory, staged_bundle: Any) -> Path:
    """A bundle of three stages for this machine."""
    place = ("host", staged_bundle.HOST)
    return staged_bundle.write(tmp_path_factory.mktemp("cut") / "cut.iovt", (place, place, place))


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = np.random.default_rng(3).standard_normal((FRAMES, 3, 16, 16)).astype(np.float32)
    path = tmp_path_factory.mktemp("stream") / "images.npz"
    np.savez(path, image=images)
    return path


def expected(stream: Path, staged_bundle: Any) -> np.ndarray:
    with np.load(stream) as arrays:
        return np.stack([staged_bundle.reference(image[None]) for image in arrays["image"]])


def stored(folder: Path) -> np.ndarray:
    parts = []
    for file in sorted(folder.iterdir()):
        with np.load(file) as arrays:
            parts.append(arrays["sums"])
    return np.concatenate(parts)


@pytest.mark.parametrize("sequential", [False, True])
def test_every_frame_comes_out_in_order(
    cut: Path, stream: Path, tmp_path: Path, staged_bundle: Any, sequential: bool
) -> None:
    told: list[tuple[int, int]] = []
    outcome = run_pipeline(
        cut,
        str(stream),
        sequential=sequential,
        output=tmp_path / "out",
        count=lambda done, total: told.append((done, total)),
    )
    assert outcome.frames == FRAMES
    assert [place.split(":")[0] for place in outcome.places] == [
        f"stage {index}, host" for index in range(3)
    ]
    assert told == [(done, FRAMES) for done in range(1, FRAMES + 1)]
    np.testing.assert_allclose(
        stored(tmp_path / "out"), expected(stream, staged_bundle), rtol=1e-4, atol=1e-3
    )
    found = outcome.statistics
    assert found.frames == FRAMES
    assert found.frames_per_s > 0
    assert 0 < found.latency_p50_s <= found.latency_p90_s <= found.latency_p99_s
    assert [stage.name for stage in found.stages] == [f"stage {i} on host" for i in range(3)]
    assert all(0 < stage.occupancy <= 1 for stage in found.stages)
    for stage in range(3):
        frames = [span.frame for span in outcome.timeline.of(stage, COMPUTE)]
        assert frames == list(range(FRAMES))
    overlaps = [
        other.frame > span.frame
        for span in outcome.timeline.of(2, COMPUTE)
        for other in outcome.timeline.of(0, COMPUTE)
        if other.start_s < span.end_s and span.start_s < other.end_s
    ]
    assert not (sequential and overlaps), "a frame entered before the one before it had left"


def test_the_outputs_are_a_stream_again(cut: Path, stream: Path, tmp_path: Path) -> None:
    run_pipeline(cut, str(stream), output=tmp_path / "out", limit=7)
    spec = TensorSpec(name="sums", shape=(1, 8), dtype="float32")
    assert len(list(open_frames(str(tmp_path / "out"), (spec,), None, {}))) == 7
    with pytest.raises(UsageError, match="earlier run"):
        run_pipeline(cut, str(stream), output=tmp_path / "out")


def test_two_runs_do_not_share_a_folder(cut: Path, tmp_path: Path) -> None:
    with run_module.FrameStore(tmp_path / "out"):
        with pytest.raises(UsageError, match="Another run writes") as caught:
            run_pipeline(cut, "sample:3", output=tmp_path / "out")
        assert "another folder" in caught.value.do
    assert run_pipeline(cut, "sample:3", output=tmp_path / "out").written == 3


def test_a_run_without_a_frame_leaves_no_folder(cut: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("there", "there/made/twice"):
        with pytest.raises(UsageError, match="must be positive"):
            run_pipeline(cut, "sample:3", output=tmp_path / name, threads=0)
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_the_limit_and_the_sample(cut: Path) -> None:
    outcome = run_pipeline(cut, "sample:50", limit=4)
    assert outcome.frames == 4
    assert outcome.source == "the sample, 50 times"
    assert outcome.outputs is None
    assert run_pipeline(cut, "sample:3", limit=9).frames == 3
    with pytest.raises(UsageError, match="at least one frame"):
        run_pipeline(cut, "sample:3", limit=0)


def test_stages_get_cpus_of_their_own_where_they_fit(cut: Path) -> None:
    told: list[str] = []
    run_pipeline(cut, "sample:2", progress=told.append)
    lines = [line for line in told if line.startswith("stage ")]
    allowed = sorted(os.sched_getaffinity(0))
    pinned = [f"1 thread on CPU {cpu}" for cpu in allowed[:3]]
    wanted = pinned if len(allowed) >= 3 else ["1 thread"] * 3
    assert lines == [f"stage {i}, host: this machine, {wanted[i]}" for i in range(3)]


def test_a_frame_that_does_not_fit_keeps_those_before_it(
    cut: Path, tmp_path: Path, staged_bundle: Any
) -> None:
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(9):
        Image.fromarray(np.full((16, 16, 3), 20 * index, np.uint8)).save(folder / f"{index}.png")
    (folder / "6.png").write_bytes((folder / "6.png").read_bytes()[:40])
    with pytest.raises(PipelineError, match="Frame 6 of") as caught:
        run_pipeline(cut, str(folder), output=tmp_path / "out")
    assert "6.png" in caught.value.seen
    assert f"6 frames are done and kept in {tmp_path / 'out'}" in caught.value.do
    assert caught.value.exit_code == 2
    assert caught.value.outcome.frames == 6
    images = [np.full((1, 3, 16, 16), 20 * i / 255, np.float32) for i in range(6)]
    wanted = np.stack([staged_bundle.reference(image) for image in images])
    np.testing.assert_allclose(stored(tmp_path / "out"), wanted, rtol=1e-4, atol=1e-3)


def test_an_interrupt_keeps_what_is_done(
    cut: Path, stream: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    told: list[str] = []

    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(
            cut, str(stream), output=tmp_path / "out", count=interrupt, progress=told.append
        )
    assert len(stored(tmp_path / "out")) == 5
    assert told[-1] == f"interrupted: 5 frames are done and kept in {tmp_path / 'out'}"


def test_outputs_are_written_while_it_runs(cut: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tvm_iovt.pipelines.frame_store._FLUSH_FRAMES", 4)
    seen: list[int] = []

    def look(done: int, total: int) -> None:
        seen.append(len(list((tmp_path / "out").glob("frames-*.npz"))))

    run_pipeline(cut, "sample:10", output=tmp_path / "out", count=look)
    assert seen == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names[0] == "frames-00000000-00000003.npz"
    assert names[-1] == "frames-00000008-00000009.npz"


def test_a_deployment_for_others_is_refused(tmp_path: Path, staged_bundle: Any) -> None:
    host = staged_bundle.HOST
    if host == "aarch64":
        pytest.skip("needs a machine that is not 64-bit ARM itself")
    path = staged_bundle.write(
        tmp_path / "b.iovt", (("host", host), ("arm", "aarch64"), ("host", host))
    )
    with pytest.raises(BundleError, match="no deployment") as caught:
        run_pipeline(path, "sample:3")
    assert "stage 1 for arm" in caught.value.seen
    assert "--board" in caught.value.do
    with pytest.raises(BundleError, match="no deployment other"):
        run_pipeline(path, "sample:3", target="other")


def test_a_board_for_a_target_that_is_not_there(cut: Path) -> None:
    from tvm_iovt.boards.address import LOOPBACK, Address
    from tvm_iovt.boards.session import BoardRequest

    request = BoardRequest(tracker=Address(host=LOOPBACK, port=1), key="pi")
    for adapt in (False, True):
        with pytest.raises(UsageError, match="has no target arm") as caught:
            run_pipeline(cut, "sample:3", boards={"arm": request}, adapt=adapt)
        assert caught.value.seen == "its targets are host"


def test_a_full_disk_does_not_hide_the_first_error(
    cut: Path, stream: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    def broken(self: Any) -> None:
        raise UsageError("Cannot write it", seen="No space left on device")

    monkeypatch.setattr(run_module.FrameStore, "flush", broken)
    with pytest.raises(PipelineError, match="Cannot write it") as caught:
        run_pipeline(cut, str(stream), output=tmp_path / "out")
    assert f"{FRAMES} frames are done, of which 0 could be kept" in caught.value.do


@pytest.fixture(scope="module")
def adaptable(tmp_path_factory: pytest.TempPathFactory, staged_bundle: Any) -> Path:
    """`cut` promises what no machine can do; `other` is for the same machine by another name."""
    place, elsewhere = ("host", staged_bundle.HOST), ("elsewhere", staged_bundle.HOST)
    return staged_bundle.write(
        tmp_path_factory.mktemp("adaptable") / "b.iovt",
        (place,) * 3,
        {"other": (elsewhere,) * 3},
        {"cut": 1e-9, "other": 2e-9},
    )


@pytest.mark.parametrize("sequential", [False, True])
def test_a_run_adapts(
    adaptable: Path,
    tmp_path: Path,
    staged_bundle: Any,
    sequential: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A few frames of microseconds: what is noise, and too short to believe in, for a real stream.
    settings = DriftSettings(floor_s=0.0, deviations=0.0, patience_s=0.0, dwell_s=0.0)
    monkeypatch.setattr(adaptation, "DriftSettings", lambda: settings)
    images = np.random.default_rng(3).standard_normal((200, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "images.npz", image=images)
    told: list[str] = []

    def wait_for_the_next_one(done: int, total: int) -> None:
        for thread in threading.enumerate():
            if thread.name == "opens the next pipeline":
                thread.join()

    outcome = run_pipeline(
        adaptable,
        str(tmp_path / "images.npz"),
        count=wait_for_the_next_one,
        adapt=True,
        sequential=sequential,
        output=tmp_path / "out",
        progress=told.append,
    )
    assert outcome.frames == outcome.statistics.frames == 200
    first = outcome.switches[0]
    assert (first.before, first.after, first.made) == ("cut", "other", True)
    assert 40 <= first.frame < 120
    assert first.pause_s > 0
    assert any(line.startswith(f"frame {first.frame}: changed from cut to other") for line in told)
    assert outcome.statistics.frames_per_s > 0
    np.testing.assert_allclose(
        stored(tmp_path / "out"),
        expected(tmp_path / "images.npz", staged_bundle),
        rtol=1e-4,
        atol=1e-3,
    )


def test_the_first_deployment_can_be_named(adaptable: Path) -> None:
    outcome = run_pipeline(adaptable, "sample:10", adapt=True, target="other")
    assert outcome.deployment.name == "other"
    assert outcome.switches == ()
    assert run_pipeline(adaptable, "sample:10", adapt=True).deployment.name == "cut"


def test_of_several_the_best_prediction_is_taken(
    adaptable: Path, tmp_path: Path, staged_bundle: Any
) -> None:
    assert run_pipeline(adaptable, "sample:2").deployment.name == "cut"
    place = ("host", staged_bundle.HOST)
    path = staged_bundle.write(tmp_path / "b.iovt", (place,) * 3, {"other": (place,) * 3})
    with pytest.raises(BundleError, match="more than one deployment") as caught:
        run_pipeline(path, "sample:10")
    assert "--target" in caught.value.do
    assert run_pipeline(path, "sample:2", target="other").deployment.name == "other"


def test_nothing_to_adapt_to(cut: Path) -> None:
    with pytest.raises(BundleError, match="nothing to adapt to") as caught:
        run_pipeline(cut, "sample:10", adapt=True)
    assert "no predicted times" in caught.value.seen
