"""Pipelines with stages on boards: all frames in order, and boards that die in the middle."""

from __future__ import annotations

import os
import platform
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_iovt.errors import DeviceError
from tvm_iovt.pipelines import PipelineError, run_pipeline
from tvm_iovt.runtime import adaptation
from tvm_iovt.runtime.adaptation import DriftSettings

MANY = 3000


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory, staged_bundle: Any) -> Path:
    """A bundle whose stage in the middle is for `board`, which is this machine, too."""
    host = staged_bundle.HOST
    places = (("host", host), ("board", host), ("host", host))
    return staged_bundle.write(tmp_path_factory.mktemp("cut") / "cut.iovt", places)


def write_stream(path: Path, frames: int) -> np.ndarray:
    """Frames that tell their number: the network is linear in positive factors."""
    base = np.random.default_rng(4).standard_normal((1, 3, 16, 16)).astype(np.float32)
    factors = 1 + np.arange(frames, dtype=np.float32) / 100
    np.savez(path, image=base * factors[:, None, None, None])
    return factors


def stored(folder: Path) -> np.ndarray:
    parts = []
    for file in sorted(folder.iterdir()):
        with np.load(file) as arrays:
            parts.append(arrays["sums"][:, 0])
    return np.concatenate(parts)


def check(found: np.ndarray, path: Path, staged_bundle: Any) -> None:
    with np.load(path) as arrays:
        first = staged_bundle.reference(arrays["image"][:1])[0]
    factors = 1 + np.arange(len(found)) / 100
    np.testing.assert_allclose(found, factors[:, None] * first, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("sequential", [False, True])
def test_a_stage_on_a_board(
    lab: Any, board: Any, cut: Path, tmp_path: Path, staged_bundle: Any, sequential: bool
) -> None:
    write_stream(tmp_path / "frames.npz", 60)
    told: list[str] = []
    outcome = run_pipeline(
        cut,
        str(tmp_path / "frames.npz"),
        boards={"board": lab.request("shared")},
        sequential=sequential,
        output=tmp_path / "out",
        progress=told.append,
    )
    assert outcome.frames == 60
    check(stored(tmp_path / "out"), tmp_path / "frames.npz", staged_bundle)
    assert outcome.timeline.stages[1] == "stage 1 on board (bench-top)"
    assert {span.lane for span in outcome.timeline.of(1, "compute")} == (
        {0} if sequential else {0, 1, 2}
    )
    assert any("stage 1, board: bench-top" in line for line in told)


def test_two_stages_on_one_board(lab: Any, board: Any, tmp_path: Path, staged_bundle: Any) -> None:
    names = ("board/1", "board/1~2", "host")
    places = tuple((name, staged_bundle.HOST) for name in names)
    parts = staged_bundle.write(tmp_path / "parts.iovt", places)
    write_stream(tmp_path / "frames.npz", 30)
    outcome = run_pipeline(
        parts,
        str(tmp_path / "frames.npz"),
        boards=dict.fromkeys(names[:2], lab.request("shared")),
        output=tmp_path / "out",
    )
    assert ["bench-top" in place for place in outcome.places] == [True, True, False]
    check(stored(tmp_path / "out"), tmp_path / "frames.npz", staged_bundle)


def test_no_such_board(lab: Any, cut: Path) -> None:
    with pytest.raises(DeviceError, match="no board of key nobody"):
        run_pipeline(cut, "sample:3", boards={"board": lab.request("nobody", wait_s=0.5)})


@pytest.mark.parametrize(
    "how", ["killed", "server killed", pytest.param("frozen", marks=pytest.mark.slow)]
)
def test_a_board_that_dies_in_the_middle(
    own_lab: Any, cut: Path, tmp_path: Path, staged_bundle: Any, processes: Any, how: str
) -> None:
    own_lab.start_tracker()
    board = own_lab.start_board("fragile", "--name", "on-the-roof")
    write_stream(tmp_path / "frames.npz", MANY)

    def end_it(done: int, total: int) -> None:
        if done == 40:
            pids = processes.descendants(board.process.pid)
            if how != "server killed":
                pids.append(board.process.pid)
            for pid in pids:
                os.kill(pid, signal.SIGSTOP if how == "frozen" else signal.SIGKILL)

    with pytest.raises(PipelineError) as caught:
        run_pipeline(
            cut,
            str(tmp_path / "frames.npz"),
            boards={"board": own_lab.request("fragile")},
            output=tmp_path / "out",
            count=end_it,
        )
    error, kept = caught.value, caught.value.outcome.frames
    assert error.exit_code == 5
    assert f"frame {kept}" in error.what
    assert "on-the-roof" in str(error)
    assert f"{kept} frames are done and kept in {tmp_path / 'out'}" in error.do
    assert 40 <= kept < 40 + 20
    assert len(stored(tmp_path / "out")) == kept
    check(stored(tmp_path / "out"), tmp_path / "frames.npz", staged_bundle)


@pytest.mark.slow
@pytest.mark.arm
def test_an_emulated_board_that_dies_in_the_middle(
    own_lab: Any, tmp_path: Path, staged_bundle: Any, arm_root: dict[str, str], processes: Any
) -> None:
    """Host, 64-bit ARM and host again, on a video."""
    cv2 = pytest.importorskip("cv2", reason="pip install opencv-python-headless")
    host = platform.machine()
    places = (("host", host), ("arm", "aarch64"), ("host", host))
    path = staged_bundle.write(tmp_path / "arm.iovt", places)
    writer = cv2.VideoWriter(
        str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 64)
    )
    for index in range(200):
        writer.write(np.full((64, 64, 3), index, np.uint8))
    writer.release()
    own_lab.start_tracker()
    board = own_lab.start_emulated_board("emulated", arm_root)
    boards = {"arm": own_lab.request("emulated", timeout_s=60)}
    whole = run_pipeline(path, str(tmp_path / "clip.avi"), boards=boards, output=tmp_path / "all")
    assert whole.frames == 200
    grey = np.arange(200) / 255
    sums = staged_bundle.reference(np.ones((1, 3, 16, 16), np.float32))[0]
    np.testing.assert_allclose(
        stored(tmp_path / "all"), grey[:, None] * sums, rtol=0.05, atol=sums.max() * 0.01
    )

    def end_it(done: int, total: int) -> None:
        if done == 50:
            for pid in [*processes.descendants(board.process.pid), board.process.pid]:
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(PipelineError) as caught:
        run_pipeline(
            path,
            str(tmp_path / "clip.avi"),
            boards=boards,
            output=tmp_path / "some",
            count=end_it,
        )
    kept = caught.value.outcome.frames
    assert 50 <= kept < 70
    assert "emulated" in str(caught.value)
    np.testing.assert_array_equal(stored(tmp_path / "some"), stored(tmp_path / "all")[:kept])


