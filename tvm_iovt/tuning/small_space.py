"""Searching spaces that can be written down: the templates' have tens to hundreds of points.

Every point is a space and a decision for each of its samples. Predicted scores choose among random
points and the neighbours of the fastest ones; nothing is proposed twice, and the end is known.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm_iovt.schedules.tvm_api import Schedule, Trace
from tvm_iovt.tuning.cost_model import CostModel
from tvm_iovt.tuning.proposal import Measured, Proposal, best_first, proposal_of
from tvm_iovt.tuning.tasks import Task
from tvm_iovt.tuning.traces import trace_json, trial_key

MAX_POINTS = 4096
"""Larger spaces are searched by evolution."""

_SCORED = 32
"""Points to predict for one proposal of several."""

_PARENTS = 4
"""Fastest points whose neighbours are tried."""

_AT_RANDOM = 0.1
"""Share of the proposals that predictions have no part in."""

_SAMPLE = "SampleCategorical"


@dataclass(frozen=True, slots=True)
class _Point:
    space: int
    decisions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Realised:
    schedule: Any
    key: str


def points_of(spaces: Sequence[Any]) -> int | None:
    """How many points there are in spaces (schedules); None if they cannot be enumerated."""
    total = 0
    for space in spaces:
        for step in space.trace.insts:
            if str(step.kind.name).startswith("Sample") and str(step.kind.name) != _SAMPLE:
                return None
        total += math.prod(len(sample.attrs[0]) for sample in _samples(space))
    return total


class SmallSpaceSearch:
    """A search of spaces with a few thousand points at most.

    Args:
        task: What to search for.
        spaces: Schedules whose samples are all categorical.
        model: Predicts.
        history: Trials that were made already, by their keys.
        seed: Of the order.
    """

    def __init__(
        self,
        task: Task,
        spaces: Sequence[Any],
        model: CostModel,
        history: Mapping[str, Measured],
        seed: int,
    ) -> None:
        self._task = task
        self._spaces = spaces
        self._model = model
        self._history = history
        self._random = random.Random(seed)
        self._left = {
            _Point(index, decisions): None
            for index, space in enumerate(spaces)
            for decisions in itertools.product(*(range(len(s.attrs[0])) for s in _samples(space)))
        }
        self._fastest: list[tuple[float, _Point]] = []
        self._asked: dict[str, _Point] = {}
        self._seen: set[str] = set()
        self._realised: dict[_Point, _Realised] = {}

    def propose(self, count: int) -> list[Proposal]:
        """See `proposal.Search`."""
        found: list[_Point] = []
        for point in self._sample():
            if self._is_new(point):
                found.append(point)
                if len(found) >= max(_SCORED, count):
                    break
        if not found:
            return []
        scores = self._model.scores(
            self._task.workload.key,
            self._task.module,
            [self._realised[point].schedule for point in found],
        )
        order = best_first(scores)
        for turn in range(min(count, len(order))):
            if self._random.random() < _AT_RANDOM:
                other = self._random.randrange(turn, len(order))
                order[turn], order[other] = order[other], order[turn]
        proposals = []
        for point in (found[i] for i in order[:count]):
            del self._left[point]
            realised = self._realised.pop(point)
            self._seen.add(realised.key)
            self._asked[realised.key] = point
            proposals.append(proposal_of(self._task, realised.schedule))
        return proposals

    def tell(self, proposal: Proposal, seconds: float | None) -> None:
        """See `proposal.Search`."""
        point = self._asked.pop(proposal.trial.key, None)
        if point is not None:
            self._rank(point, seconds)

    def _rank(self, point: _Point, seconds: float | None) -> None:
        if seconds is not None:
            self._fastest = sorted([*self._fastest, (seconds, point)], key=lambda timed: timed[0])[
                :_PARENTS
            ]

    def _sample(self) -> Iterator[_Point]:
        """Points that are left: neighbours of the fastest, then others at random."""
        first = [p for _, parent in self._fastest for p in self._neighbours(parent)]
        rest = list(self._left)
        self._random.shuffle(first)
        self._random.shuffle(rest)
        yield from dict.fromkeys([*first[: _SCORED // 2], *rest])

    def _neighbours(self, point: _Point) -> Iterator[_Point]:
        """Points that differ in one decision."""
        for place, sample in enumerate(_samples(self._spaces[point.space])):
            for value in range(len(sample.attrs[0])):
                decisions = (*point.decisions[:place], value, *point.decisions[place + 1 :])
                other = _Point(point.space, decisions)
                if other in self._left:
                    yield other

    def _is_new(self, point: _Point) -> bool:
        """Whether a point gives a schedule that nobody has measured; forgets it if not."""
        realised = self._realised.get(point) or self._realise(point)
        if realised is not None and realised.key in self._history:
            self._rank(point, self._history[realised.key].seconds)
        elif realised is not None and realised.key not in self._seen:
            self._realised[point] = realised
            return True
        del self._left[point]
        self._realised.pop(point, None)
        return False

    def _realise(self, point: _Point) -> _Realised | None:
        """The schedule of a point; None if TVM refuses it."""
        space = self._spaces[point.space]
        trace = space.trace
        for sample, decision in zip(_samples(space), point.decisions, strict=True):
            trace = trace.with_decision(sample, decision, True)
        schedule = Schedule(self._task.module, debug_mask="none")
        try:
            Trace(trace.insts, trace.decisions).apply_to_schedule(schedule, remove_postproc=False)
        except Exception:  # TVM raises plain and unrelated classes
            return None
        key = trial_key(self._task.workload.key, trace_json(schedule.trace))
        return _Realised(schedule, key)


def _samples(space: Any) -> list[Any]:
    return [step for step in space.trace.insts if str(step.kind.name) == _SAMPLE]
