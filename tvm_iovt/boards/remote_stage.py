"""Stages of a pipeline on boards.

A board gives one session at a time. A stage with several lanes has a connection for each of them
in that session (see `channels`), so that a frame can travel while another one is computed; every
connection has a process of its own here. A board that cannot do that carries one frame at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvm_iovt.boards.connection import connect
from tvm_iovt.boards.deployments import check_runtime, machine_of
from tvm_iovt.boards.rpc_session import RemoteStage
from tvm_iovt.boards.session import BoardRequest, BoardSession, Progress
from tvm_iovt.errors import BundleError, DeviceError
from tvm_iovt.runtime.stage_lane import Values
from tvm_iovt.types import Deployment, Manifest, Stage

LANES = 3
"""Frames that a stage on a board carries at a time: one arrives, one is computed, one leaves."""


class StageBoard:
    """A board that runs one or several stages of a deployment. Made by `open_board`.

    Attributes:
        name: What it calls itself, and its address.
        connections: Lanes that all of its stages can have together.
        session: The first of its sessions.
    """

    def __init__(self, sessions: Sequence[BoardSession]) -> None:
        self.name = sessions[0].name
        self.connections = len(sessions)
        self.session = sessions[0]
        self._sessions = tuple(sessions)
        self._free = list(reversed(sessions))
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._networks: dict[tuple[int, str], int] = {}

    def take(self) -> BoardSession:
        """A connection for one lane, until `give_back`.

        Raises:
            DeviceError: All are in use.
        """
        with self._lock:
            if self._free:
                return self._free.pop()
        raise DeviceError(
            f"Board {self.name} serves no further lane",
            seen=f"{self.connections} connections, all in use",
            do="plan fewer stages for this board",
        )

    def give_back(self, session: BoardSession) -> None:
        """Let another lane have it."""
        with self._lock:
            self._free.append(session)

    def load(self, session: BoardSession, remote: RemoteStage, shared: str) -> int:
        """Load a stage through a connection; its weights are there once for all of its lanes.

        Args:
            session: From `take`.
            remote: The stage.
            shared: Names its library.

        Returns:
            The number of the network in that session. It stays loaded for the next lane.

        Raises:
            StepError: The board failed.
        """
        with self._loading:  # the first lane uploads, the others find it
            found = self._networks.get((id(session), shared))
            if found is None:
                once = shared if self.connections > 1 else ""
                step = f"uploading {remote.library.name}"
                found = session.call(step, "load", [remote], list(remote.outputs), once)
                self._networks[id(session), shared] = found
        return found

    def kill(self) -> None:
        """End all connections from any thread; calls under way fail. `close` is still due."""
        for session in self._sessions:
            session.kill()

    def close(self) -> None:
        """End the session; the board is free then."""
        for session in reversed(self._sessions):  # the first one is what the others are part of
            session.close()


def open_board(
    request: BoardRequest, stages: int, lanes: int = LANES, progress: Progress = lambda _: None
) -> StageBoard:
    """Get a board for some stages.

    Args:
        request: Which one.
        stages: Stages that it will run.
        lanes: Frames that each of them shall carry at a time, if the board can.
        progress: Is told the steps.

    Raises:
        DeviceError: There is no such board, or it serves fewer connections than it has stages.
    """
    sessions = [connect(request, progress)]
    try:
        while len(sessions) < stages * lanes:
            channel = sessions[0].open_channel()
            if channel is None:
                progress(f"{sessions[0].name} serves one connection: frames wait for each other")
                break
            sessions.append(channel)
        if len(sessions) < stages:
            raise DeviceError(
                f"Board {sessions[0].name} cannot run {stages} stages",
                seen=f"it serves {len(sessions)} connection at a time",
                do="start it with `tvm-iovt board` of this version, or plan one stage for it",
            )
    except BaseException:
        for session in reversed(sessions):
            session.close()
        raise
    return StageBoard(sessions)


class BoardStage:
    """A stage of a deployment on a board, as a pipeline takes it (`stage_lane.StageDevice`).

    Args:
        board: Where it runs.
        path: The bundle.
        manifest: Its manifest.
        deployment: A deployment of it.
        index: Of the stage.
        lanes: Frames that the stage shall carry at a time.

    Attributes:
        lanes: Likewise.

    Raises:
        BundleError: The stage's code does not fit the board.
        DeviceError: The board runs another version of TVM.
    """

    def __init__(
        self,
        board: StageBoard,
        path: Path,
        manifest: Manifest,
        deployment: Deployment,
        index: int,
        *,
        lanes: int = 1,
    ) -> None:
        stage = deployment.plan.stages[index]
        (target,) = (t for t in deployment.targets if t.name == stage.target)
        (library,) = (each for each in deployment.libraries if each.stage == stage.index)
        status = board.session.status
        if status is not None:
            check_runtime(path, manifest, status, board.name)
            reason = machine_of(status).misfit(target.cpu)
            if not reason and target.gpu:
                kind = target.gpu.kind
                has = any(device.startswith(kind) for device in status.devices)
                reason = "" if has else f"needs a {kind} device"
            if reason:
                raise BundleError(
                    f"Stage {index} of {deployment.name} cannot run on the board {board.name}",
                    seen=f"it {reason}; the board is {status.arch} ({status.cpu})",
                    do=f"name a board for {target.name} with --board {target.name}=KEY",
                )
        self.lanes = lanes
        self._board = board
        self._stage = stage
        self._shared = f"{library.file.sha256[:16]}-{index}.so"
        self._remote = RemoteStage(
            library=path / library.file.file,
            kind=target.kind,
            inputs=tuple(spec.name for spec in stage.inputs),
            outputs=tuple(spec.name for spec in stage.outputs),
        )

    @property
    def name(self) -> str:
        """`stage 1 on arm (bench-top)`."""
        return f"stage {self._stage.index} on {self._stage.target} ({self._board.session.label})"

    def open_lane(self) -> BoardLane:
        """A lane, for the calling thread.

        Raises:
            DeviceError: The board failed.
        """
        return BoardLane(self._board, self._stage, self._remote, self._shared)


class BoardLane:
    """Carries one frame at a time to a board and back (`stage_lane.StageLane`)."""

    def __init__(self, board: StageBoard, stage: Stage, remote: RemoteStage, shared: str) -> None:
        self._board = board
        self._shared = shared
        self._specs = stage.inputs
        self._step = f"stage {stage.index} of the network"
        self._session = board.take()
        try:
            self._network = board.load(self._session, remote, shared)
            if stage.threads:
                self._session.call("choosing threads", "use_threads", stage.threads)
        except BaseException:
            board.give_back(self._session)
            raise

    def receive(self, values: Mapping[str, Any]) -> None:
        """Bring the stage's inputs, all of which are in `values`, to the board.

        Raises:
            StepError: The board failed.
        """
        inputs = {spec.name: host_array(values[spec.name]) for spec in self._specs}
        self._session.call(f"sending to {self._step}", "receive", self._network, inputs)

    def compute(self) -> None:
        """Run the stage on what was received.

        Raises:
            StepError: The board failed.
        """
        self._session.call(f"running {self._step}", "compute", self._network)

    def send(self) -> Values:
        """The stage's outputs by name, as arrays of the caller's.

        Raises:
            StepError: The board failed.
        """
        found: Values = self._session.call(f"receiving from {self._step}", "send", self._network)
        return found

    def close(self) -> None:
        """Let another lane have the connection; the session goes on."""
        self._board.give_back(self._session)


def host_array(value: Any) -> np.ndarray:
    """A tensor of this process as an array that can be sent: itself if it is one.

    Raises:
        BufferError: It is not in memory that the CPU can read.
    """
    return value if isinstance(value, np.ndarray) else np.from_dlpack(value)
