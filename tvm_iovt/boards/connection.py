"""From a tracker and a key to a session with a board, step by step, each failure named."""

from __future__ import annotations

import contextlib
import time

from tvm_iovt.boards.session import BoardRequest, BoardSession, Progress
from tvm_iovt.boards.tracker_client import Assignment, Tracker
from tvm_iovt.boards.tracker_summary import Heartbeat, Summary
from tvm_iovt.errors import DeviceError

_POLL_S = 0.5


def connect(request: BoardRequest, progress: Progress = lambda message: None) -> BoardSession:
    """Get a board of a key and open a session on it.

    Raises:
        DeviceError: The tracker cannot be used, nobody has the key, every board of it is busy for
            longer than `wait_s`, or the board does not accept the session.
    """
    progress(f"asking the tracker {request.tracker} for a board of key {request.key}")
    deadline_s = time.monotonic() + request.wait_s
    while True:
        with Tracker(request.tracker) as tracker:
            _await_key(tracker, request, deadline_s, progress)
            left_s = deadline_s - time.monotonic()
            assignment = tracker.request(request.key, wait_s=left_s)
            if assignment is None:
                raise _busy(request, _fresh_summary(request))
            found = tracker_heartbeat(request, assignment)
        progress(f"connecting to {found.name if found else assignment.address}")
        try:
            return BoardSession(request, assignment, found)
        except DeviceError:
            # The tracker may not know yet that this board's server has just ended.
            if time.monotonic() + 2 * _POLL_S > deadline_s:
                raise
            time.sleep(_POLL_S)


def tracker_heartbeat(request: BoardRequest, assignment: Assignment) -> Heartbeat | None:
    """The heartbeat of an assigned board, if it has one."""
    with contextlib.suppress(DeviceError), Tracker(request.tracker) as tracker:
        return tracker.summary().heartbeat(assignment.address)
    return None


def _await_key(
    tracker: Tracker, request: BoardRequest, deadline_s: float, progress: Progress
) -> None:
    """Until a board of the key is registered: asking for an unknown one would wait for ever."""
    told = False
    while True:
        summary = tracker.summary()
        queue = summary.queue(request.key)
        if queue is not None:
            if not queue.free:
                progress(f"all {queue.servers} boards of key {request.key} are busy; waiting")
            return
        if not told:
            progress(f"no board of key {request.key} is registered; waiting for one")
            told = True
        if time.monotonic() + _POLL_S > deadline_s:
            raise DeviceError(
                f"The tracker {request.tracker} has no board of key {request.key}",
                seen=f"within {request.wait_s:g} s; it has {summary.describe()}",
                do="correct the key, or start `tvm-iovt board` on the device",
            )
        time.sleep(_POLL_S)


def _busy(request: BoardRequest, summary: Summary | None) -> DeviceError:
    queue = summary.queue(request.key) if summary else None
    counts = f"{queue.servers} boards, {queue.pending} requests that wait" if queue else "no board"
    return DeviceError(
        f"Every board of key {request.key} is busy",
        seen=f"none came free within {request.wait_s:g} s: {counts}",
        do="wait longer with --wait, or see who uses them",
    )


def _fresh_summary(request: BoardRequest) -> Summary | None:
    with contextlib.suppress(DeviceError), Tracker(request.tracker) as tracker:
        return tracker.summary()
    return None
