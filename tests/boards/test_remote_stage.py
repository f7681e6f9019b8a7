"""Stages on real boards: right results, several lanes, and boards that fail."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_iovt import bundle
from tvm_iovt.boards.remote_stage import BoardStage, StageBoard, open_board
from tvm_iovt.errors import BundleError, DeviceError
from tvm_iovt.types import Stage, TensorSpec


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory, staged_bundle: Any) -> Path:
    """A bundle whose stage in the middle is for `board`, which is this machine, too."""
    host = staged_bundle.HOST
    places = (("host", host), ("board", host), ("host", host))
    return staged_bundle.write(tmp_path_factory.mktemp("cut") / "cut.iovt", places)


@contextmanager
def opened(request: Any, stages: int = 1, lanes: int = 2) -> Iterator[StageBoard]:
    board = open_board(request, stages, lanes)
    try:
        yield board
    finally:
        board.close()


def stage(board: StageBoard, path: Path, index: int, lanes: int = 1) -> BoardStage:
    manifest = bundle.read_manifest(path)
    return BoardStage(board, path, manifest, manifest.deployments[0], index, lanes=lanes)


def carried(lane: Any, values: dict[str, np.ndarray]) -> dict[str, Any]:
    lane.receive(values)
    lane.compute()
    return lane.send()


def test_stages_of_one_board_compute_the_network(
    lab: Any, board: Any, cut: Path, staged_bundle: Any
) -> None:
    image = np.random.default_rng(5).standard_normal((1, 3, 16, 16)).astype(np.float32)
    with opened(lab.request("shared"), stages=3, lanes=1) as found:
        stages = [stage(found, cut, index) for index in range(3)]
        assert found.connections == 3
        assert stages[1].name == "stage 1 on board (bench-top)"
        values: dict[str, Any] = {"image": image}
        lanes = [each.open_lane() for each in stages]
        for lane in lanes:
            values |= carried(lane, values)
        np.testing.assert_allclose(
            values["sums"], staged_bundle.reference(image), rtol=1e-4, atol=1e-3
        )
        with pytest.raises(DeviceError, match="no further lane"):
            stages[0].open_lane()
        lanes[0].close()
        again = carried(stages[0].open_lane(), {"image": image})  # a closed lane makes room
        np.testing.assert_array_equal(again["early"], values["early"])


def test_lanes_work_at_the_same_time(lab: Any, board: Any, cut: Path) -> None:
    """A lane that is in a call does not hold up the others: each has a connection of its own."""
    images = [np.full((1, 3, 16, 16), value, np.float32) for value in (1.0, 2.0)]
    found: dict[int, list[np.ndarray]] = {0: [], 1: []}
    with opened(lab.request("shared")) as link:
        assert link.connections == 2
        first = stage(link, cut, 0, lanes=2)
        assert first.lanes == 2
        both = threading.Barrier(2, timeout=60)

        def carry(index: int) -> None:
            lane = first.open_lane()
            for _ in range(20):
                lane.receive({"image": images[index]})
                both.wait()  # the other lane has received, too: one buffer would hold its frame
                lane.compute()
                found[index].append(lane.send()["early"])
            lane.close()

        threads = [threading.Thread(target=carry, args=(index,)) for index in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        # Which of the two ends first is up to the scheduler now and then; if one had to wait for
        # the other it would never be the quick one.
        assert any(overtakes(link, 20_000_000) for _ in range(20))
    for outputs in found.values():
        assert len(outputs) == 20
        assert all(np.array_equal(outputs[0], other) for other in outputs)
    assert not np.array_equal(found[0][0], found[1][0])


def overtakes(link: StageBoard, large_bytes: int) -> bool:
    """Whether a small call on one connection ends well before a large one on another."""
    began_s = time.monotonic()
    slow = threading.Thread(target=link._sessions[0].call, args=("", "echo", large_bytes))
    slow.start()
    link._sessions[1].call("", "echo", 1)
    was_first, quick_s = slow.is_alive(), time.monotonic() - began_s
    slow.join()
    return was_first and quick_s < (time.monotonic() - began_s) / 2


def test_the_board_is_free_after_a_session_with_lanes(
    lab: Any, board: Any, cut: Path, processes: Any
) -> None:
    with opened(lab.request("shared"), lanes=3) as found:
        assert found.connections == 3
    processes.until(lambda: lab.is_free("shared"))
    assert lab.living("shared").restarts == 0


def test_a_server_without_channels_has_one_lane(own_lab: Any, cut: Path) -> None:
    """TVM's own server serves one connection."""
    import sys

    pytest.importorskip("psutil", reason="TVM's server needs psutil and cloudpickle")
    pytest.importorskip("cloudpickle", reason="TVM's server needs psutil and cloudpickle")
    own_lab.start_tracker()
    command = [sys.executable, "-m", "tvm.exec.rpc_server", "--host", "127.0.0.1"]
    command += ["--port", "29501", "--port-end", "29599"]
    own_lab.start("plain", [*command, "--tracker", str(own_lab.tracker), "--key", "plain"])
    told: list[str] = []
    link = open_board(own_lab.request("plain", wait_s=60), 1, progress=told.append)
    try:
        assert link.connections == 1
        assert "serves one connection" in told[-1]
        lane = stage(link, cut, 0).open_lane()
        image = np.ones((1, 3, 16, 16), np.float32)
        assert carried(lane, {"image": image})["early"].any()
        lane.close()
    finally:
        link.close()


