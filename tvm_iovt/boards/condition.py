"""Temperature and clock of a machine, where its operating system tells (Linux's sysfs)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_SYS = Path("/sys")


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What may slow a machine down, at one moment.

    Attributes:
        temperature_c: Of the hottest thermal zone, in degrees Celsius; None if unknown.
        frequencies_hz: Clock of each CPU that tells it, now.
        available_bytes: Memory that programs can have without swapping; 0 if unknown.
        load: Average number of runnable threads over the last minute.
    """

    temperature_c: float | None = None
    frequencies_hz: tuple[int, ...] = ()
    available_bytes: int = 0
    load: float = 0.0


def read_condition(sys: Path = _SYS) -> Condition:
    """The condition of this machine; what cannot be read is left out."""
    zones = _numbers(sys.glob("class/thermal/thermal_zone*/temp"))
    plausible = [value / 1000 for value in zones if -40_000 < value < 200_000]
    clocks = _numbers(sorted(sys.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")))
    try:
        load = float(Path("/proc/loadavg").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        load = 0.0
    return Condition(
        temperature_c=max(plausible, default=None),
        frequencies_hz=tuple(kilohertz * 1000 for kilohertz in clocks),
        available_bytes=available_memory_bytes(),
        load=load,
    )


def available_memory_bytes() -> int:
    """Memory that programs can have without swapping; 0 if the system does not tell."""
    return _meminfo("MemAvailable")


def total_memory_bytes() -> int:
    """Memory of the machine; 0 if the system does not tell."""
    return _meminfo("MemTotal")


def _meminfo(name: str) -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0


def _numbers(paths: Iterable[Path]) -> list[int]:
    found = []
    for path in paths:
        try:
            found.append(int(path.read_text()))
        except (OSError, ValueError):
            continue
    return found
