"""How much memory a process may take, and how much there is."""

from __future__ import annotations

import resource
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Memory that can be allocated without swapping, within the limit of a container if any.

    Returns:
        Bytes; the largest number that fits where the system does not tell.
    """
    found = [_free_bytes(), _cgroup_bytes("memory.max", "memory.current")]
    found.append(_cgroup_bytes("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
    return min((value for value in found if value is not None), default=1 << 62)


def address_space_bytes() -> int:
    """Address space that this process has reserved; zero where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * resource.getpagesize()


def limit_growth(growth_bytes: int) -> None:
    """Let this process, and each one it starts, reserve that much more memory and no more.

    Allocations beyond it fail, which an allocator reports as an error; without a limit the system
    would overcommit, and then kill whatever process it likes. Core files are not written either.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit_bytes = address_space_bytes() + growth_bytes
    if hard != resource.RLIM_INFINITY:
        limit_bytes = min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))


def _free_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _cgroup_bytes(limit: str, used: str) -> int | None:
    try:
        free = int((_CGROUP / limit).read_text()) - int((_CGROUP / used).read_text())
    except (OSError, ValueError):  # no such group, or `max`
        return None
    return max(free, 0)