def test_a_stage_for_another_cpu_is_refused(
    lab: Any, board: Any, tmp_path: Path, staged_bundle: Any
) -> None:
    host = staged_bundle.HOST
    if host == "aarch64":
        pytest.skip("needs a machine that is not 64-bit ARM itself")
    path = staged_bundle.write(
        tmp_path / "arm.iovt", (("host", host), ("arm", "aarch64"), ("host", host))
    )
    with (
        opened(lab.request("shared"), lanes=1) as found,
        pytest.raises(BundleError, match="Stage 1 of cut cannot run") as caught,
    ):
        stage(found, path, 1)
    assert "aarch64" in caught.value.seen
    assert "--board arm=KEY" in caught.value.do


def test_a_board_that_dies_is_named_soon(own_lab: Any, cut: Path, processes: Any) -> None:
    own_lab.start_tracker()
    board = own_lab.start_board("fragile", "--name", "on-the-roof")
    with opened(own_lab.request("fragile")) as found:
        lanes = [stage(found, cut, 0).open_lane() for _ in range(2)]
        image = np.ones((1, 3, 16, 16), np.float32)
        for lane in lanes:
            carried(lane, {"image": image})
        for pid in [board.process.pid, *processes.descendants(board.process.pid)]:
            os.kill(pid, signal.SIGKILL)
        for lane in lanes:
            with pytest.raises(DeviceError, match="stage 0 of the network failed") as caught:
                carried(lane, {"image": image})
            assert "on-the-roof" in caught.value.what
        for lane in lanes:
            lane.close()


def test_lanes_share_the_weights(
    lab: Any, board: Any, cut: Path, tmp_path: Path, staged_bundle: Any, processes: Any
) -> None:
    """Of a stage with 64 MB of them: a second lane needs no second copy."""
    rows, columns = 16000, 1000
    size = 4 * rows * columns
    staged_bundle.compile_heavy(tmp_path / "heavy.so", rows, columns)
    manifest = bundle.read_manifest(cut)
    (deployment,) = manifest.deployments
    vector = TensorSpec(name="vector", shape=(1, rows), dtype="float32")
    product = TensorSpec(name="product", shape=(1, columns), dtype="float32")
    alone = Stage(index=0, target="host", inputs=(vector,), outputs=(product,))
    file = bundle.record(tmp_path, "heavy.so")
    heavy = dataclasses.replace(
        deployment,
        plan=dataclasses.replace(deployment.plan, stages=(alone,)),
        libraries=(dataclasses.replace(deployment.libraries[0], stage=0, file=file),),
    )

    def resident_bytes() -> int:
        (session,) = processes.descendants(lab.living("shared").server_pid)
        pages = int(Path(f"/proc/{session}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")

    ones = {"vector": np.ones((1, rows), np.float32)}
    with opened(lab.request("shared"), lanes=3) as found:
        device = BoardStage(found, tmp_path, manifest, heavy, 0, lanes=3)
        before = resident_bytes()
        lanes = [device.open_lane()]
        first = carried(lanes[0], ones)["product"]
        one = resident_bytes() - before
        lanes += [device.open_lane(), device.open_lane()]
        for lane in lanes[1:]:
            np.testing.assert_array_equal(carried(lane, ones)["product"], first)
        three = resident_bytes() - before
        for lane in lanes:
            lane.close()
        np.testing.assert_array_equal(carried(device.open_lane(), ones)["product"], first)
        again = resident_bytes() - before
        assert one > 0.9 * size
        assert three < one + 0.5 * size
        assert again < one + 0.5 * size
