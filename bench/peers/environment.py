"""What a result was measured with."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from artifacts import source_digest

import tvm_iovt


def describe(distributions: Sequence[str]) -> dict[str, Any]:
    """The machine, the versions and the variables that runtimes read."""
    prefixes = ("OMP_", "GOMP_", "KMP_", "TVM_", "OV_", "ORT_", "MNN_", "NCNN_")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_name(),
        "cpus": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "tvm_iovt": {"version": tvm_iovt.__version__, "source": source_digest()},
        "versions": {name: version(name) for name in distributions},
        "variables": {k: v for k, v in sorted(os.environ.items()) if k.startswith(prefixes)},
    }


def cpu_name() -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def one_line(found: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in found["versions"].items())
    return f"{found['cpu']}, {found['cpus']} CPUs; {versions}"
