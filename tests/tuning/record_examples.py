"""Records for tests; what a test does not name is plausible."""

from __future__ import annotations

from typing import Any

from tvm_iovt.tuning.kernel_records import CpuKind
from tvm_iovt.tuning.schedule_records import (
    SEARCH,
    TEMPLATE,
    DeviceKind,
    ScheduleChoice,
    TrialRecord,
    WorkloadRecord,
)
from tvm_iovt.tuning.workload_modules import compress_module

TVM = "0.27.0.post1"
DEVICE = DeviceKind(
    cpu=CpuKind(mcpu="znver4", triple="x86_64-linux-gnu", vector_bits=512, cores=2), threads=2
)
TRACE = [[["SampleCategorical", [], [[1, 2], [0.5, 0.5]], ["v0"]]], [[0, 1]]]


def workload(key: str = "w0", **changes: Any) -> WorkloadRecord:
    fields = {"name": f"conv_{key}", "module": compress_module(f"module of {key}")}
    return WorkloadRecord(**{"key": key, "tvm_version": TVM, **fields, **changes})


def trial(key: str = "t0", workload: str = "w0", **changes: Any) -> TrialRecord:
    """A valid one; with `failed`, one that failed."""
    source = changes.get("source", SEARCH)
    failed = changes.get("failed", "")
    fields: dict[str, Any] = {
        "device": DEVICE,
        "source": source,
        "trace": TRACE if source == SEARCH and not failed else None,
        "run_s": () if failed else (1.1e-3, 1.0e-3, 1.2e-3),
        "failed": "",
        "error": "it broke" if failed else "",
        "deviation": None if failed else 1e-6,
        "runner": "local",
        "run": "mobilenet-0123456789ab",
        "tvm_version": TVM,
        "tool_version": "0.1.0",
        "date": "2026-01-01T00:00:00+00:00",
    }
    return TrialRecord(**{"key": key, "workload": workload, **fields, **changes})


def choice(workload: str = "w0", trial: str = "t0", **changes: Any) -> ScheduleChoice:
    """Of a trial; of the template where `trial` is empty."""
    fields: dict[str, Any] = {
        "device": DEVICE,
        "trace": TRACE if trial else None,
        "alone_s": 1e-3,
        "template_alone_s": 2e-3,
        "network_s": 5e-3,
        "template_network_s": 6e-3,
        "network": "mobilenet.onnx",
        "trials": 3,
        "reason": "17 % faster in the network",
        "tvm_version": TVM,
        "tool_version": "0.1.0",
        "date": "2026-01-01T00:00:00+00:00",
    }
    return ScheduleChoice(**{"workload": workload, "trial": trial, **fields, **changes})


__all__ = ["DEVICE", "SEARCH", "TEMPLATE", "TRACE", "TVM", "choice", "trial", "workload"]
