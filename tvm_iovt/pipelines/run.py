"""`run_pipeline`: a bundle on a stream of frames, its stages at work at the same time."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvm_iovt import bundle as bundles
from tvm_iovt import images
from tvm_iovt.boards.session import BoardRequest
from tvm_iovt.errors import BundleError, IovtError, UsageError
from tvm_iovt.frames import FrameSource, open_frames
from tvm_iovt.frames.opening import SAMPLE
from tvm_iovt.pipelines.devices import Devices
from tvm_iovt.pipelines.frame_store import FrameStore
from tvm_iovt.pipelines.places import choose_deployment, prepared_deployments
from tvm_iovt.pipelines.streams import AdaptiveStream, FixedStream, Stream
from tvm_iovt.runtime import libtvm
from tvm_iovt.runtime.adaptive_pipeline import Switch
from tvm_iovt.runtime.pipeline_statistics import PipelineStatistics
from tvm_iovt.runtime.timeline import Timeline
from tvm_iovt.types import Deployment, Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineOutcome:
    """What a run of a pipeline came to.

    Attributes:
        model_name: Of the bundle.
        deployment: That ran; the last one, if the run has adapted.
        places: Where each of its stages ran, in words.
        source: Of the frames, as a user named it.
        sequential: Whether a frame entered only when the one before it had left.
        frames: That were finished, in order, from the first one.
        statistics: Frame rate, latencies and occupancy.
        timeline: When each stage of `deployment` did what.
        switches: Changes from one deployment to another, of a run that adapts.
        outputs: Folder of the finished frames' outputs; None if none was asked for.
        written: Frames in it: all, unless it could not be written.
    """

    model_name: str
    deployment: Deployment
    places: tuple[str, ...]
    source: str
    sequential: bool
    frames: int
    statistics: PipelineStatistics
    timeline: Timeline
    switches: tuple[Switch, ...]
    outputs: Path | None
    written: int

    @property
    def kept(self) -> str:
        """How many frames are done and where they are, in words."""
        return _kept(self.frames, self.outputs, self.written)


class PipelineError(IovtError):
    """An error in the middle of a run; what was finished before it is kept.

    Attributes:
        outcome: Of the frames before it.
    """

    def __init__(self, cause: IovtError, outcome: PipelineOutcome) -> None:
        super().__init__(
            cause.what, seen=cause.seen, do=f"{outcome.kept}; {cause.do or 'then try again'}"
        )
        self.outcome = outcome
        self.exit_code = cause.exit_code


def run_pipeline(
    path: Path,
    source: str,
    *,
    target: str = "",
    boards: Mapping[str, BoardRequest] | None = None,
    sequential: bool = False,
    adapt: bool = False,
    preprocess: str = "",
    threads: int | None = None,
    cpus: Sequence[int] | None = None,
    output: Path | None = None,
    limit: int | None = None,
    progress: Callable[[str], None] = lambda message: None,
    count: Callable[[int, int], None] = lambda done, total: None,
) -> PipelineOutcome:
    """Run a bundle on a stream of frames.

    Args:
        path: The bundle.
        source: See `open_frames`.
        target: Name of the deployment; by default the one all of whose stages have a place, or of
            several the one whose predicted rate (or latency, if `sequential`) is best.
        boards: By the names of targets: the boards that run their stages.
        sequential: Have one frame under way at a time, for its latency; else as many as the stages
            can work on, for the frame rate.
        adapt: Change to another deployment of the bundle while it runs, where measured times show
            that it is better; `target` is the first one then.
        preprocess: Name of an image preset, over the bundle's own.
        threads: Of each CPU stage on this machine, over the plan.
        cpus: To divide among those stages, see `places.share_cpus`.
        output: Folder for the outputs, see `FrameStore`; without it they are dropped.
        limit: Frames to run at most.
        progress: Is told the steps; those of a change by another thread.
        count: Is told the frames that are done, and those that there are: 0 if unknown.

    Returns:
        What came out. On KeyboardInterrupt, too, finished frames are kept; it is raised again.

    Raises:
        PipelineError: A stage, a board or the source failed when a frame was done already.
        BundleError: The bundle is damaged, or none or several of its deployments can be run.
        DeviceError: A board or device cannot be used.
        UsageError: The source does not exist or does not fit, or another argument is wrong.
    """
    if limit is not None and limit < 1:
        raise UsageError(
            "There must be at least one frame",
            seen=f"a limit of {limit}",
            do="give --limit a positive number, or leave it out for all frames",
        )
    manifest = bundles.read_manifest(path)
    packed = path / "lib"
    libtvm.check_versions(manifest.tvm_version, manifest.tvm_ffi_version, packed)
    ffi = libtvm.load(packed)
    requests = dict(boards or {})
    candidates = _candidates(path, manifest, target, requests, adapt=adapt, sequential=sequential)
    frames = _frames(path, manifest, source, preprocess)
    total = min(frames.count or 0, limit) if limit else frames.count or 0
    store = FrameStore(output) if output is not None else None
    done = 0
    with (
        store or contextlib.nullcontext(),
        Devices(
            path,
            manifest,
            ffi,
            boards=requests,
            threads=threads,
            cpus=cpus,
            sequential=sequential,
            progress=progress,
        ) as devices,
    ):
        stream: Stream
        if adapt:
            stream = AdaptiveStream(
                devices, manifest, candidates, target, sequential=sequential, tell=progress
            )
        else:
            stream = FixedStream(devices, manifest, candidates[0], sequential=sequential)

        def outcome() -> PipelineOutcome:
            return PipelineOutcome(
                model_name=manifest.model_name,
                deployment=stream.deployment,
                places=devices.places_of(stream.deployment),
                source=frames.name,
                sequential=sequential,
                frames=done,
                statistics=stream.statistics(),
                timeline=stream.timeline(),
                switches=tuple(stream.switches),
                outputs=output,
                written=store.written if store else 0,
            )

        progress(f"running {stream.deployment.name} on {frames.name}")
        try:
            for result in stream.run(itertools.islice(frames, limit)):
                done += 1
                if store is not None:
                    store.add(result.outputs)
                count(done, total)
            if store is not None:
                store.flush()
        except IovtError as error:
            if not done:
                raise
            _keep(store)
            raise PipelineError(error, outcome()) from error
        except BaseException:
            devices.kill()  # nobody waits for what a board has yet to answer
            _keep(store)
            progress(f"interrupted: {_kept(done, output, store.written if store else 0)}")
            raise
        return outcome()


def _candidates(
    path: Path,
    manifest: Manifest,
    target: str,
    boards: Mapping[str, BoardRequest],
    *,
    adapt: bool,
    sequential: bool,
) -> tuple[Deployment, ...]:
    """The deployments that the frames may go through."""
    if not adapt:
        return (choose_deployment(path, manifest, target, boards, sequential=sequential),)
    found = prepared_deployments(path, manifest, boards)
    if target not in ("", *(deployment.name for deployment in found)):
        choose_deployment(
            path, manifest, target, boards, sequential=sequential
        )  # which may know why
        raise BundleError(
            f"{target} has no predicted times", do="begin with another one, or leave out --adapt"
        )
    return found


def _frames(path: Path, manifest: Manifest, source: str, preprocess: str) -> FrameSource:
    recipe = images.preset(preprocess) if preprocess else manifest.preprocess
    sample: dict[str, np.ndarray] = {}
    if source.startswith(SAMPLE):
        bundles.verify(path, [manifest.sample])
        sample, _ = bundles.load_sample(path, manifest.sample.file)
    return open_frames(source, manifest.inputs, recipe, sample)


def _kept(frames: int, outputs: Path | None, written: int) -> str:
    words = f"{frames} frame{'s are' if frames != 1 else ' is'} done"
    if outputs is None:
        return words
    if written != frames:
        return f"{words}, of which {written} could be kept in {outputs}"
    return f"{words} and kept in {outputs}"


def _keep(store: FrameStore | None) -> None:
    """Write what waits. A full disk must not hide the error that ended the run."""
    if store is not None:
        with contextlib.suppress(UsageError):
            store.flush()
