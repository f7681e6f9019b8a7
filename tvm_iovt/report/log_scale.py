"""Logarithmic axes: where a value lies, and which powers of ten are marked."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_FEW = 3  # powers of ten that mark an axis well enough


@dataclass(frozen=True, slots=True, kw_only=True)
class LogScale:
    """Positive values from `low` to `high`, drawn from `start` to `end`; beyond, at the ends.

    Attributes:
        low: Least value, above zero.
        high: Largest value, above `low`.
        start: Where `low` lies, in units of the chart.
        end: Where `high` lies; below `start` on an axis that points up.
    """

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Where a value lies."""
        inside = min(max(value, self.low), self.high)
        share = math.log(inside / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def marks(self) -> tuple[float, ...]:
        """Powers of ten on the axis: every second one if they are many, 2 and 5 if they are few."""
        first = math.ceil(math.log10(self.low) - 1e-9)
        last = math.floor(math.log10(self.high) + 1e-9)
        if last - first >= _FEW - 1:
            return tuple(10.0**power for power in range(first, last + 1, 1 + (last - first) // 8))
        every = (
            factor * 10.0**power for power in range(first - 1, last + 1) for factor in (1, 2, 5)
        )
        return tuple(value for value in every if self.low <= value <= self.high)


def spanning(values: Iterable[float], *, least: float = 10.0) -> tuple[float, float]:
    """Ends of an axis that shows all values with some room, and not less than a ratio `least`.

    Args:
        values: At least one, all positive.
        least: Ratio of the ends that the axis has at any rate.
    """
    known = list(values)
    low, high = min(known) / 1.5, max(known) * 1.5
    missing = least / (high / low)
    if missing > 1:
        low, high = low / math.sqrt(missing), high * math.sqrt(missing)
    return low, high
