"""Latency of several runtimes, measured so that the machine's drift hits all of them alike."""

from __future__ import annotations

import time
from collections.abc import Sequence

from other_load import wait_until_quiet
from paired import Block
from worker_process import Worker, WorkerError

_BLOCK_S = 0.1
_SLOW_S = 0.3
"""Inferences that take longer make a block of one, without uncounted ones before it."""
_UNCOUNTED = 2
_SETTLE_S = 0.04
"""Threads of the last runtime may spin for tens of milliseconds before they sleep."""


def measure(
    workers: Sequence[Worker], *, rounds: int, wait_s: float
) -> tuple[dict[str, dict[int, Block]], dict[str, str]]:
    """Blocks of every contestant by round, and why contestants dropped out.

    The order rotates each round: A B C, B C A, C A B.
    """
    failures: dict[str, str] = {}
    sizes = {}
    for worker in workers:
        try:
            sizes[worker] = _block_size(worker)
        except WorkerError as error:
            failures[worker.contestant.name] = error.seen
    blocks: dict[str, dict[int, Block]] = {w.contestant.name: {} for w in sizes}
    running = list(sizes)
    for index in range(rounds):
        first = index % max(1, len(running))
        for worker in running[first:] + running[:first]:
            time.sleep(_SETTLE_S)
            wait_until_quiet(wait_s)
            try:
                blocks[worker.contestant.name][index] = worker.block(*sizes[worker])
            except WorkerError as error:
                failures[worker.contestant.name] = error.seen
                del blocks[worker.contestant.name]
                running.remove(worker)
    return blocks, failures


def _block_size(worker: Worker) -> tuple[int, int]:
    """Counted and uncounted inferences of a block."""
    once_s = worker.block(3 if worker.started["first_s"] < _SLOW_S else 1, 0).wall_s
    if once_s > _SLOW_S:
        return 1, 0
    return max(2, round(_BLOCK_S / once_s)), _UNCOUNTED
