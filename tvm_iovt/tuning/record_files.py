"""The files of records of one device, and when a record in them cannot be true.

`tuning_logs/README.md` describes them.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from tvm_iovt.tuning.kernel_records import FILE as KERNEL_FILE
from tvm_iovt.tuning.kernel_records import KernelChoice
from tvm_iovt.tuning.record_lines import RecordFile
from tvm_iovt.tuning.schedule_records import (
    SEARCH,
    TEMPLATE,
    DeviceKind,
    ScheduleChoice,
    TrialRecord,
    WorkloadRecord,
)
from tvm_iovt.tuning.trial import BUILD, CHECK, RUN

LONGEST_CALL_S = 86_400.0
"""No kernel runs for a day; TVM writes 1e10 seconds where nothing was measured."""


def device_folder(root: Path, device: DeviceKind) -> Path:
    """The folder of a device's records below a folder of tuning records."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", device.folder).lstrip(".")
    return root / (name or "unknown")


def describe_device(device: DeviceKind) -> str:
    """`znver4, 8 cores of 512 bits, 8 threads (x86_64-linux-gnu)`, for people."""
    cpu = device.cpu
    text = f"{cpu.mcpu}, {cpu.cores} cores of {cpu.vector_bits} bits"
    if device.gpu:
        return f"{device.gpu} with {text} ({cpu.triple})"
    return f"{text}, {device.threads} threads ({cpu.triple})"


def _is_time(value_s: float) -> bool:
    return math.isfinite(value_s) and 0 < value_s < LONGEST_CALL_S


def _workload_objection(record: WorkloadRecord) -> str:
    if not record.key or not record.module:
        return "it has no key or no module"
    return ""


def _trial_objection(record: TrialRecord) -> str:
    if not record.key or not record.workload:
        return "it has no key or no workload"
    if record.source not in (TEMPLATE, SEARCH):
        return f"its source {record.source[:40]!r} is neither {TEMPLATE} nor {SEARCH}"
    if record.failed:
        if record.failed not in (BUILD, RUN, CHECK):
            return f"nothing fails at {record.failed[:40]!r}"
        return "it failed and has times" if record.run_s else ""
    if not record.run_s:
        return "it has neither times nor a failure"
    wrong = [value_s for value_s in record.run_s if not _is_time(value_s)]
    if wrong:
        return f"no kernel runs for {wrong[0]} s"
    if record.deviation is not None and not (
        math.isfinite(record.deviation) and record.deviation >= 0
    ):
        return f"it was measured, but deviates by {record.deviation}"
    if record.source == SEARCH and record.trace is None:
        return "it was measured, but its trace is missing"
    return ""


def _choice_objection(record: ScheduleChoice) -> str:
    if not record.workload:
        return "it has no workload"
    if bool(record.trial) != (record.trace is not None):
        return "it has a trial without a trace, or a trace without a trial"
    if record.trials < 0:
        return f"it was chosen from {record.trials} trials"
    # A template that failed has an infinite time; a kernel that the network never called took 0 s.
    alone = (record.alone_s,) if record.trial else ()
    inside = [value_s for value_s in (record.network_s, record.template_network_s) if value_s]
    wrong = [value_s for value_s in (*alone, *inside) if not _is_time(value_s)]
    wrong += [value_s for value_s in (record.alone_s, record.template_alone_s) if not value_s > 0]
    return f"nothing runs for {wrong[0]} s" if wrong else ""


def _kernel_objection(record: KernelChoice) -> str:
    if record.chosen not in {candidate.name for candidate in record.candidates}:
        return "what it chose is not among its candidates"
    return ""


WORKLOADS = RecordFile("workloads.jsonl", WorkloadRecord, _workload_objection)
TRIALS = RecordFile("trials.jsonl", TrialRecord, _trial_objection)
CHOICES = RecordFile("choices.jsonl", ScheduleChoice, _choice_objection)
KERNELS = RecordFile(KERNEL_FILE, KernelChoice, _kernel_objection)
