"""What tables and pages show of a partition plan, worked out once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tvm_iovt.cost_graph import CostGraph, Unit
from tvm_iovt.report.units import counted, format_percent, format_seconds
from tvm_iovt.types import PartitionPlan, Prediction, Stage, StagePrediction, TargetSpec

# ruff: noqa: D102 (the attributes of PlanLike are documented where they are defined)

OBJECTIVES = {
    "whole": "the whole network on one target",
    "cuts": "the cuts that were stated",
    "latency": "least latency",
    "throughput": "most frames a second",
    "memory": "latency against memory",
    "energy": "least energy",
    "paper": "the published formula",
    "pareto": "latency against use of the edge's memory",
}
SOURCES = {
    "measured": "unit times measured on the devices",
    "calibrated": "unit times predicted by a model fitted to measurements of the devices",
    "datasheet": "unit times predicted from datasheets",
    "assumed": "unit times predicted from assumptions: nobody measured the devices",
}
Times = Sequence[Sequence[float]]
"""Seconds `[target][unit]`; infinite where a target cannot run a unit."""

_ABOUT = 0.02  # relative: sums of predictions are equal up to rounding


class PlanLike(Protocol):
    """A plan with what it was made from; a plan file is one."""

    @property
    def model_name(self) -> str: ...
    @property
    def targets(self) -> Sequence[TargetSpec]: ...
    @property
    def graph(self) -> CostGraph: ...
    @property
    def unit_s(self) -> Sequence[Sequence[float]]: ...
    @property
    def measured(self) -> Sequence[Sequence[float]]: ...
    @property
    def plan(self) -> PartitionPlan: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StageView:
    """A stage with all that is known of it.

    Attributes:
        stage: Of the plan.
        units: In the order of the graph; empty without a graph.
        prediction: None for a network that was not planned.
        share: Of the period that its kernels take; 0 without a prediction.
        spec: Of its target; None if that is not known.
    """

    stage: Stage
    units: tuple[Unit, ...]
    prediction: StagePrediction | None
    share: float
    spec: TargetSpec | None = None

    @property
    def flops(self) -> int:
        """Of one frame."""
        return sum(unit.flops for unit in self.units)

    @property
    def bytes_weights(self) -> int:
        """Of all its units."""
        return sum(unit.bytes_weights for unit in self.units)

    @property
    def threads(self) -> str:
        """`2 threads`; of a GPU, what it is."""
        if self.spec is not None and self.spec.gpu is not None:
            return f"{self.spec.gpu.kind} {self.spec.gpu.arch}"
        return counted(self.stage.threads, "thread") if self.stage.threads else "all threads"

    @property
    def ends(self) -> tuple[str, str]:
        """Names of its first and its last unit; empty if they are not known."""
        names = self.stage.units or tuple(unit.name for unit in self.units)
        return (names[0], names[-1]) if names else ("", "")

    @property
    def count(self) -> int:
        """Of its units; 0 if they are not known."""
        return len(self.stage.units) or len(self.units)


def stage_views(
    plan: PartitionPlan, graph: CostGraph | None, targets: Sequence[TargetSpec] = ()
) -> tuple[StageView, ...]:
    """The stages of a plan in the order in which they run."""
    specs = {spec.name: spec for spec in targets}
    stage_of = unit_stages(plan, graph) if graph is not None else ()
    units = graph.units if graph is not None else ()
    prediction = plan.prediction
    views = []
    for place, stage in enumerate(plan.stages):
        expected = prediction.stages[place] if prediction is not None else None
        period_s = prediction.period_s if prediction is not None else 0.0
        views.append(
            StageView(
                stage=stage,
                units=tuple(u for u, at in zip(units, stage_of, strict=True) if at == place),
                prediction=expected,
                share=expected.compute_s / period_s if expected and period_s > 0 else 0.0,
                spec=specs.get(stage.target),
            )
        )
    return tuple(views)


def unit_stages(plan: PartitionPlan, graph: CostGraph) -> tuple[int, ...]:
    """Which stage of the plan runs each unit of the graph; -1 for a unit that none names."""
    if len(plan.stages) == 1 and not plan.stages[0].units:
        return (0,) * len(graph.units)
    place_of = {name: place for place, stage in enumerate(plan.stages) for name in stage.units}
    return tuple(place_of.get(unit.name, -1) for unit in graph.units)


def sets_period(prediction: Prediction) -> str:
    """What no more frames a second come past, in words; empty if it is no single part."""
    parts = [
        (seconds, text)
        for index, stage in enumerate(prediction.stages)
        for seconds, text in (
            (stage.compute_s, f"the work of stage {index}"),
            (stage.receive_s, f"the transfer to stage {index}"),
            (stage.send_s, f"the transfer from stage {index} to the caller"),
        )
    ]
    parts.append((prediction.memory_s, "the memory that stages share"))
    near = [text for seconds, text in parts if _is_about(seconds, prediction.period_s)]
    return " and ".join(near[:2])


def with_band(text: str, prediction: Prediction) -> str:
    """A number with its noise band: `12.3 ms +-8.0%`."""
    return f"{text} +-{format_percent(prediction.noise)}" if prediction.noise else text


def frames_per_s(period_s: float) -> str:
    """`0.04` -> `25.0 frames/s`."""
    if period_s <= 0 or not math.isfinite(period_s):
        return "-"
    rate = 1 / period_s
    digits = 0 if rate >= 99.95 else 1 if rate >= 9.995 else 2
    return f"{rate:.{digits}f} frames/s"


def source_words(prediction: Prediction) -> str:
    """Where the numbers of a prediction come from."""
    return SOURCES.get(prediction.source, prediction.source)


def objective_words(plan: PartitionPlan) -> str:
    """What the plan was made for."""
    words = OBJECTIVES.get(plan.objective)
    return f"{plan.objective}: {words}" if words else plan.objective


def memory_by_target(
    plan: PartitionPlan, targets: Sequence[TargetSpec]
) -> tuple[tuple[str, int, int], ...]:
    """Name, predicted bytes and allowed bytes (0: any amount) of every target with a stage."""
    if plan.prediction is None:
        return ()
    allowed = {target.name: target.memory_bytes for target in targets}
    used: dict[str, int] = {}
    for stage, expected in zip(plan.stages, plan.prediction.stages, strict=True):
        used[stage.target] = used.get(stage.target, 0) + expected.memory_bytes
    return tuple((name, nbytes, allowed.get(name, 0)) for name, nbytes in used.items())


def known_time(times: Sequence[Sequence[float]], target: int, unit: int) -> float | None:
    """A time of a table `[target][unit]` that may have gaps; None where it has none."""
    if target >= len(times) or unit >= len(times[target]):
        return None
    seconds = times[target][unit]
    return seconds if math.isfinite(seconds) and seconds > 0 else None


def format_ratio(value_s: float, chosen_s: float) -> str:
    """`12.3 ms 1.31x`: a time and how many times that of the chosen plan it is."""
    if not math.isfinite(value_s):
        return "-"
    if chosen_s <= 0:
        return format_seconds(value_s)
    return f"{format_seconds(value_s)} {value_s / chosen_s:.2f}x"


def _is_about(seconds: float, wanted_s: float) -> bool:
    return seconds > 0 and abs(seconds - wanted_s) <= _ABOUT * wanted_s
