"""CPU time of the whole machine, from which follows what everything else used during a block."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

CLEAN_CORES = 0.15
"""A block is clean when everything else used less than this many cores while it ran."""

_PROBE_S = 0.05
_STAT = Path("/proc/stat")


@dataclass(frozen=True)
class CpuTime:
    """Seconds since the machine started: all CPUs not idle, and all CPUs together."""

    busy_s: float
    total_s: float

    @staticmethod
    def now() -> CpuTime:
        # user nice system idle iowait irq softirq steal; guests are inside of user.
        line = _STAT.read_text(encoding="ascii").partition("\n")[0]
        ticks = [int(field) for field in line.split()[1:9]]
        second = os.sysconf("SC_CLK_TCK")
        total = sum(ticks)
        return CpuTime(busy_s=(total - ticks[3] - ticks[4]) / second, total_s=total / second)


def other_cores(before: CpuTime, after: CpuTime, own_s: float, elapsed_s: float) -> float:
    """Cores that everything but this process used, on average over the elapsed time."""
    return max(0.0, after.busy_s - before.busy_s - own_s) / elapsed_s


def wait_until_quiet(longest_s: float) -> None:
    """Sleep until the machine is idle, or so long."""
    end_s = time.monotonic() + longest_s
    while longest_s > 0:
        before = CpuTime.now()
        time.sleep(_PROBE_S)
        used = other_cores(before, CpuTime.now(), 0.0, _PROBE_S)
        if used < CLEAN_CORES or time.monotonic() > end_s:
            return
