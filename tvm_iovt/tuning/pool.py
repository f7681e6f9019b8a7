"""Building, checking and timing trials in worker processes of this machine."""

from __future__ import annotations

import contextlib
import itertools
import math
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tvm_iovt import host_cpu
from tvm_iovt.errors import IovtError, ToolchainError
from tvm_iovt.tuning.kernel_replies import BUDGET_S, SERVICE, Built, Measured, Reference
from tvm_iovt.tuning.resource_limits import available_bytes
from tvm_iovt.tuning.trial import BUILD, CHECK, RUN, Trial, TrialResult
from tvm_iovt.tuning.turns import Turns
from tvm_iovt.tuning.worker_process import CallFailed, WorkerLost, WorkerProcess
from tvm_iovt.types import TargetSpec

RUNNER = "local"

BUILD_TIMEOUT_S = 60.0
RUN_TIMEOUT_S = 20.0
REFERENCE_TIMEOUT_S = 600.0

MEMORY_SHARE = 0.8
"""Share of the free memory that all workers together may take."""

HOPELESS = 2.0
"""A kernel that takes this many times as long as the best of its workload is not timed further."""

_BATCH = 4
"""Kernels to build for each worker before those are measured, where the two exclude each other."""

_START_FAILURES = 3
_TRIES = 3
"""Of a trial whose worker did not die of it, as far as one can tell."""

_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
"""Signals that a kernel does not raise by a mistake."""

_REFERENCE = "reference"


@dataclass(slots=True, eq=False)
class _Job:
    """A trial on its way."""

    trial: Trial
    built: Built | None = None
    tries: int = 0

    @property
    def workload(self) -> str:
        return self.trial.workload.key


@dataclass(slots=True, eq=False)
class _Lane:
    """One worker process after another, and what is built in the present one."""

    process: WorkerProcess | None = None
    built: list[_Job] = field(default_factory=list)
    prepared: str | None = None


