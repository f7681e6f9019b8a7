"""What a stage of a pipeline on this machine costs for a frame beside its kernels.

A pipeline of two stages, the one that `run` uses, carries frames through two copies of a small
network. What its period is longer than the kernels is the cost of a stage: being handed the frame,
calling the network, handing its outputs on, and the other threads of the process in the way. The
network must compute for some time: in a pipeline whose stages do nothing, a thread carries several
frames before another one has to wake, so that a stage seems to cost a third.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_iovt.runtime.compiled_stage import CompiledStage
from tvm_iovt.runtime.local_stage import LocalLane
from tvm_iovt.runtime.pipeline import Pipeline
from tvm_iovt.runtime.pipeline_stage import FrameResult, PipelineStage
from tvm_iovt.runtime.stage_lane import StageLane
from tvm_iovt.types import Stage, TargetSpec, TensorSpec

STAGES = 2
_FRAMES, _BLOCKS = 140, 24
_FIRST = 20
"""Frames of a block that do not count: the pipeline fills, and the caches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A compiled network, from a tensor to one of the same shape.

    Attributes:
        library: The module of its executable.
        shape: Of its input and output.
    """

    library: Any
    shape: tuple[int, ...]


def stage_seconds(network: Network, spec: TargetSpec, ffi: Any) -> tuple[float, float]:
    """Seconds that a stage costs for a frame beside its kernels, and their relative spread.

    Args:
        network: What both stages run.
        spec: This machine's CPU, that it was compiled for.
        ffi: The module `tvm_ffi`.
    """
    frame = {"t0": np.ones(network.shape, np.float32)}
    with _pipeline(network, spec, ffi) as pipeline:
        blocks = [tuple(pipeline.run(itertools.repeat(frame, _FRAMES))) for _ in range(_BLOCKS)]
    return undisturbed([beside_kernels_s(block[_FIRST:]) for block in blocks])


def beside_kernels_s(results: Sequence[FrameResult]) -> float:
    """The mean period of some frames without the kernels of the slower stage.

    The lower quartile of a stage's computing counts as its kernels: the other times hold waiting
    for the interpreter, which other threads have when the kernels are done.

    Args:
        results: Of frames that followed each other; at least two.
    """
    finished_s = [result.timing.finished_s for result in results]
    kernels_s: float = max(
        statistics.quantiles(times, n=4)[0]
        for times in zip(*([s.compute_s for s in r.stages] for r in results), strict=True)
    )
    period_s = (finished_s[-1] - finished_s[0]) / (len(results) - 1)
    return max(period_s - kernels_s, 0.0)


def undisturbed(found_s: Sequence[float]) -> tuple[float, float]:
    """The least of them, and how far the lower quartile is above it, relative.

    Other programs make a run longer, and only that.
    """
    least_s = min(found_s)
    low_s, _, _ = statistics.quantiles(found_s, n=4)
    return least_s, max(low_s - least_s, 0.0) / least_s if least_s else 0.0


def _pipeline(network: Network, spec: TargetSpec, ffi: Any) -> Pipeline:
    names = [f"t{i}" for i in range(STAGES + 1)]
    tensors = [TensorSpec(name=name, shape=network.shape, dtype="float32") for name in names]
    stages = [
        PipelineStage(
            device=_Place(network.library, spec, ffi, index, source, result),
            inputs=(source.name,),
            outputs=(result.name,),
        )
        for index, (source, result) in enumerate(itertools.pairwise(tensors))
    ]
    return Pipeline(stages, names[-1:], inputs=tensors[:1])


class _Place:
    """The network as a stage; a `StageDevice`. Its kernels run in the lane's own thread."""

    lanes = 1

    def __init__(
        self,
        library: Any,
        spec: TargetSpec,
        ffi: Any,
        index: int,
        source: TensorSpec,
        result: TensorSpec,
    ) -> None:
        self.name = f"stage {index}"
        self._library, self._spec, self._ffi = library, spec, ffi
        self._stage = Stage(index=index, target=spec.name, inputs=(source,), outputs=(result,))

    def open_lane(self) -> StageLane:
        machine = CompiledStage(self._stage, self._spec, self._library, self._ffi)
        return LocalLane(machine, self._ffi)
