"""A stream of frames through one deployment, or through the best of several as times change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from tvm_iovt.pipelines.devices import Devices
from tvm_iovt.runtime.adaptation import Drift, PreparedCut
from tvm_iovt.runtime.adaptive_pipeline import AdaptivePipeline, Switch
from tvm_iovt.runtime.pipeline import Pipeline
from tvm_iovt.runtime.pipeline_stage import FrameResult, stages_of
from tvm_iovt.runtime.pipeline_statistics import PipelineStatistics, statistics
from tvm_iovt.runtime.timeline import Timeline
from tvm_iovt.types import Deployment, Manifest

QUEUE_FRAMES = 2
"""Frames that wait before each stage at most."""

Frames = Iterable[Mapping[str, np.ndarray]]


class Stream(Protocol):
    """What carries frames."""

    @property
    def deployment(self) -> Deployment:
        """Through which they go now."""

    @property
    def switches(self) -> Sequence[Switch]:
        """Changes from one deployment to another."""

    def run(self, frames: Frames) -> Iterator[FrameResult]:
        """See `Pipeline.run`."""

    def timeline(self) -> Timeline:
        """Since the frames go through this deployment."""

    def statistics(self) -> PipelineStatistics:
        """Of all frames; of the stages, since the frames go through this deployment."""


class FixedStream:
    """Through one deployment (`Stream`).

    Raises:
        IovtError: See `Devices.of`.
    """

    def __init__(
        self, devices: Devices, manifest: Manifest, deployment: Deployment, *, sequential: bool
    ) -> None:
        self.deployment = deployment
        self.switches: Sequence[Switch] = ()
        self._pipeline = _pipeline(devices, manifest, deployment, sequential=sequential)

    def run(self, frames: Frames) -> Iterator[FrameResult]:
        """See `Pipeline.run`."""
        return self._pipeline.run(frames)

    def timeline(self) -> Timeline:
        """Of the run."""
        return self._pipeline.timeline()

    def statistics(self) -> PipelineStatistics:
        """Of the run."""
        return self._pipeline.statistics()


class AdaptiveStream:
    """Through the best of several deployments (`Stream`).

    Args:
        devices: To run them on.
        manifest: Of the bundle.
        deployments: With predictions, see `places.prepared_deployments`.
        first: Name of the one to begin with; empty for the one with the best prediction.
        sequential: Whether latency counts, not rate.
        tell: Is told the changes.
    """

    def __init__(
        self,
        devices: Devices,
        manifest: Manifest,
        deployments: Sequence[Deployment],
        first: str,
        *,
        sequential: bool,
        tell: Callable[[str], None],
    ) -> None:
        self._deployments = tuple(deployments)
        self._tell = tell
        cuts = [PreparedCut.of(d.name, d.plan) for d in deployments]
        expected_s = [cut.latency_s if sequential else cut.period_s for cut in cuts]
        names = [d.name for d in deployments]
        current = names.index(first) if first else expected_s.index(min(expected_s))
        objective = "latency" if sequential else "throughput"
        self._drift = Drift(cuts, current, objective=objective)
        self._adaptive = AdaptivePipeline(
            self._drift,
            lambda cut: _pipeline(devices, manifest, deployments[cut], sequential=sequential),
        )

    @property
    def deployment(self) -> Deployment:
        """Through which the frames go now."""
        return self._deployments[self._drift.current]

    @property
    def switches(self) -> Sequence[Switch]:
        """Changes from one deployment to another."""
        return self._adaptive.switches

    def run(self, frames: Frames) -> Iterator[FrameResult]:
        """See `AdaptivePipeline.run`."""
        told = 0
        for result in self._adaptive.run(frames):
            for switch in self.switches[told:]:
                what = "changed" if switch.made else "did not change"
                self._tell(
                    f"frame {switch.frame}: {what} from {switch.before} to {switch.after}: "
                    f"{switch.reason}"
                )
            told = len(self.switches)
            yield result

    def timeline(self) -> Timeline:
        """Since the last change."""
        pipeline = self._adaptive.pipeline
        return pipeline.timeline() if pipeline else Timeline(stages=(), spans=(), length_s=0.0)

    def statistics(self) -> PipelineStatistics:
        """Of all frames; of the stages, since the last change."""
        return self._adaptive.statistics() or statistics((), self.timeline())


def _pipeline(
    devices: Devices, manifest: Manifest, deployment: Deployment, *, sequential: bool
) -> Pipeline:
    opened = devices.of(deployment)
    return Pipeline(
        stages_of(deployment.plan, lambda index: opened[index]),
        outputs=[spec.name for spec in manifest.outputs],
        inputs=manifest.inputs,
        queue_frames=QUEUE_FRAMES,
        sequential=sequential,
        interrupt=devices.kill,
    )