def test_the_command_ends_with_5_when_its_board_dies(
    own_lab: Any, cut: Path, tmp_path: Path, processes: Any
) -> None:
    own_lab.start_tracker()
    board = own_lab.start_board("fragile", "--name", "on-the-roof")
    command = [sys.executable, "-m", "tvm_iovt", "run", str(cut), "sample:100000000"]
    command += ["--pipeline", "--tracker", str(own_lab.tracker), "--board", "board=fragile"]
    running = own_lab.start("run", [*command, "--output", str(tmp_path / "out")])
    processes.until(lambda: list(tmp_path.glob("out/frames-*.npz")))
    for pid in [*processes.descendants(board.process.pid), board.process.pid]:
        os.kill(pid, signal.SIGKILL)
    assert running.process.wait(60) == 5
    kept = sum(len(np.load(file)["sums"]) for file in tmp_path.glob("out/frames-*.npz"))
    assert f"{kept} frames are done and kept in {tmp_path / 'out'}" in running.text
    assert f"frame {kept}" in running.text
    assert "on-the-roof" in running.text
    assert "frames/s" in running.text
    assert "Traceback" not in running.text


def test_a_stream_goes_on_when_another_board_is_busy(
    lab: Any, board: Any, tmp_path: Path, staged_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cut` promises too much, but the board of the other deployment cannot be had."""
    # Frames of microseconds are noise, and a few of them no drift, for a real stream.
    settings = DriftSettings(floor_s=0.0, deviations=0.0, patience_s=0.0, dwell_s=0.0)
    monkeypatch.setattr(adaptation, "DriftSettings", lambda: settings)
    host = ("host", staged_bundle.HOST)
    first, second = ("board", staged_bundle.HOST), ("second", staged_bundle.HOST)
    path = staged_bundle.write(
        tmp_path / "b.iovt",
        (host, first, host),
        {"other": (second, second, second)},
        {"cut": 1e-9, "other": 2e-9},
    )
    write_stream(tmp_path / "frames.npz", 300)
    patient, brief = lab.request("shared"), lab.request("shared", wait_s=1)

    def wait_for_the_other_board(done: int, total: int) -> None:
        for thread in threading.enumerate():
            if thread.name == "opens the next pipeline":
                thread.join()

    outcome = run_pipeline(
        path,
        str(tmp_path / "frames.npz"),
        boards={"board": patient, "second": brief},
        adapt=True,
        output=tmp_path / "out",
        count=wait_for_the_other_board,
    )
    assert outcome.frames == 300
    assert outcome.deployment.name == "cut"
    (refused,) = outcome.switches
    assert not refused.made
    assert "busy" in refused.reason
    check(stored(tmp_path / "out"), tmp_path / "frames.npz", staged_bundle)
