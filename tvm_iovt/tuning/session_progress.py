"""How fast a run goes, how far it has come, and when it will end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

_RATE_WINDOW_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """When to stop; what is None does not limit.

    Attributes:
        trials: In all, those of earlier parts of the run included.
        time_s: Likewise.
    """

    trials: int | None
    time_s: float | None


class Clock:
    """The time of a run, by a clock that never jumps.

    Args:
        budget: Of the run.
        spent_s: Seconds that earlier parts of it took.
    """

    def __init__(self, budget: Budget, spent_s: float) -> None:
        self._budget = budget
        self._spent_s = spent_s
        self._began_s = time.monotonic()
        self._finished_s: deque[float] = deque()

    @property
    def elapsed_s(self) -> float:
        """Seconds of this part of the run."""
        return time.monotonic() - self._began_s

    def is_spent(self, trials: int) -> bool:
        """Whether a run that has asked for so many trials must ask for no more."""
        budget = self._budget
        if budget.trials is not None and trials >= budget.trials:
            return True
        return budget.time_s is not None and self._spent_s + self.elapsed_s >= budget.time_s

    def count(self) -> None:
        """A trial came back."""
        now_s = time.monotonic()
        self._finished_s.append(now_s)
        while now_s - self._finished_s[0] > _RATE_WINDOW_S:
            self._finished_s.popleft()

    @property
    def trials_per_s(self) -> float:
        """Over the last half minute."""
        return len(self._finished_s) / min(max(self.elapsed_s, 1e-3), _RATE_WINDOW_S)

    def left_s(self, done: int) -> float:
        """Seconds until the budget is spent, at the present rate.

        Args:
            done: Trials made.
        """
        left = []
        if self._budget.trials is not None:
            left.append((self._budget.trials - done) / max(self.trials_per_s, 1e-9))
        if self._budget.time_s is not None:
            left.append(max(self._budget.time_s - self._spent_s - self.elapsed_s, 0.0))
        return min(left) if left else 0.0


def network_s(weighted: Sequence[tuple[int, float | None]]) -> float | None:
    """Seconds of a network: weights times seconds of its kernels; None if one is not known."""
    total_s = 0.0
    for weight, seconds in weighted:
        if seconds is None:
            return None
        total_s += weight * seconds
    return total_s
