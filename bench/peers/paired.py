"""From blocks to medians and ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from other_load import CLEAN_CORES

T = TypeVar("T")

_ENOUGH = 3
"""Clean blocks that a median needs; with fewer, the quietest quarter stands in."""


@dataclass(frozen=True)
class Block:
    """About 0.1 s of inferences of one contestant: medians, and the load of everything else."""

    wall_s: float
    cpu_s: float
    other_cores: float

    @property
    def is_clean(self) -> bool:
        return self.other_cores < CLEAN_CORES


Blocks = Mapping[int, Block]
"""The blocks of one contestant by the round in which they ran."""


@dataclass(frozen=True)
class Latency:
    """Of one contestant.

    Attributes:
        median_s: CPU time with one thread, wall time with more.
        clean: Number of clean blocks.
        blocks: Number of all blocks.
        is_noisy: Wall time that too few clean blocks stand behind.
    """

    median_s: float
    clean: int
    blocks: int
    is_noisy: bool


@dataclass(frozen=True)
class Ratio:
    """Time of one contestant over that of another, block by block of the same round."""

    median: float
    p10: float
    p90: float
    pairs: int
    is_noisy: bool


def latency(blocks: Blocks, threads: int) -> Latency:
    """The median of the blocks that count."""
    found, is_noisy = _steady(list(blocks.values()), lambda block: block.other_cores)
    if threads == 1 and is_noisy:
        # CPU time of one thread is valid on a busy machine too.
        found, is_noisy = list(blocks.values()), False
    return Latency(
        median_s=statistics.median(_time_s(block, threads) for block in found),
        clean=sum(block.is_clean for block in blocks.values()),
        blocks=len(blocks),
        is_noisy=is_noisy,
    )


def ratio(ours: Blocks, theirs: Blocks, threads: int) -> Ratio:
    """The median of the paired ratios, and the band that eight of ten lie in."""
    pairs = [(ours[index], theirs[index]) for index in sorted(ours) if index in theirs]
    is_noisy = False
    if threads > 1:
        pairs, is_noisy = _steady(pairs, lambda pair: max(block.other_cores for block in pair))
    ratios = sorted(_time_s(a, threads) / _time_s(b, threads) for a, b in pairs)
    return Ratio(
        median=statistics.median(ratios),
        p10=ratios[len(ratios) // 10],
        p90=ratios[-1 - len(ratios) // 10],
        pairs=len(ratios),
        is_noisy=is_noisy,
    )


def geometric_mean(ratios: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, ratios)))


def _steady(items: Sequence[T], other_cores: Callable[[T], float]) -> tuple[list[T], bool]:
    """The clean items, else the quietest quarter; whether it is the latter."""
    clean = [item for item in items if other_cores(item) < CLEAN_CORES]
    if len(clean) >= _ENOUGH:
        return clean, False
    by_load = sorted(items, key=other_cores)
    return by_load[: max(_ENOUGH, len(items) // 4)], len(clean) < len(items)


def _time_s(block: Block, threads: int) -> float:
    return block.cpu_s if threads == 1 else block.wall_s
