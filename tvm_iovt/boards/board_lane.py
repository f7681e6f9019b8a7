"""One session after another with boards of a key: connects, measures trials, connects again."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from tvm_iovt._tvm import installed_version
from tvm_iovt.boards.address import Address
from tvm_iovt.boards.connection import connect
from tvm_iovt.boards.deployments import machine_of
from tvm_iovt.boards.kernel_session import KernelSession
from tvm_iovt.boards.session import BoardRequest, BoardSession, StepError
from tvm_iovt.boards.workload_arrays import WorkloadArrays
from tvm_iovt.errors import DeviceError
from tvm_iovt.tuning.deviation import compared
from tvm_iovt.tuning.trial import CHECK, RUN, Trial, TrialResult
from tvm_iovt.types import CpuSpec

KERNELS = f"{KernelSession.__module__}:{KernelSession.__name__}"

SESSION_S = 120.0
"""The board ends a session after that long, even if we are gone; half of it is used."""

_WAIT_S = 2.0
_CRASHES = ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT")  # what kernels do to themselves


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneOptions:
    """How a lane measures.

    Attributes:
        tracker: The tracker.
        key: The kind of board.
        cpu: What kernels are built for; boards that tell that they differ are refused.
        threads: Threads on the board; None leaves its runtime's own choice.
        run_timeout_s: For each step with a trial.
        measure_s: Seconds to time one kernel for.
    """

    tracker: Address
    key: str
    cpu: CpuSpec
    threads: int | None
    run_timeout_s: float
    measure_s: float


@dataclass(slots=True, eq=False)
class Job:
    """A trial on its way.

    Attributes:
        trial: The trial.
        build_s: What building took.
        library: The built kernel.
        arrays: Of its workload.
        losses: Boards that were lost while they measured it.
    """

    trial: Trial
    build_s: float = 0.0
    library: Path | None = None
    arrays: WorkloadArrays | None = None
    losses: list[str] = field(default_factory=list)


class UnfitBoardError(DeviceError):
    """A board of the key that kernels of this target cannot run on."""


class BoardLostError(DeviceError):
    """The session ended under a trial.

    Attributes:
        guilty: Whether the trial did it, as far as can be told.
    """

    def __init__(self, error: DeviceError, *, guilty: bool) -> None:
        super().__init__(error.what, seen=error.seen, do=error.do)
        self.guilty = guilty


class Lane:
    """A session with some board of a key. One thread uses it; any may `close` it."""

    def __init__(self, options: LaneOptions) -> None:
        self._options = options
        self._session: BoardSession | None = None
        self._opened_s = 0.0
        self._workload = ""
        self._fresh = False
        self._closed = False

    @property
    def connected(self) -> bool:
        """Whether there is a session."""
        return self._session is not None

    def connect(self) -> None:
        """Have a session: the present one, or a new one if there is none or it gets old.

        Raises:
            UnfitBoardError: The board is another one than kernels are built for.
            DeviceError: No board of the key is to be had within two seconds, or it does not work.
        """
        if self._session is not None:
            if time.monotonic() - self._opened_s < SESSION_S / 2:
                return
            self.disconnect()
        options = self._options
        request = BoardRequest(
            tracker=options.tracker,
            key=options.key,
            wait_s=_WAIT_S,
            timeout_s=options.run_timeout_s,
            limit_s=SESSION_S + 2 * options.run_timeout_s,
            service=KERNELS,
        )
        session = connect(request)
        try:
            _check_fit(session, options.cpu)
            session.call("sending bytes there and back", "echo", 1000)
            if options.threads is not None:
                session.call("choosing threads", "use_threads", options.threads)
        except BaseException:
            session.close()
            raise
        self._session, self._opened_s, self._workload = session, time.monotonic(), ""
        if self._closed:
            self.disconnect()

    def disconnect(self) -> None:
        """Give the board back."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def abandon(self) -> None:
        """End what the lane's thread waits for; the thread gets a `DeviceError`."""
        self._closed = True
        session = self._session
        if session is not None:
            session.kill()

    def measure(self, job: Job, give_up_s: float) -> TrialResult:
        """Check and time a trial on the board.

        Raises:
            BoardLostError: The session ended; the trial may be measured elsewhere, or is guilty.
        """
        began_s = time.monotonic()
        session = self._session
        assert session is not None
        try:
            result = self._measured(session, job, give_up_s, began_s)
        except StepError as error:
            if not error.answered or not self._still_works(session):
                raise BoardLostError(error, guilty=_is_guilty(error)) from error
            result = _failed(job, RUN, error.seen, session.label, began_s)
            self._workload = ""  # it may have written where it should not
        return result

    def _measured(
        self, session: BoardSession, job: Job, give_up_s: float, began_s: float
    ) -> TrialResult:
        arrays, library = job.arrays, job.library
        assert arrays is not None
        assert library is not None
        reference = arrays.reference
        while True:
            if self._workload != job.trial.workload.key:
                session.call("placing inputs", "prepare", arrays.inputs, reference.fill)
                self._workload, self._fresh = job.trial.workload.key, True
            outputs = session.call("running a kernel", "compute", library, reference.fill)
            off, error = compared(outputs, reference.outputs)
            if not error:
                break
            self._workload = ""
            if self._fresh:
                return _failed(job, CHECK, error, session.label, began_s)
            # The kernel before may have spoiled the inputs: once more, with new ones.
        self._fresh = False
        run_s = session.call("timing a kernel", "time", self._options.measure_s, give_up_s)
        _, error = compared(session.call("checking again", "outputs"), reference.outputs)
        if error:
            self._workload = ""
            error = f"after some runs {error}: it changes its inputs, or something is random"
            return _failed(job, CHECK, error, session.label, began_s)
        return TrialResult(
            key=job.trial.key,
            run_s=tuple(run_s),
            deviation=off,
            build_s=job.build_s,
            measure_s=time.monotonic() - began_s,
            runner=session.label,
        )

    @staticmethod
    def _still_works(session: BoardSession) -> bool:
        try:
            session.call("sending bytes there and back", "echo", 1)
        except DeviceError:
            return False
        return True


def _check_fit(session: BoardSession, cpu: CpuSpec) -> None:
    status = session.status
    if status is None:
        return
    reason = machine_of(status).misfit(cpu)
    here, there = (installed_version("apache-tvm"), status.tvm_version)
    if not reason and here != there:
        reason = f"is built by apache-tvm {here}, and the board runs {there}"
    if reason:
        raise UnfitBoardError(
            f"Board {session.name} is not what is tuned for",
            seen=f"the board is {status.arch} ({status.cpu}); the code {reason}",
            do="give boards of another kind another --key, or tune for the board's own target",
        )


def failed_trial(job: Job, stage: str, error: str, runner: str = "") -> TrialResult:
    """The result of a trial that got no time."""
    return TrialResult(
        key=job.trial.key, failed=stage, error=error, build_s=job.build_s, runner=runner
    )


def _failed(job: Job, stage: str, error: str, runner: str, began_s: float) -> TrialResult:
    return TrialResult(
        key=job.trial.key,
        failed=stage,
        error=error,
        build_s=job.build_s,
        measure_s=time.monotonic() - began_s,
        runner=runner,
    )


def _is_guilty(error: StepError) -> bool:
    """Whether it was the kernel: it took too long, or raised a signal that kernels raise."""
    return error.timed_out or any(name in error.server_end for name in _CRASHES)