class LocalMeasurer:
    """A `trial.Measurer` of worker processes; each builds its own trials and measures them.

    One kernel is measured at a time, see `Turns`. Every kernel is compared with the unscheduled
    function of its workload, which one worker computes once.

    A worker that dies or hangs loses the trial that it was busy with; what waited in it is built
    again elsewhere. A trial whose worker was killed from outside (by a person, or by the system
    when memory is short) gets a second try.

    Args:
        spec: The CPU of this machine, or its GPU, as a target.
        jobs: Workers.
        threads: To measure with.
        build_timeout_s: For one kernel.
        run_timeout_s: For checking and timing one kernel.
        reference_timeout_s: For building and running the unscheduled function of a workload.
        measure_s: Seconds to time one kernel for.
        cores: To build and measure on; by default all that this process may use.
    """

    def __init__(
        self,
        spec: TargetSpec,
        *,
        jobs: int,
        threads: int,
        build_timeout_s: float = BUILD_TIMEOUT_S,
        run_timeout_s: float = RUN_TIMEOUT_S,
        reference_timeout_s: float = REFERENCE_TIMEOUT_S,
        measure_s: float = BUDGET_S,
        cores: int | None = None,
    ) -> None:
        self._service = (spec, threads)
        self._timeouts_s = {
            BUILD: build_timeout_s,
            RUN: run_timeout_s,
            _REFERENCE: reference_timeout_s,
        }
        self._measure_s = measure_s
        # Drivers of GPUs reserve far more addresses than there is memory.
        limited = spec.gpu is None
        self._growth_bytes = int(MEMORY_SHARE * available_bytes() / jobs) if limited else None
        spare_cores = max((cores or host_cpu.usable_cores()) - threads, 0)
        self._slots = jobs * (3 if spare_cores else 2 * _BATCH)
        self._changed = threading.Condition()  # everything below is used under it
        self._turns = Turns(spare_cores=spare_cores, batch=_BATCH * jobs)
        self._queue: deque[_Job] = deque()
        self._results: deque[TrialResult] = deque()
        # None while it is being computed; a text says why there is none.
        self._references: dict[str, Reference | str | None] = {}
        self._reference_losses: Counter[str] = Counter()
        self._best_s: dict[str, float] = {}
        self._closing = False
        self._failure: BaseException | None = None
        self._lanes = [_Lane() for _ in range(jobs)]
        self._lanes_left = jobs
        self._threads = [
            threading.Thread(target=self._run, args=[lane], daemon=True) for lane in self._lanes
        ]
        for thread in self._threads:
            thread.start()

    @property
    def slots(self) -> int:
        """Trials to have under way, so that nobody waits."""
        return self._slots

    @property
    def pids(self) -> tuple[int, ...]:
        """Processes of the workers that have started."""
        with self._changed:
            processes = [lane.process for lane in self._lanes]
        return tuple(p.pid for p in processes if p is not None and p.pid and p.alive)

    def submit(self, trials: Sequence[Trial]) -> None:
        """Take trials; returns at once."""
        with self._changed:
            self._queue.extend(map(_Job, trials))
            self._changed.notify_all()

    def collect(self, timeout_s: float) -> tuple[TrialResult, ...]:
        """What has finished since the last call; waits up to `timeout_s` for the first.

        Raises:
            ToolchainError: No worker can be started.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._results or self._failure, timeout_s)
            found = tuple(self._results)
            self._results.clear()
            if not found and self._failure is not None:
                raise self._failure
            return found

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """See `trial.Measurer`; a measurement that leaves cores free does not wait."""
        if not self._turns.are_exclusive:
            yield
            return
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._closing
                    or self._failure is not None
                    or not self._turns.is_measuring_phase(self._waiting())
                )
            )
            self._turns.building += 1
        try:
            yield
        finally:
            with self._changed:
                self._turns.building -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """End all workers; trials under way are given up."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            processes = [lane.process for lane in self._lanes]
        for process in processes:
            if process is not None:
                process.kill()
        for thread in self._threads:
            thread.join()

    def _run(self, lane: _Lane) -> None:
        """The life of a lane: start a process, let it work until it is lost, start another."""
        failures = 0
        while not self._closing:
            try:
                process = WorkerProcess(SERVICE, self._service, growth_bytes=self._growth_bytes)
                with self._changed:
                    lane.process, lane.prepared = process, None
                    closing = self._closing
                if not closing:
                    process.start()
                    failures = 0
                    self._serve(lane, process)
            except (WorkerLost, CallFailed) as error:
                failures += 1
                if failures == _START_FAILURES:
                    self._give_up(error)
                    return
            except BaseException as error:  # a bug of ours must not look like a long trial
                with self._changed:
                    self._failure = error
                    self._changed.notify_all()
                return
            finally:
                self._leave(lane)

    def _leave(self, lane: _Lane) -> None:
        """The process has ended, or shall; what waited in it goes back."""
        with self._changed:
            process, lane.process = lane.process, None
            self._queue.extendleft(reversed(lane.built))
            lane.built.clear()
            self._changed.notify_all()
        if process is not None:
            process.close()

    def _give_up(self, error: WorkerLost | CallFailed) -> None:
        with self._changed:
            self._lanes_left -= 1
            if not self._lanes_left and not self._closing:
                self._failure = ToolchainError(
                    "The processes that build and measure kernels cannot be started",
                    seen=": ".join(filter(None, (error.what, error.seen))),
                    do="`tvm-iovt doctor` checks the installation",
                )
            self._changed.notify_all()

    def _serve(self, lane: _Lane, process: WorkerProcess) -> None:
        """Let a started process work until it is lost, or no longer needed."""
        while True:
            chosen = self._next(lane)
            if chosen is None:
                return
            stage, job = chosen
            was_alive = process.alive
            try:
                if stage == _REFERENCE:
                    self._refer(process, job)
                elif stage == BUILD:
                    self._build(lane, process, job)
                else:
                    self._measure(lane, process, job)
            except WorkerLost as lost:
                self._bury(stage, job, lost, was_alive)
                return
            finally:
                with self._changed:
                    if stage == RUN:
                        self._turns.measuring = False
                    else:
                        self._turns.building -= 1
                    self._changed.notify_all()

    def _next(self, lane: _Lane) -> tuple[str, _Job] | None:
        """Wait for something that this lane may do now; None at the end."""
        with self._changed:
            while not self._closing:
                ready = [job for job in lane.built if self._is_checkable(job)]
                unreferenced = self._unreferenced()
                queued = len(self._queue) + (unreferenced is not None)
                waiting = self._waiting()
                if ready and self._turns.may_measure(queued=queued, waiting=waiting):
                    self._turns.measuring = True
                    # Another workload's arguments would have to be made first.
                    job = next((j for j in ready if j.workload == lane.prepared), ready[0])
                    lane.built.remove(job)
                    return RUN, job
                if self._turns.may_build(queued=queued, waiting=waiting):
                    self._turns.building += 1
                    if unreferenced is not None:
                        self._references[unreferenced.workload] = None
                        return _REFERENCE, unreferenced
                    return BUILD, self._queue.popleft()
                self._changed.wait()
            return None

    def _waiting(self) -> int:
        """Kernels that are built and could be measured."""
        return sum(map(self._is_checkable, self._built()))

    def _built(self) -> Iterator[_Job]:
        return itertools.chain.from_iterable(lane.built for lane in self._lanes)

    def _is_checkable(self, job: _Job) -> bool:
        """Whether it is known what its workload computes, or that this cannot be known."""
        return self._references.get(job.workload) is not None

    def _unreferenced(self) -> _Job | None:
        """A trial, built or the next to be built, whose reference nobody works on yet."""
        jobs = itertools.chain(self._built(), itertools.islice(self._queue, 1))
        return next((job for job in jobs if job.workload not in self._references), None)

    def _refer(self, process: WorkerProcess, job: _Job) -> None:
        try:
            result: Any = self._call(process, _REFERENCE, "reference", job.trial.workload)
        except CallFailed as error:
            result = _no_reference(error)
        with self._changed:
            self._references[job.workload] = result

    def _build(self, lane: _Lane, process: WorkerProcess, job: _Job) -> None:
        began_s = time.monotonic()
        try:
            job.built = self._call(process, BUILD, "build", job.trial)
        except CallFailed as error:
            build_s = time.monotonic() - began_s
            self._finish(job, Measured(failed=BUILD, error=error.what), build_s)
            return
        with self._changed:
            lane.built.append(job)

    def _measure(self, lane: _Lane, process: WorkerProcess, job: _Job) -> None:
        built = job.built
        assert built is not None
        with self._changed:
            reference = self._references[job.workload]
            best_s = self._best_s.get(job.workload, math.inf)
        if not isinstance(reference, Reference):
            self._call(process, RUN, "drop", built.handle)
            self._finish(job, Measured(failed=CHECK, error=str(reference)), built.build_s)
            return
        if lane.prepared != job.workload:
            self._call(process, RUN, "prepare", job.trial.workload, reference)
            lane.prepared = job.workload
        give_up_s = HOPELESS * best_s
        try:
            found: Measured = self._call(
                process, RUN, "measure", built.handle, give_up_s, self._measure_s
            )
        except CallFailed as error:
            found = Measured(failed=RUN, error=error.what)
        self._finish(job, found, built.build_s)

    def _call(self, process: WorkerProcess, stage: str, method: str, *arguments: object) -> Any:
        return process.call(method, *arguments, timeout_s=self._timeouts_s[stage])

    def _bury(self, stage: str, job: _Job, lost: WorkerLost, was_alive: bool) -> None:
        """Decide what becomes of what a worker did when it was lost."""
        with self._changed:
            if self._closing:
                return
            if stage == _REFERENCE:
                self._reference_losses[job.workload] += 1
                if self._reference_losses[job.workload] < _TRIES:
                    del self._references[job.workload]
                else:
                    self._references[job.workload] = _no_reference(lost)
                return
            job.tries += 1
            innocent = not was_alive or lost.signal in _FROM_OUTSIDE
            if innocent and job.tries < _TRIES:
                job.built = None
                self._queue.appendleft(job)
                return
        build_s = 0.0 if job.built is None else job.built.build_s
        self._finish(job, Measured(failed=stage, error=f"its process {lost.what}"), build_s)

    def _finish(self, job: _Job, found: Measured, build_s: float) -> None:
        result = TrialResult(
            key=job.trial.key,
            run_s=found.run_s,
            failed=found.failed,
            error=found.error,
            deviation=found.deviation,
            build_s=build_s,
            measure_s=found.measure_s,
            runner=RUNNER,
        )
        with self._changed:
            if found.run_s:
                best_s = self._best_s.get(job.workload, math.inf)
                self._best_s[job.workload] = min(best_s, *found.run_s)
            self._results.append(result)
            self._changed.notify_all()


def _no_reference(error: IovtError) -> str:
    return f"there is nothing to compare it with: the unscheduled function: {error.what}"
