"""Sessions with boards, and every way that they fail."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_iovt import bundle
from tvm_iovt.boards.board_check import check_board
from tvm_iovt.boards.connection import connect
from tvm_iovt.boards.deployments import remote_stages
from tvm_iovt.boards.session import BoardSession
from tvm_iovt.errors import DeviceError

FOREVER = 10_000_000


def load(session: BoardSession, path: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Upload a bundle as network 0 and run it once; its inputs, and its first output."""
    manifest = bundle.read_manifest(path)
    stages = remote_stages(path, manifest.deployments[0])
    outputs = tuple(spec.name for spec in manifest.outputs)
    assert session.call("uploading", "load", stages, outputs) == 0
    inputs, _ = bundle.load_sample(path)
    return inputs, session.call("running", "run", 0, inputs)[outputs[0]]


def test_a_board_is_checked_step_by_step(lab: Any, board: Any) -> None:
    told: list[str] = []
    with connect(lab.request("shared"), told.append) as session:
        assert "bench-top" in session.name
        assert session.status.arch
        from tvm_iovt import host_cpu

        version = check_board(session, host_cpu.detect(), told.append)
        assert session.call("looking", "has_function", "cache_flush_cpu_non_first_arg")
        assert not session.call("looking", "has_function", "no.such.function")
        assert version == session.call("comparing versions", "own_version")
    steps = [line.split()[0] for line in told if "busy; waiting" not in line]
    assert steps == ["asking", "connecting", "sending", "running"]


def test_a_network_computes_its_sample(lab: Any, board: Any, network: Path) -> None:
    _, expected = bundle.load_sample(network)
    with connect(lab.request("shared")) as session:
        inputs, output = load(session, network)
        np.testing.assert_allclose(output, expected["scores"], rtol=1e-4, atol=1e-5)
        other = {name: value + 1 for name, value in inputs.items()}
        assert not np.allclose(session.call("running", "run", 0, other)["scores"], output)
        again = session.call("running", "run", 0, inputs)["scores"]
        np.testing.assert_array_equal(again, output)
        device_s = session.call("timing", "time_device", 0, 2, 5)
        whole_s = session.call("timing", "time_end_to_end", 0, inputs, 5)
        assert len(device_s) == len(whole_s) == 5
        assert 0 < min(device_s) < min(whole_s)


def test_an_unknown_key_answers_in_time(lab: Any) -> None:
    began_s = time.monotonic()
    with pytest.raises(DeviceError, match="no board of key typo") as caught:
        connect(lab.request("typo", wait_s=1))
    assert time.monotonic() - began_s < 60
    assert "shared" in caught.value.seen or "no board" in caught.value.seen


def test_a_busy_board_answers_in_time(lab: Any, board: Any, processes: Any) -> None:
    with connect(lab.request("shared")):
        told: list[str] = []
        began_s = time.monotonic()
        with pytest.raises(DeviceError, match="key shared is busy"):
            connect(lab.request("shared", wait_s=1), told.append)
        assert time.monotonic() - began_s < 60
        assert any("busy; waiting" in line for line in told)
    # The request that was given up must not take the board away.
    with connect(lab.request("shared")) as session:
        session.call("running", "echo", 1)


def test_a_dead_tracker() -> None:
    from tvm_iovt.boards.address import LOOPBACK, Address
    from tvm_iovt.boards.session import BoardRequest

    with pytest.raises(DeviceError, match="tracker at"):
        connect(BoardRequest(tracker=Address(host=LOOPBACK, port=1), key="any"))


def test_a_step_that_takes_too_long(lab: Any, board: Any, network: Path, processes: Any) -> None:
    with connect(lab.request("shared")) as session:
        load(session, network)
        session.call("running", "echo", 1)
        pid = session._worker.pid
        began_s = time.monotonic()
        with pytest.raises(DeviceError, match="timing failed") as caught:
            session.call("timing", "time_device", 0, FOREVER, 1, timeout_s=1)
        assert time.monotonic() - began_s < 60
        assert "1 s" in caught.value.seen
        assert not processes.is_alive(pid)


def test_a_hanging_kernel_does_not_keep_the_board(
    own_lab: Any, network: Path, processes: Any
) -> None:
    """Its client is killed, so that nobody waits for it any more but TVM's server."""
    own_lab.start_tracker()
    board = own_lab.start_board("patient")
    with connect(own_lab.request("patient")) as session:
        load(session, network)
        with pytest.raises(DeviceError, match="no answer within 1 s") as caught:
            session.call("timing", "time_device", 0, FOREVER, 1, timeout_s=1)
        assert caught.value.timed_out
        assert not caught.value.answered
    processes.until(lambda: own_lab.is_free("patient"))
    board.wait_for("held up by a session whose client has gone")


@pytest.mark.slow
def test_a_mute_client_does_not_keep_the_board(own_lab: Any, processes: Any) -> None:
    own_lab.start_tracker()
    board = own_lab.start_board("open")
    port = own_lab.living("open").rpc_port
    with socket.create_connection(("127.0.0.1", port)):
        board.wait_for("held up by a client that does not say what it wants")
        processes.until(lambda: own_lab.is_free("open"))
    with connect(own_lab.request("open")) as session:
        session.call("running", "echo", 10)


