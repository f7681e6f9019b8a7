"""The devices of a deployment's stages: opened for a run, and given back after it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tvm_iovt.boards.remote_stage import LANES, BoardStage, StageBoard, open_board
from tvm_iovt.boards.session import BoardRequest
from tvm_iovt.errors import DeviceError
from tvm_iovt.pipelines.places import CpuShare, share_cpus
from tvm_iovt.planning.places import machine_of
from tvm_iovt.runtime.local_stage import LocalStage
from tvm_iovt.runtime.stage_lane import StageDevice
from tvm_iovt.types import Deployment, Manifest

Progress = Callable[[str], None]

_Board = tuple[BoardRequest, str]
"""Which board, and the machine that it stands for."""


class Devices:
    """What a pipeline of a bundle runs on. Use it in a `with` block.

    Args:
        path: The bundle.
        manifest: Its manifest.
        ffi: The module `tvm_ffi`.
        boards: Which board stands for a target, by the target's name; the others are this machine.
        threads: Of each stage on a CPU of this machine, over the plan.
        cpus: To divide among them.
        sequential: Whether one stage works at a time.
        progress: Is told the steps.

    `of` may be called in another thread than the rest.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        ffi: Any,
        *,
        boards: Mapping[str, BoardRequest],
        threads: int | None,
        cpus: Sequence[int] | None,
        sequential: bool,
        progress: Progress,
    ) -> None:
        self._path, self._manifest, self._ffi = path, manifest, ffi
        self._requests = dict(boards)
        self._threads, self._cpus, self._sequential = threads, cpus, sequential
        self._lanes = 1 if sequential else LANES
        self._progress = progress
        self._boards: dict[_Board, StageBoard] = {}
        self._places: dict[str, tuple[str, ...]] = {}
        self._ended = False
        self._lock = threading.Lock()

    def __enter__(self) -> Devices:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._ended = True
            boards = tuple(self._boards.values())
            self._boards.clear()
        for board in boards:
            board.close()

    def of(self, deployment: Deployment) -> tuple[StageDevice, ...]:
        """The devices of a deployment's stages, in order.

        Boards are opened when a deployment has a stage on them for the first time.

        Raises:
            BundleError: The bundle is damaged, or a stage does not fit its device.
            DeviceError: A board cannot be had.
            UsageError: The CPUs or threads do not exist.
        """
        stages = deployment.plan.stages
        kinds = {target.name: target.kind for target in deployment.targets}
        here = [s for s in stages if s.target not in self._requests and kinds[s.target] == "llvm"]
        shares = share_cpus(
            here, threads=self._threads, cpus=self._cpus, sequential=self._sequential
        )
        specs = {target.name: target for target in deployment.targets}
        # Targets that are parts of one machine are on one board; `arm,arm` are two of a kind.
        boards = {
            stage.target: (
                self._requests[stage.target],
                machine_of(specs[stage.target], deployment.targets),
            )
            for stage in stages
            if stage.target in self._requests
        }
        counts = Counter(boards[stage.target] for stage in stages if stage.target in boards)
        told = {place for places in self._places.values() for place in places}
        devices: list[StageDevice] = []
        places: list[str] = []
        for stage in stages:
            if stage.target in boards:
                which = boards[stage.target]
                board = self._board(which, counts[which])
                place = board.name
                lanes = min(self._lanes, max(board.connections // counts[which], 1))
                devices.append(
                    BoardStage(
                        board, self._path, self._manifest, deployment, stage.index, lanes=lanes
                    )
                )
            else:
                share = shares.get(stage.index, CpuShare(threads=0, cpus=()))
                place = f"this machine, {share if stage.index in shares else 'GPU'}"
                devices.append(
                    LocalStage(
                        self._path,
                        deployment,
                        stage.index,
                        self._ffi,
                        threads=share.threads,
                        cpus=share.cpus or None,
                    )
                )
            places.append(f"stage {stage.index}, {stage.target}: {place}")
            if places[-1] not in told:  # another deployment may use the same
                self._progress(places[-1])
        self._places[deployment.name] = tuple(places)
        return tuple(devices)

    def places_of(self, deployment: Deployment) -> tuple[str, ...]:
        """Where each stage of a deployment runs, in words; `of` has been asked for it."""
        return self._places[deployment.name]

    def kill(self) -> None:
        """End the sessions with boards from any thread, so that nobody waits for them."""
        with self._lock:
            self._ended = True
            boards = tuple(self._boards.values())
        for board in boards:
            board.kill()

    def _board(self, which: _Board, stages: int) -> StageBoard:
        if which in self._boards:
            return self._boards[which]
        request, _ = which
        board = open_board(request, stages, self._lanes, self._progress)  # may take long
        with self._lock:
            ended = self._ended
            if not ended:
                self._boards[which] = board
        if ended:
            board.close()
            raise DeviceError(
                f"{board.name} came too late",
                seen="the run has ended while it was opened",
                do="start the run again",
            )
        return board
