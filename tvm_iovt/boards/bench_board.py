"""Bundles on a board, as contestants of a bench."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tvm_iovt import bundle as bundles
from tvm_iovt.boards.address import Address
from tvm_iovt.boards.bench import ROUNDS, Arrays, Bench, BenchOptions, Progress, measure
from tvm_iovt.boards.board_check import check_board
from tvm_iovt.boards.connection import connect
from tvm_iovt.boards.deployments import (
    check_own_version,
    check_runtime,
    choose_deployment,
    remote_stages,
)
from tvm_iovt.boards.session import BoardRequest, BoardSession
from tvm_iovt.types import Deployment, Manifest

_STEPS = 8  # that a bench takes beside its rounds, generously


class RemoteContestant:
    """A bundle that has been uploaded to a board."""

    def __init__(
        self, path: Path, manifest: Manifest, deployment: Deployment, session: BoardSession
    ) -> None:
        self.bundle = path
        self.manifest = manifest
        self.deployment = deployment.name
        self._session = session
        outputs = tuple(spec.name for spec in manifest.outputs)
        stages = remote_stages(path, deployment)
        self._number = session.call(f"uploading {path.name}", "load", stages, outputs)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """The outputs."""
        step = f"running {self.bundle.name}"
        outputs: dict[str, np.ndarray] = self._session.call(step, "run", self._number, dict(inputs))
        return outputs

    def device_s(self, inputs: Arrays, number: int, repeat: int) -> Sequence[float]:
        """Samples of the scope `device`."""
        step = f"timing {self.bundle.name}"
        found: list[float] = self._session.call(step, "time_device", self._number, number, repeat)
        return found

    def end_to_end_s(self, inputs: Arrays, repeat: int) -> Sequence[float]:
        """Samples of the scope `end_to_end`."""
        step = f"timing {self.bundle.name}"
        found: list[float] = self._session.call(
            step, "time_end_to_end", self._number, dict(inputs), repeat
        )
        return found


def bench_board(
    paths: Sequence[Path],
    options: BenchOptions,
    *,
    tracker: Address,
    key: str,
    wait_s: float = 10.0,
    target: str | None = None,
    progress: Progress = lambda message: None,
) -> Bench:
    """Measure bundles on a board of a tracker, all in one session.

    Args:
        paths: The bundles.
        options: How to measure.
        tracker: The tracker.
        key: The kind of board.
        wait_s: For such a board to be there and free.
        target: Name of the deployment to run; by default the one that suits the board.
        progress: Is told each step.

    Raises:
        BundleError: A bundle is damaged, or has no deployment for the board.
        NumericsError: One computes its own sample wrongly.
        DeviceError: A step failed; names it.
        UsageError: A number is wrong.
    """
    options.check()
    manifests = [bundles.check(path) for path in paths]
    request = BoardRequest(
        tracker=tracker,
        key=key,
        wait_s=wait_s,
        timeout_s=options.timeout_s,
        limit_s=options.timeout_s * (_STEPS + len(paths) * (_STEPS + 2 * (ROUNDS + 1))),
    )
    with connect(request, progress) as session:
        chosen = [
            choose_deployment(path, manifest, target, session.status)
            for path, manifest in zip(paths, manifests, strict=True)
        ]
        _check(session, paths, manifests, chosen, progress)
        contestants = []
        for path, manifest, deployment in zip(paths, manifests, chosen, strict=True):
            progress(f"uploading {deployment.name} of {path}")
            contestants.append(RemoteContestant(path, manifest, deployment, session))
        before = session.status.condition if session.status else None
        where = _where(session)
        timings = measure(contestants, options, environment=where, progress=progress)
        now = session.ask()
        after = now.condition if now else None
        return Bench(where=where, board=session.name, before=before, after=after, timings=timings)


def _check(
    session: BoardSession,
    paths: Sequence[Path],
    manifests: Sequence[Manifest],
    chosen: Sequence[Deployment],
    progress: Progress,
) -> None:
    if session.status:
        for path, manifest in zip(paths, manifests, strict=True):
            check_runtime(path, manifest, session.status, session.name)
    version = check_board(session, chosen[0].targets[0].cpu, progress)
    if version and not session.status:
        ours = session.call("comparing versions", "own_version")
        check_own_version(version, ours, session.name)


def _where(session: BoardSession) -> str:
    status = session.status
    if status is None:
        return f"board {session.address}"
    return (
        f"board {session.name}: {status.cpu}, {status.cores} cores, {status.system} {status.arch}"
    )