def test_a_bench_that_is_killed_leaves_nothing(own_lab: Any, network: Path, processes: Any) -> None:
    own_lab.start_tracker()
    own_lab.start_board("kept")
    command = [sys.executable, "-m", "tvm_iovt", "bench", str(network), "--key", "kept"]
    command += ["--tracker", str(own_lab.tracker), "--repeat", str(FOREVER)]
    bench = own_lab.start("bench", command)
    bench.wait_for("round 1 ")
    children = processes.descendants(bench.process.pid)
    assert children
    bench.end(signal.SIGKILL)
    processes.until(lambda: not any(map(processes.is_alive, children)))
    processes.until(lambda: own_lab.is_free("kept"))


def test_a_session_that_outlives_its_limit(own_lab: Any) -> None:
    own_lab.start_tracker()
    own_lab.start_board("strict")
    with connect(own_lab.request("strict", limit_s=5)) as session:
        time.sleep(5.5)
        with pytest.raises(DeviceError, match="running failed") as caught:
            for _ in range(100):  # a busy machine sees it a little later
                session.call("running", "echo", 10)
                time.sleep(0.2)
        assert "limit of 5 s" in caught.value.seen
    with connect(own_lab.request("strict")) as session:
        session.call("running", "echo", 10)
    assert own_lab.living("strict").restarts == 0


@pytest.mark.parametrize("victim", ["server", "session"])
def test_a_server_that_is_killed_in_a_run_comes_back(
    own_lab: Any, network: Path, processes: Any, victim: str
) -> None:
    own_lab.start_tracker()
    own_lab.start_board("fragile")
    before = own_lab.living("fragile").server_pid
    with connect(own_lab.request("fragile")) as session:
        load(session, network)
        sessions = processes.descendants(before)
        assert len(sessions) == 1
        assert own_lab.living("fragile").sessions == 1
        pid = before if victim == "server" else sessions[0]
        threading.Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
        with pytest.raises(DeviceError, match="timing failed") as caught:
            session.call("timing", "time_device", 0, FOREVER, 1)
        expected = {"server": "killed by SIGKILL", "session": "a session was killed by SIGKILL"}
        assert expected[victim] in caught.value.seen
    processes.until(lambda: not processes.is_alive(sessions[0]))
    with connect(own_lab.request("fragile")) as session:
        load(session, network)
    after = own_lab.living("fragile")
    assert after.server_pid != before
    assert after.restarts == 1
    assert expected[victim] in after.last_exit


def test_a_board_that_dies_during_an_upload(own_lab: Any, network: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.iovt"
    shutil.copytree(network, large)
    for library in large.glob("*.so"):
        os.truncate(library, 512 << 20)
    own_lab.start_tracker()
    own_lab.start_board("fragile", "--memory-limit", "4G")
    server = own_lab.living("fragile").server_pid
    with connect(own_lab.request("fragile")) as session:
        threading.Timer(0.2, os.kill, (server, signal.SIGKILL)).start()
        with pytest.raises(DeviceError, match="uploading failed") as caught:
            load(session, large)
        assert "killed by SIGKILL" in caught.value.seen
    with connect(own_lab.request("fragile")) as session:
        load(session, network)


@pytest.mark.slow
def test_a_board_that_stops_breathing(own_lab: Any, network: Path, processes: Any) -> None:
    """As one that loses power: nothing is closed, nothing is answered."""
    own_lab.start_tracker()
    board = own_lab.start_board("frozen")
    with connect(own_lab.request("frozen")) as session:
        load(session, network)
        pids = [board.process.pid, *processes.descendants(board.process.pid)]

        def freeze() -> None:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)

        threading.Timer(0.3, freeze).start()
        with pytest.raises(DeviceError, match="timing failed") as caught:
            session.call("timing", "time_device", 0, FOREVER, 1, timeout_s=120)
        assert "heartbeat has stopped" in caught.value.seen


def test_a_session_has_a_memory_limit(own_lab: Any) -> None:
    own_lab.start_tracker()
    own_lab.start_board("small", "--memory-limit", "200M")
    with connect(own_lab.request("small")) as session:
        session.call("running", "echo", 20_000_000)
        with pytest.raises(DeviceError, match="running failed"):
            session.call("running", "echo", 400_000_000)
    with connect(own_lab.request("small")) as session:
        session.call("running", "echo", 10)


def test_a_board_without_heartbeat(own_lab: Any, network: Path, arm_network: Path) -> None:
    """A plain server of TVM's, which tells nothing about itself."""
    pytest.importorskip("psutil", reason="TVM's server needs psutil and cloudpickle")
    pytest.importorskip("cloudpickle", reason="TVM's server needs psutil and cloudpickle")
    own_lab.start_tracker()
    command = [sys.executable, "-m", "tvm.exec.rpc_server", "--host", "127.0.0.1"]
    command += ["--port", "29400", "--port-end", "29500"]
    own_lab.start("plain", [*command, "--tracker", str(own_lab.tracker), "--key", "plain"])
    from tvm_iovt import host_cpu

    with connect(own_lab.request("plain", wait_s=60)) as session:
        assert session.status is None
        assert check_board(session, host_cpu.detect()) is not None
        load(session, network)
        with pytest.raises(DeviceError, match="uploading failed") as caught:
            load(session, arm_network)
        assert "EM_AARCH64" in caught.value.seen or "cannot open" in caught.value.seen


def test_a_library_that_is_no_library(lab: Any, board: Any, network: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.iovt"
    shutil.copytree(network, broken)
    for library in broken.glob("*.so"):
        library.write_bytes(b"not a library")
    with (
        connect(lab.request("shared")) as session,
        pytest.raises(DeviceError, match="uploading failed"),
    ):
        load(session, broken)
    with connect(lab.request("shared")) as session:
        load(session, network)
