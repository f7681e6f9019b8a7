"""Searching spaces too large to write down, with MetaSchedule's evolution."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from tvm_iovt.schedules.tvm_api import meta_schedule
from tvm_iovt.tuning.cost_model import FAILED_S, CostModel
from tvm_iovt.tuning.proposal import Measured, Proposal, proposal_of
from tvm_iovt.tuning.tasks import Task

_UNLIMITED = 1 << 30
"""Trials: the budget is kept elsewhere."""

_SLOW_S = 0.6
"""A space is left when a schedule of it takes longer to propose, twice in a row: some functions of
several stages take TVM's rules half a minute, for schedules that are slow."""

_SLOW_TURNS = 2

_BARREN = 4
"""Generations without anything new, after which a space is taken to be exhausted."""


class EvolutionSearch:
    """A search by mutation of the fastest schedules.

    Populations are a twelfth of MetaSchedule's: with its own, a generation takes longer than
    measuring what comes of it.

    Args:
        task: What to search for.
        generator: MetaSchedule's space generator.
        spaces: What it generated, or some of it.
        model: Predicts.
        target: `tvm.target.Target`.
        history: Trials that were made already, by their keys.
        seed: Of the random numbers.
    """

    def __init__(
        self,
        task: Task,
        generator: Any,
        spaces: Sequence[Any],
        model: CostModel,
        target: Any,
        history: Mapping[str, Measured],
        seed: int,
    ) -> None:
        self._task = task
        self._model = model
        self._target = target
        self._known = set(history)
        self._generator = generator
        self._spaces = list(spaces)
        self._seed = seed
        self._database = meta_schedule.database.MemoryDatabase()
        self._workload = self._database.commit_workload(task.module)
        self._context: Any = None
        self._batch = 0
        self._ready: list[Proposal] = []
        self._slow_turns = 0
        for measured in history.values():
            if measured.schedule is not None:
                self._commit(measured.schedule, measured.seconds)

    def propose(self, count: int) -> list[Proposal]:
        """See `proposal.Search`."""
        if self._slow_turns >= _SLOW_TURNS:
            return []
        began_s = time.monotonic()
        found = self._generated(count)
        slow = time.monotonic() - began_s > _SLOW_S * max(len(found), 1)
        self._slow_turns = self._slow_turns + 1 if slow else 0
        return found

    def _generated(self, count: int) -> list[Proposal]:
        strategy = self._strategy(count)
        found = self._ready
        barren = 0
        while len(found) < count and barren < _BARREN:
            try:
                candidates = strategy.generate_measure_candidates()
            except Exception:  # TVM raises plain and unrelated classes where its rules do not fit
                break
            if not candidates:
                break
            new = 0
            for candidate in candidates:
                proposal = proposal_of(self._task, candidate.sch)
                if proposal.trial.key not in self._known:
                    self._known.add(proposal.trial.key)
                    found.append(proposal)
                    new += 1
            barren = 0 if new else barren + 1
        self._ready = found[count:]
        return found[:count]

    def tell(self, proposal: Proposal, seconds: float | None) -> None:
        """See `proposal.Search`."""
        if proposal.schedule is not None:
            self._commit(proposal.schedule, seconds)

    def _commit(self, schedule: Any, seconds: float | None) -> None:
        infos = meta_schedule.arg_info.ArgInfo.from_prim_func(self._task.module["main"])
        self._database.commit_tuning_record(
            meta_schedule.database.TuningRecord(
                schedule.trace,
                self._workload,
                [FAILED_S if seconds is None else seconds],
                self._target,
                infos,
            )
        )

    def _strategy(self, count: int) -> Any:
        """The running search; another one if it is to propose another number."""
        if self._context is not None and self._batch == count:
            return self._context.search_strategy
        self._batch = count
        strategy = meta_schedule.search_strategy.EvolutionarySearch(
            population_size=40,
            init_measured_ratio=0.25,
            init_min_unmeasured=16,
            max_fail_count=4,
            genetic_num_iters=2,
            genetic_mutate_prob=0.85,
            genetic_max_fail_count=8,
            eps_greedy=0.1,
        )
        self._context = meta_schedule.TuneContext(
            self._task.module,
            target=self._target,
            space_generator=self._generator,
            search_strategy=strategy,
            rand_state=self._seed,
            num_threads=1,
            logger=None,
        )
        self._context.pre_tuning(
            max_trials=_UNLIMITED,
            num_trials_per_iter=count,
            design_spaces=self._spaces,
            database=self._database,
            cost_model=self._model.stock,
        )
        return self._context.search_strategy
