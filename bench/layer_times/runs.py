"""Inferences in blocks, of which only those count that nothing else disturbed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from peers.other_load import CLEAN_CORES, CpuTime, other_cores

_BLOCK_S = 0.1
_UNCOUNTED = 2
"""Inferences at the start of a block, with cold caches."""

_ENOUGH = 3
"""Clean blocks that are enough; with fewer, the quietest quarter stands in."""

_BUSY_QUANTILE = 0.2
"""Of runs that may have been interrupted, in place of the median."""

T = TypeVar("T")


@dataclass
class Runs(Generic[T]):
    """The inferences of one way to run the network.

    Attributes:
        run: Runs it once and returns what is kept of the run.
        loads: Cores that everything else used, by block.
    """

    run: Callable[[], T]
    loads: list[float] = field(default_factory=list)
    _blocks: list[list[T]] = field(default_factory=list)
    _count: int = 0

    def block(self) -> None:
        """Run about 0.1 s of inferences."""
        if not self._count:
            self.run()  # allocates memory
            began_s = time.perf_counter()
            self.run()
            self._count = max(2, round(_BLOCK_S / (time.perf_counter() - began_s)))
        before, began_s, own_s = CpuTime.now(), time.perf_counter(), time.process_time()
        kept = [self.run() for _ in range(_UNCOUNTED + self._count)]
        own_s, elapsed_s = time.process_time() - own_s, time.perf_counter() - began_s
        self.loads.append(other_cores(before, CpuTime.now(), own_s, elapsed_s))
        self._blocks.append(kept[_UNCOUNTED:])

    @property
    def clean(self) -> int:
        """Number of clean blocks."""
        return sum(load < CLEAN_CORES for load in self.loads)

    @property
    def quantile(self) -> float:
        """Which quantile of the runs that count tells how long one takes."""
        return 0.5 if self.clean >= _ENOUGH else _BUSY_QUANTILE

    def undisturbed(self) -> list[T]:
        """What was kept of the runs that count."""
        order = sorted(range(len(self.loads)), key=self.loads.__getitem__)
        count = self.clean if self.clean >= _ENOUGH else max(_ENOUGH, len(order) // 4)
        return [one for index in order[:count] for one in self._blocks[index]]
