"""Which kernel to spend the next trials on: the one that promises the network the most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

NEAR_BOUND = 0.95
"""A kernel that reaches this share of the measured roofline is done."""

MAX_FAILURES = 24
"""Trials in a row that may fail before a kernel is given up."""

_WINDOW = 16
"""Trials to look back for improvements."""

_MEMORY = 0.7
"""How much past improvements count against what is left up to the roofline."""


@dataclass(slots=True)
class Effort:
    """What was spent on a kernel, and what it brought.

    Attributes:
        weight: Calls of the kernel in one run of the network.
        bound_s: Least seconds of one call; 0 if unknown.
        trials: Made and told.
        valid: With a time.
        failures: In a row.
        best_s: Fastest, None before there is one.
        given_up: Why nothing more can be tried; empty while something can.
    """

    weight: int
    bound_s: float = 0.0
    trials: int = 0
    valid: int = 0
    failures: int = 0
    best_s: float | None = None
    given_up: str = ""
    _bests_s: list[float] = field(default_factory=list)

    def tell(self, seconds: float | None) -> None:
        """Count a trial; None if it failed."""
        self.trials += 1
        if seconds is None:
            self.failures += 1
            if self.failures >= MAX_FAILURES and not self.given_up:
                self.given_up = f"{self.failures} schedules in a row failed"
        else:
            self.failures = 0
            self.valid += 1
            self.best_s = seconds if self.best_s is None else min(self.best_s, seconds)
        if self.best_s is not None:
            self._bests_s.append(self.best_s)

    @property
    def ended(self) -> str:
        """Why nothing more is to be tried; empty while something is."""
        if self.given_up:
            return self.given_up
        if self.best_s is not None and self.best_s * NEAR_BOUND <= self.bound_s:
            return f"it reaches {self.bound_s / self.best_s:.0%} of the measured roofline"
        return ""

    @property
    def promise_s(self) -> float:
        """Seconds that one more trial may save in a run of the network; infinite if untried.

        The gradient of Ansor's task scheduler (arXiv 2006.06762, section 6), with the measured
        roofline as the limit of what is possible.
        """
        if self.ended:
            return 0.0
        if self.best_s is None:
            return float("inf")
        past = self._bests_s[-_WINDOW:]
        gained = (past[0] - past[-1]) / len(past)
        left = min(self.best_s / self.trials, self.best_s - self.bound_s)
        return self.weight * (_MEMORY * gained + (1 - _MEMORY) * left)


def most_promising(efforts: Sequence[Effort], asked: Sequence[int]) -> int | None:
    """Index of the kernel to spend the next trials on; None if all have ended.

    Args:
        efforts: Of the kernels.
        asked: Trials of each that are under way: they count as made without success.
    """
    open_ones = [i for i, effort in enumerate(efforts) if not effort.ended]
    if not open_ones:
        return None

    def key(i: int) -> tuple[float, int]:
        effort = efforts[i]
        promise_s = effort.promise_s
        made = max(effort.trials, 1)
        if promise_s == float("inf"):
            return promise_s, -asked[i]
        return promise_s * made / (made + asked[i]), -i

    return max(open_ones, key=key)
