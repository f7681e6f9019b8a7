"""Predicting which of several schedules is fast, learnt from those that were measured."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from tvm_iovt.errors import UsageError
from tvm_iovt.schedules.tvm_api import meta_schedule

XGBOOST, RANDOM = "xgb", "random"
NAMES = (XGBOOST, RANDOM)

WARMUP = 64
"""Measured schedules before predictions are better than chance."""

FAILED_S = 1e10
"""MetaSchedule's time of a schedule that failed."""


def check_cost_model(name: str) -> None:
    """Whether a cost model can be used here.

    Raises:
        UsageError: There is none of that name, or its packages are missing.
    """
    if name not in NAMES:
        raise UsageError(f"There is no cost model {name!r}", do=f"use one of: {', '.join(NAMES)}")
    if name == XGBOOST and importlib.util.find_spec("xgboost") is None:
        raise UsageError(
            "The cost model needs the package xgboost",
            seen="it is not installed",
            do="pip install 'tvm-iovt[tune]', or search at random with --cost-model random",
        )


class CostModel:
    """Scores of schedules: higher is faster. One model serves all tasks of a device.

    Args:
        name: `XGBOOST` (gradient-boosted trees over the features of each store, as in Ansor, arXiv
            2006.06762) or `RANDOM`.
        target: `tvm.target.Target` of the schedules.
        threads: For training.
    """

    def __init__(self, name: str, target: Any, threads: int = 1) -> None:
        check_cost_model(name)
        self._target = target
        self._contexts: dict[str, Any] = {}
        kind = meta_schedule.cost_model
        self.stock: Any = (
            kind.XGBModel(num_warmup_samples=WARMUP, num_tuning_cores=threads)
            if name == XGBOOST
            else kind.RandomModel()
        )

    def learn(
        self, workload: str, module: Any, schedules: Sequence[Any], seconds: Sequence[float | None]
    ) -> None:
        """Take measured times of schedules of one workload; None for one that failed.

        Args:
            workload: Its key.
            module: Its unscheduled module.
            schedules: TVM schedules.
            seconds: Of one call, in order.
        """
        if not schedules:
            return
        result = meta_schedule.runner.RunnerResult
        results = [
            result([FAILED_S], None) if s is None else result([float(s)], None) for s in seconds
        ]
        candidates = _candidates(module, schedules)
        self.stock.update(self._context(workload, module), candidates, results)

    def scores(self, workload: str, module: Any, schedules: Sequence[Any]) -> list[float]:
        """Scores of schedules of one workload, in order; random before there is enough to learn."""
        candidates = _candidates(module, schedules)
        predicted = self.stock.predict(self._context(workload, module), candidates)
        return [float(score) for score in predicted]

    def _context(self, workload: str, module: Any) -> Any:
        if workload not in self._contexts:
            self._contexts[workload] = meta_schedule.TuneContext(
                module, target=self._target, num_threads=1
            )
        return self._contexts[workload]


def _candidates(module: Any, schedules: Sequence[Any]) -> list[Any]:
    infos = meta_schedule.arg_info.ArgInfo.from_prim_func(module["main"])
    return [meta_schedule.MeasureCandidate(schedule, infos) for schedule in schedules]
