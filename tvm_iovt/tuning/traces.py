"""MetaSchedule traces as plain JSON, and back to schedules."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from tvm_iovt._tvm import tvm
from tvm_iovt.errors import IovtError
from tvm_iovt.schedules.tvm_api import Schedule, Trace


def trace_json(trace: Any) -> Any:
    """A trace with its decisions as lists, numbers and texts."""
    return _plain(trace.as_json())


def trial_key(workload: str, trace: Any) -> str:
    """Key of the schedule that a trace (JSON, or None for the template's) makes of a workload."""
    text = f"{workload} {json.dumps(trace, separators=(',', ':'))}"
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def replayed(module: Any, trace: Any) -> Any:
    """The schedule that a trace makes of a module.

    Args:
        module: The unscheduled module of the trace's workload.
        trace: From `trace_json`.

    Raises:
        IovtError: The trace does not fit the module or this TVM.
    """
    schedule = Schedule(module, debug_mask="none")
    try:
        Trace.apply_json_to_schedule(trace, schedule)
    except Exception as error:  # TVM raises plain and unrelated classes
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise IovtError("A recorded schedule cannot be replayed", seen=lines[-1][:200]) from error
    return schedule


def untraced(schedule: Any) -> str:
    """The module of a schedule, as text for another process."""
    return str(tvm.ir.save_json(schedule.mod))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        # TVM's texts are a subclass of str that json would write, but not compare, alike.
        return str(value) if isinstance(value, str) else value
    if isinstance(value, (tvm.tirx.IntImm, tvm.tirx.FloatImm)):
        return value.value
    if hasattr(value, "items"):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value]
