"""A `tuning.trial.Measurer` whose machines are boards behind a tracker.

Kernels are built here by a builder's processes and measured on all boards of a key at once, each
by a session of its own that lasts from trial to trial. A board that is lost costs no trial: the one
that it was busy with is measured again elsewhere, unless it is what kills boards.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from tvm_iovt.boards.address import Address
from tvm_iovt.boards.board_lane import (
    BoardLostError,
    Job,
    Lane,
    LaneOptions,
    UnfitBoardError,
    failed_trial,
)
from tvm_iovt.boards.tracker_client import Tracker
from tvm_iovt.boards.workload_arrays import WorkloadStore
from tvm_iovt.errors import DeviceError
from tvm_iovt.tuning.build_pool import Builder, BuildError
from tvm_iovt.tuning.kernel_replies import BUDGET_S
from tvm_iovt.tuning.pool import HOPELESS, RUN_TIMEOUT_S
from tvm_iovt.tuning.trial import BUILD, CHECK, RUN, Trial, TrialResult
from tvm_iovt.types import CpuSpec

PATIENCE_S = 60.0
"""How long to go on without any board, in seconds."""

MAX_LOSSES = 2
"""Boards that a trial may lose before it is given up."""

_AHEAD = 2
"""Built kernels that wait for each board."""

_SCOUT_S = 2.0
_RETRY_S = 0.5


class BoardMeasurer:
    """Builds trials here and measures them on the boards of a key.

    Args:
        tracker: The tracker of the boards.
        key: The kind of board.
        builder: Builds for it; it is closed with the measurer.
        cpu: What it builds for.
        threads: Threads on the boards; None leaves their runtime's own choice.
        run_timeout_s: For each step with a trial on a board.
        patience_s: How long to go on while no board can be reached.
        measure_s: Seconds to time one kernel for.

    Raises:
        DeviceError: The tracker cannot be used.
    """

    def __init__(
        self,
        tracker: Address,
        key: str,
        builder: Builder,
        *,
        cpu: CpuSpec,
        threads: int | None = None,
        run_timeout_s: float = RUN_TIMEOUT_S,
        patience_s: float = PATIENCE_S,
        measure_s: float = BUDGET_S,
    ) -> None:
        self._tracker, self._key = tracker, key
        self._builder = builder
        self._store = WorkloadStore(builder)
        self._patience_s = patience_s
        self._options = LaneOptions(
            tracker=tracker,
            key=key,
            cpu=cpu,
            threads=threads,
            run_timeout_s=run_timeout_s,
            measure_s=measure_s,
        )
        self._folder = tempfile.TemporaryDirectory(prefix="tvm-iovt-kernels-")
        self._changed = threading.Condition()  # everything below is used under it
        self._queue: deque[Job] = deque()
        self._ready: deque[Job] = deque()
        self._results: deque[TrialResult] = deque()
        self._best_s: dict[str, float] = {}
        self._lanes: list[Lane] = []
        self._threads: list[threading.Thread] = []
        self._numbered = 0
        self._under_way = 0
        self._reached_s = time.monotonic()
        self._trouble: DeviceError | None = None
        self._failure: BaseException | None = None
        self._closing = threading.Event()
        boards = self._count_boards()
        for _ in range(builder.jobs):
            self._start(self._build_trials)
        for _ in range(max(boards, 1)):
            self._start_lane()
        self._start(self._scout)

    @property
    def slots(self) -> int:
        """Trials to have under way, so that nobody waits."""
        with self._changed:
            return self._builder.jobs + (1 + _AHEAD) * len(self._lanes)

    @property
    def folder(self) -> str:
        """Where built kernels wait for their board; empty when all are measured."""
        return self._folder.name

    def submit(self, trials: Sequence[Trial]) -> None:
        """Take trials; returns at once."""
        with self._changed:
            if not self._under_way:
                self._reached_s = time.monotonic()  # nobody has missed the boards meanwhile
            self._queue.extend(Job(trial=trial) for trial in trials)
            self._under_way += len(trials)
            self._changed.notify_all()

    def collect(self, timeout_s: float) -> tuple[TrialResult, ...]:
        """What has finished since the last call; waits up to `timeout_s` for the first.

        Raises:
            DeviceError: No board has been there for `patience_s`, or one is not what is built for.
            ToolchainError: Nothing can be built.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            while not self._results:
                if self._failure is not None:
                    raise self._failure
                self._check_boards()
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    return ()
                self._changed.wait(min(left_s, _RETRY_S))
            found = tuple(self._results)
            self._results.clear()
            return found

    def busy(self) -> contextlib.AbstractContextManager[None]:
        """See `trial.Measurer`: boards do not mind."""
        return contextlib.nullcontext()

    def close(self) -> None:
        """End all sessions and the builder; trials under way are given up."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
            lanes = tuple(self._lanes)
        self._builder.close()
        for lane in lanes:
            lane.abandon()
        for thread in self._threads:
            thread.join()
        self._folder.cleanup()

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=self._guarded, args=(work, *arguments), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _start_lane(self) -> None:
        lane = Lane(self._options)
        self._lanes.append(lane)
        self._start(self._measure_trials, lane)

    def _guarded(self, work: object, *arguments: object) -> None:
        """A thread's life; what ends it early is the measurer's end."""
        try:
            work(*arguments)  # type: ignore[operator]
        except BaseException as error:  # a bug of ours must not look like a long trial
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify_all()

    def _check_boards(self) -> None:
        """Raise if there has been no board for too long."""
        now_s = time.monotonic()
        if any(lane.connected for lane in self._lanes) or not self._under_way:
            self._reached_s = now_s
        if now_s - self._reached_s <= self._patience_s:
            return
        trouble = self._trouble
        raise DeviceError(
            f"No board of key {self._key} has been there for {self._patience_s:g} s",
            seen=f"{trouble.what}: {trouble.seen}" if trouble else "no session could be opened",
            do=f"start `tvm-iovt board --tracker {self._tracker} --key {self._key}` again; what "
            "was measured is kept",
        )

    def _count_boards(self) -> int:
        with Tracker(self._tracker) as tracker:
            queue = tracker.summary().queue(self._key)
        return queue.servers if queue else 0

    def _scout(self) -> None:
        """Take boards into service that come later."""
        while not self._closing.wait(_SCOUT_S):
            with contextlib.suppress(DeviceError):
                boards = self._count_boards()
                with self._changed:
                    for _ in range(boards - len(self._lanes)):
                        self._start_lane()

    def _build_trials(self) -> None:
        """The life of a thread that has kernels built."""
        while True:
            with self._changed:
                while not self._closing.is_set() and not self._may_build():
                    self._changed.wait()
                if self._closing.is_set():
                    return
                job = self._queue.popleft()
                self._numbered += 1
                output = Path(self._folder.name) / f"kernel{self._numbered}.so"
            stage = CHECK
            try:
                job.arrays = self._store.get(job.trial.workload)
                stage = BUILD
                job.build_s = self._builder.build_so(job.trial, output)
            except BuildError as error:
                if not self._closing.is_set():
                    self._finish(job, failed_trial(job, stage, error.what))
                continue
            job.library = output
            with self._changed:
                self._ready.append(job)
                self._changed.notify_all()

    def _may_build(self) -> bool:
        return bool(self._queue) and len(self._ready) < _AHEAD * len(self._lanes)

    def _measure_trials(self, lane: Lane) -> None:
        """The life of a thread with a board: have a session, measure, have a session again."""
        try:
            while not self._closing.is_set():
                try:
                    lane.connect()
                except UnfitBoardError:
                    raise
                except DeviceError as error:
                    with self._changed:
                        self._trouble = error
                    self._closing.wait(_RETRY_S)
                    continue
                job = self._next(lane)
                if job is not None:
                    self._measure(lane, job)
        finally:
            lane.disconnect()

    def _next(self, lane: Lane) -> Job | None:
        """A built trial; None when there was none for a while: the session may be old then."""
        with self._changed:
            self._reached_s = time.monotonic()
            if not self._ready:
                self._changed.wait(_SCOUT_S)
            if self._closing.is_set() or not self._ready or not lane.connected:
                return None
            job = self._ready.popleft()
            self._changed.notify_all()
            return job

    def _measure(self, lane: Lane, job: Job) -> None:
        with self._changed:
            best_s = self._best_s.get(job.trial.workload.key, math.inf)
        try:
            result = lane.measure(job, HOPELESS * best_s)
        except BoardLostError as lost:
            lane.disconnect()
            self._bury(job, lost)
            return
        with self._changed:
            if result.run_s:
                key = job.trial.workload.key
                self._best_s[key] = min(self._best_s.get(key, math.inf), *result.run_s)
        self._finish(job, result)

    def _bury(self, job: Job, lost: BoardLostError) -> None:
        """Decide what becomes of the trial that a lost board was busy with."""
        job.losses.append(lost.seen)
        with self._changed:
            self._trouble = lost
            if self._closing.is_set():
                return
            if not lost.guilty and len(job.losses) < MAX_LOSSES:
                self._ready.appendleft(job)
                self._changed.notify_all()
                return
        error = lost.seen if lost.guilty else f"it has lost {len(job.losses)} boards: {lost.seen}"
        self._finish(job, failed_trial(job, RUN, " ".join(error.split())))

    def _finish(self, job: Job, result: TrialResult) -> None:
        if job.library is not None:
            job.library.unlink(missing_ok=True)
        with self._changed:
            self._under_way -= 1
            self._results.append(result)
            self._changed.notify_all()
