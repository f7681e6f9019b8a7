"""One network in all runtimes: convert, load, compare the outputs, then measure."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import artifacts
from contestants import BASE, Contestant
from problem import Problem
from results import NetworkResult, largest_difference, measured, unfit
from rounds import measure
from worker_process import Worker, WorkerError

from tvm_iovt.errors import IovtError


def convert(
    problem: Problem, contestants: Sequence[Contestant], result: NetworkResult
) -> dict[str, Path]:
    """What each contestant loads; the result notes those that cannot have the network."""
    made = {}
    for contestant in contestants:
        try:
            made[contestant.name] = artifacts.make(contestant, problem)
        except IovtError as error:
            result.failures[contestant.name] = _one_line(error)
    return made


def measure_network(
    problem: Problem,
    contestants: Sequence[Contestant],
    made: Mapping[str, Path],
    result: NetworkResult,
    *,
    threads: int,
    rounds: int,
    wait_s: float,
) -> None:
    """Add the latencies with that many threads to the result.

    Args:
        problem: The network.
        contestants: Who runs it.
        made: What `convert` returned.
        result: Of the network; gets the latencies, differences and failures.
        threads: Threads of each runtime.
        rounds: Blocks of each runtime.
        wait_s: Longest wait for a quiet machine before a block.

    Raises:
        IovtError: The reference runtime cannot run the network.
    """
    with contextlib.ExitStack() as opened:
        workers = []
        for contestant in contestants:
            if contestant.name not in made:
                continue
            try:
                worker = Worker(contestant, made[contestant.name], problem, threads)
            except WorkerError as error:
                if contestant.name == BASE:
                    raise
                result.failures[contestant.name] = _one_line(error)
                continue
            opened.callback(worker.close)
            workers.append(worker)
        workers = _compare(workers, result)
        blocks, failures = measure(workers, rounds=rounds, wait_s=wait_s)
    result.failures.update(failures)
    result.measured[threads] = measured(blocks, contestants, threads)


def _compare(workers: Sequence[Worker], result: NetworkResult) -> list[Worker]:
    """Note the largest differences, over all numbers of threads so far; the workers that ran."""
    reference = next(w for w in workers if w.contestant.name == BASE).outputs()
    running = []
    for worker in workers:
        name = worker.contestant.name
        try:
            outputs = worker.outputs()
        except WorkerError as error:
            result.failures[name] = _one_line(error)
            continue
        if reason := unfit(outputs, reference):
            result.failures[name] = reason
            continue
        difference = largest_difference(outputs, reference)
        result.differences[name] = max(difference, result.differences.get(name, 0.0))
        result.precisions[name] = worker.started["precision"]
        running.append(worker)
    return running


def _one_line(error: IovtError) -> str:
    """What failed, and of the tool's output the line that says why."""
    lines = error.seen.strip().splitlines() or [""]
    telling = next((line for line in lines if "error" in line.lower()), lines[-1])
    return ": ".join(part for part in (error.what, telling.strip()) if part)
