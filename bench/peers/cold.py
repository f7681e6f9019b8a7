"""Process start to first result, and the memory that takes."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contestants import Contestant
from problem import Problem
from results import NetworkResult
from worker_process import Worker, WorkerError

STARTS = 5

HEADER = f"{'network':20}{'runtime':18}{'start to first':>16}{'CPU time':>12}{'peak memory':>14}"


@dataclass(frozen=True)
class ColdStart:
    """Medians over the starts of one contestant.

    Attributes:
        wall_s: From starting the process to its first result: imports, loading, one inference.
        cpu_s: CPU time of all of that; the measure to compare on a busy machine.
        peak_resident_bytes: Of the process, until then.
        starts: Number of starts.
    """

    wall_s: float
    cpu_s: float
    peak_resident_bytes: float
    starts: int


def measure_starts(
    problem: Problem,
    contestants: Sequence[Contestant],
    made: Mapping[str, Path],
    result: NetworkResult,
    *,
    threads: int,
    starts: int = STARTS,
) -> dict[str, ColdStart]:
    """Start every contestant in turn, several times; the result notes those that cannot."""
    workers: dict[str, list[Worker]] = {}
    for _ in range(starts):
        for contestant in contestants:
            name = contestant.name
            if name not in made or name in result.failures:
                continue
            try:
                worker = Worker(contestant, made[name], problem, threads)
            except WorkerError as error:
                result.failures[name] = error.seen
                workers.pop(name, None)
                continue
            worker.close()
            workers.setdefault(name, []).append(worker)
    return {name: _medians(found) for name, found in workers.items()}


def rows(name: str, found: Mapping[str, ColdStart]) -> Iterator[str]:
    for runtime, start in found.items():
        yield (
            f"{name[:19]:20}{runtime:18}{start.wall_s * 1e3:13.0f} ms{start.cpu_s * 1e3:9.0f} ms"
            f"{start.peak_resident_bytes / 1e6:11.0f} MB"
        )
        name = ""


def _medians(workers: Sequence[Worker]) -> ColdStart:
    return ColdStart(
        wall_s=statistics.median(worker.ready_s for worker in workers),
        cpu_s=statistics.median(worker.started["cpu_s"] for worker in workers),
        peak_resident_bytes=statistics.median(
            worker.started["peak_resident_bytes"] for worker in workers
        ),
        starts=len(workers),
    )
