"""The worker threads of CPU stages: TVM keeps one pool for each thread that runs networks."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tvm_iovt import host_cpu
from tvm_iovt.errors import UsageError

COUNT = "TVM_NUM_THREADS"
BIND = "TVM_BIND_THREADS"
SPIN = "TVM_THREAD_POOL_SPIN_COUNT"

_CPU_RANGE = re.compile(r"(?P<first>[0-9]{1,5})(-(?P<last>[0-9]{1,5}))?")

_environment = threading.Lock()

# Milliseconds: longer than the gaps inside of a network, shorter than those between frames.
SPIN_COUNT = 10_000


def set_defaults() -> None:
    """Set TVM's variables where the user did not, before a pool starts.

    TVM would take half of the CPUs on x86, whether or not they are hyper-threads, and bind its
    threads and the caller's to CPUs 0, 1, ... even when these are not among those that the
    process may use. So on x86 the count is the number of usable physical cores, and nothing is
    bound. On ARM binding keeps the work on the big cores, and stays as it is.

    An idle worker spins before it sleeps; TVM's 300 000 rounds would keep a core busy for 0.2 s
    after each network, and hold up the end of the process for as long.
    """
    os.environ.setdefault(SPIN, str(SPIN_COUNT))
    if host_cpu.machine() != "x86_64":
        return
    os.environ.setdefault(BIND, "0")
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ.setdefault(COUNT, str(physical_cores()))


def set_count(ffi: Any, threads: int) -> None:
    """Run CPU stages with that many threads.

    Raises:
        UsageError: `threads` is not positive, or TVM's pool has started with fewer.
    """
    if threads < 1:
        raise UsageError(
            "The number of threads must be positive",
            seen=str(threads),
            do="give one or more, or leave it out",
        )
    os.environ[COUNT] = str(threads)
    started = ffi.get_global_func("runtime.NumThreads")()  # starts the pool if there is none
    if started > threads:
        big_cores_first = 1  # ThreadGroup::AffinityMode::kBig
        ffi.get_global_func("runtime.config_threadpool")(big_cores_first, threads)
    elif started < threads:
        raise UsageError(
            f"{threads} threads cannot be used",
            seen=f"TVM's thread pool has {started}",
            do="choose at most as many as there are cores, before the first network is run",
        )


def parse_cpus(text: str) -> tuple[int, ...]:
    """CPU numbers from `0,2-3`, as `taskset` and `/proc` write them.

    Raises:
        UsageError: The text is something else.
    """
    cpus: list[int] = []
    for part in text.split(","):
        found = _CPU_RANGE.fullmatch(part.strip())
        if found is None:
            raise UsageError("The list of CPUs cannot be read", seen=text, do="write it as 0,2-3")
        first, last = found["first"], found["last"]
        cpus += range(int(first), int(last or first) + 1)
    return tuple(dict.fromkeys(cpus))


def set_cpus(cpus: tuple[int, ...]) -> None:
    """Run on these CPUs only: the calling thread, and the workers that it starts later.

    TVM keeps a pool of workers for each thread that runs networks, and they inherit its CPUs. So a
    thread for each network, on CPUs of its own, keeps several networks out of each other's way.
    The pool gets one thread for each of the CPUs, or fewer if `$TVM_NUM_THREADS` says so.

    Raises:
        UsageError: There is no such CPU, or this process may not use it.
    """
    allowed = os.sched_getaffinity(0)
    if not cpus or not set(cpus) <= allowed:
        raise UsageError(
            "These CPUs cannot be used",
            seen=f"{','.join(map(str, cpus)) or 'none'}; this process may use "
            f"{','.join(map(str, sorted(allowed)))}",
            do="choose among those",
        )
    os.sched_setaffinity(0, cpus)
    os.environ[BIND] = "0"
    count = os.environ.get(COUNT, "")
    if not count.isdecimal() or int(count) > len(cpus):
        os.environ[COUNT] = str(len(cpus))


def own_pool(ffi: Any, *, threads: int = 0, cpus: tuple[int, ...] = ()) -> int:
    """Give the calling thread a pool of workers of its own, which nothing was run in before.

    Unlike `set_count` and `set_cpus` this changes nothing for other threads of the process. The
    pool ends with the thread.

    Args:
        ffi: The module `tvm_ffi`.
        threads: Workers, the calling thread included; 0 for one on each of the CPUs, but at most
            `$TVM_NUM_THREADS`.
        cpus: That they and the calling thread run on; by default those that the thread may use
            now, all of them: TVM's own binding would put the workers of every pool on the same
            ones.

    Returns:
        The number of threads that CPU stages now use in this thread.

    Raises:
        UsageError: There is no such CPU, or there are fewer CPUs than threads.
    """
    allowed = os.sched_getaffinity(0)
    chosen = set(cpus) or allowed
    if not chosen <= allowed or threads < 0 or threads > len(chosen):
        raise UsageError(
            f"{threads} threads cannot be used on the CPUs {','.join(map(str, sorted(chosen)))}",
            seen=f"this process may use {','.join(map(str, sorted(allowed)))}",
            do="choose among those, and at most one thread for each",
        )
    os.sched_setaffinity(0, chosen)
    count = os.environ.get(COUNT, "")
    default = int(count) if count.isdecimal() and int(count) else len(chosen)
    workers = threads or min(default, len(chosen))
    share_all_cpus = -3  # ThreadGroup::AffinityMode::kSpecifyThreadShareAllCore
    with _pool_of(workers):
        ffi.get_global_func("runtime.config_threadpool")(
            share_all_cpus, workers, ffi.Array([str(cpu) for cpu in sorted(chosen)])
        )
    return int(ffi.get_global_func("runtime.NumThreads")())


@contextmanager
def _pool_of(workers: int) -> Iterator[None]:
    """While inside, pools are made with that many workers: TVM reads the variable for each."""
    with _environment:
        before = os.environ.get(COUNT)
        os.environ[COUNT] = str(workers)
        try:
            yield
        finally:
            if before is None:
                del os.environ[COUNT]
            else:
                os.environ[COUNT] = before


def physical_cores() -> int:
    """Cores that this process may run on, hyper-threads of one core counted once."""
    cpus = os.sched_getaffinity(0)
    cores = set()
    for cpu in cpus:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text())
        except OSError:
            return len(cpus)
    return len(cores)
