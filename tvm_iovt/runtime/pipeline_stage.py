"""The parts that a pipeline is made of, what comes out of it, and how it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tvm_iovt.errors import DeviceError, IovtError, UsageError
from tvm_iovt.runtime.compiled_stage import first_line
from tvm_iovt.runtime.pipeline_statistics import FrameTiming
from tvm_iovt.runtime.stage_lane import StageDevice
from tvm_iovt.runtime.timeline_recorder import StageTimes
from tvm_iovt.types import PartitionPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineStage:
    """A device in the pipeline.

    Attributes:
        device: Runs the stage.
        inputs: Names of the tensors that it takes, from the caller or from stages before it.
        outputs: Names of those that it makes.
    """

    device: StageDevice
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameResult:
    """A frame that went through.

    Attributes:
        index: Number of the frame.
        outputs: Arrays by name, owned by the caller.
        timing: When it came and went.
        stages: What each stage needed for it, waiting left out.
    """

    index: int
    outputs: dict[str, np.ndarray]
    timing: FrameTiming
    stages: tuple[StageTimes, ...]

    @property
    def latency_s(self) -> float:
        """Seconds from when the source had delivered the frame to its outputs."""
        return self.timing.latency_s


class StageError(DeviceError):
    """A stage of a pipeline failed.

    Attributes:
        stage: Index of the stage.
        frame: Number of the frame that it worked on; None while it was opened or closed.
    """

    def __init__(self, stage: int, frame: int | None, what: str, *, seen: str, do: str) -> None:
        super().__init__(what, seen=seen, do=do)
        self.stage = stage
        self.frame = frame


def stage_failed(
    stages: Sequence[PipelineStage], stage: int, doing: str, frame: int | None, cause: BaseException
) -> StageError:
    """The error that reaches the caller, chained to its cause."""
    where = "" if frame is None else f" frame {frame}"
    seen, do = first_line(cause), "check the device; frames that were finished before are valid"
    if isinstance(cause, IovtError):
        seen = f"{cause.what}; {cause.seen}" if cause.seen else cause.what
        do = cause.do or do
    elif not isinstance(cause, TimeoutError):
        seen = f"{type(cause).__name__}: {seen}"
    name = stages[stage].device.name
    failed = StageError(
        stage, frame, f"{_capital(name)} failed to {doing}{where}", seen=seen, do=do
    )
    failed.__cause__ = cause
    return failed


def needed_inputs(stages: Sequence[PipelineStage], outputs: Sequence[str]) -> tuple[str, ...]:
    """Names of the tensors that a caller has to give with each frame.

    Raises:
        UsageError: A pipeline of these stages cannot work.
    """
    if not stages or not outputs:
        raise UsageError("A pipeline needs at least one stage and one output")
    makers: dict[str, int] = {}
    for index, stage in enumerate(stages):
        for name in stage.outputs:
            if name in makers:
                raise UsageError(
                    f"Two stages of a pipeline make {name}", seen=f"stages {makers[name]}, {index}"
                )
            makers[name] = index
    needed: dict[str, None] = {}
    for index, stage in enumerate(stages):
        for name in stage.inputs:
            if makers.get(name, -1) >= index:
                raise UsageError(
                    f"Stage {index} of a pipeline takes {name} before it is made",
                    seen=f"stage {makers[name]} makes it",
                )
            if name not in makers:
                needed[name] = None
    needed |= dict.fromkeys(name for name in outputs if name not in makers)
    return tuple(needed)


def kept_names(
    stages: Sequence[PipelineStage], outputs: Sequence[str]
) -> tuple[frozenset[str], ...]:
    """Of each stage: the tensors that stages behind it or the caller take."""
    kept = []
    later = frozenset(outputs)
    for stage in reversed(stages):
        kept.append(later)
        later |= frozenset(stage.inputs)
    return tuple(reversed(kept))


def stages_of(plan: PartitionPlan, make: Callable[[int], StageDevice]) -> tuple[PipelineStage, ...]:
    """The stages of a plan.

    Args:
        plan: A deployment's.
        make: Gives the device of a stage, by the stage's index.
    """
    return tuple(
        PipelineStage(
            device=make(stage.index),
            inputs=tuple(spec.name for spec in stage.inputs),
            outputs=tuple(spec.name for spec in stage.outputs),
        )
        for stage in plan.stages
    )


def check_names(needed: Sequence[str], frame: object, index: int) -> None:
    """Whether a frame has what a pipeline needs.

    Raises:
        UsageError: It has not.
    """
    if not isinstance(frame, Mapping):
        raise UsageError(
            f"Frame {index} is no mapping of names to arrays", seen=type(frame).__name__
        )
    missing = [name for name in needed if name not in frame]
    if missing:
        raise UsageError(
            f"Frame {index} lacks inputs",
            seen=f"no {', '.join(missing)} among {', '.join(map(str, frame)) or 'nothing'}",
        )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
