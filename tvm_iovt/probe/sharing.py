"""What stages on one machine do to each other: hand-offs, memory, and being in each other's way."""

from __future__ import annotations

import dataclasses
import functools
import os
import queue
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from tvm_iovt import host_cpu
from tvm_iovt.errors import DeviceError, TuningError
from tvm_iovt.types import TargetSpec

Progress = Callable[[str], None]

MEMORY_ELEMENTS = 24 << 20
"""Floats of a copy that no cache holds."""

CALL_TIMEOUT_S = 180.0

_BESIDE, _BESIDE_S = ("inverted", "residual"), 0.6
_TURNS = 3


class Timer(Protocol):
    """What times networks with a number of threads; see `network_timer.NetworkTimer`."""

    def call(self, method: str, *arguments: object, timeout_s: float) -> Any:
        """Call a method of the timer."""

    def close(self) -> None:
        """Let go of it."""


def handoff(frames: int = 400) -> tuple[float, float]:
    """Seconds from one stage's thread to the next one's through a queue, and their spread."""
    there: queue.Queue[float] = queue.Queue(2)
    back: queue.Queue[float] = queue.Queue(2)

    def answer() -> None:
        while (sent := there.get()) >= 0:
            back.put(time.perf_counter() - sent)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    taken = []
    for _ in range(frames):
        there.put(time.perf_counter())
        taken.append(back.get())
    there.put(-1.0)
    thread.join()
    low, middle, high = statistics.quantiles(taken, n=4)
    return middle, (high - low) / 2 / middle


def stage_cost(
    spec: TargetSpec, make: Callable[[TargetSpec], Timer], progress: Progress
) -> tuple[float, float]:
    """Seconds that a stage costs for a frame beside its kernels, and their spread.

    Both are 0 without a core for a second stage.
    """
    if host_cpu.usable_cores() < 2:
        return 0.0, 0.0
    progress("a pipeline of two stages")
    timer = make(dataclasses.replace(spec, cpu=dataclasses.replace(spec.cpu, cores=1)))
    try:
        seconds, spread = timer.call("stage", timeout_s=CALL_TIMEOUT_S)
    except TuningError as error:
        raise died(error) from error
    finally:
        timer.close()
    return float(seconds), float(spread)


def shared_bandwidth(
    spec: TargetSpec, threads: int, make: Callable[[TargetSpec], Timer], progress: Progress
) -> float:
    """Memory's speed for `threads` while another process streams; 0 without a core for that."""
    if host_cpu.usable_cores() < 2 * threads:
        return 0.0
    progress("memory with a second stage that streams")
    here = dataclasses.replace(spec, cpu=dataclasses.replace(spec.cpu, cores=threads))
    timers: list[Timer] = []
    try:
        timers += [make(here), make(here)]
        _keep_apart(timers, threads)
        copy = functools.partial(_call, timers[0], "seconds", "copy", (MEMORY_ELEMENTS,), 1.0)
        seconds = _beside(copy, timers[1], "stream", 2.5)
    except TuningError as error:
        raise died(error) from error
    finally:
        for timer in timers:
            timer.close()
    return 8.0 * MEMORY_ELEMENTS / float(seconds)


def slowdown_beside(
    spec: TargetSpec, threads: int, make: Callable[[TargetSpec], Timer], progress: Progress
) -> float:
    """How many times as long networks take beside others; 1 without a core for that.

    Two processes on cores of their own run the same network, in turns alone and both at once; the
    mean of a deep network and one of many channels, and never less than 1.
    """
    if host_cpu.usable_cores() < 2 * threads:
        return 1.0
    progress("networks beside each other")
    here = dataclasses.replace(spec, cpu=dataclasses.replace(spec.cpu, cores=threads))
    timers: list[Timer] = []
    ratios = []
    try:
        timers += [make(here), make(here)]
        _keep_apart(timers, threads)
        for family in _BESIDE:
            build = functools.partial(_call, timers[0], "run_for", family, 0.0)
            _beside(build, timers[1], "run_for", family, 0.0)
            run = functools.partial(_call, timers[0], "run_for", family, _BESIDE_S)
            turns = [
                (run(), _beside(run, timers[1], "run_for", family, 2 * _BESIDE_S))
                for _ in range(_TURNS)
            ]
            ratios.append(statistics.median(both / alone for alone, both in turns))
    except TuningError as error:
        raise died(error) from error
    finally:
        for timer in timers:
            timer.close()
    return max(1.0, statistics.mean(ratios))


def _keep_apart(timers: Sequence[Timer], threads: int) -> None:
    """Give each timer cores of its own, as the stages of a pipeline have."""
    cpus = sorted(os.sched_getaffinity(0))
    for index, timer in enumerate(timers):
        own = tuple(cpus[index * threads : (index + 1) * threads])
        timer.call("stay_on", own, timeout_s=CALL_TIMEOUT_S)


def _call(timer: Timer, method: str, *arguments: object) -> float:
    return float(timer.call(method, *arguments, timeout_s=CALL_TIMEOUT_S))


def _beside(measure: Callable[[], float], other: Timer, method: str, *arguments: object) -> float:
    """What is measured while another timer works.

    Raises:
        TuningError: Either of them died; the other one is waited for.
    """
    with ThreadPoolExecutor(1, "beside") as pool:
        neighbour = pool.submit(_call, other, method, *arguments)
        found = measure()
        neighbour.result()
    return found


def died(error: TuningError) -> DeviceError:
    """The error of a process that measures and has ended."""
    return DeviceError(
        f"A process that measures this machine failed: {error.what}",
        seen=error.seen,
        do="try again with fewer other programs running, or with --quick",
    )
