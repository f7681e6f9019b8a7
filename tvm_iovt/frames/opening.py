"""Finding out what kind of frames a user means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from tvm_iovt.errors import UsageError
from tvm_iovt.frames import arrays, pictures, video
from tvm_iovt.frames.source import Frame, FrameSource
from tvm_iovt.images import IMAGE_SUFFIXES
from tvm_iovt.types import Preprocess, TensorSpec

SAMPLE = "sample:"

_KINDS = f"a folder of images or .npz files, an image, a video, a .npz or .npy file, or {SAMPLE}N"


def open_frames(
    source: str,
    inputs: tuple[TensorSpec, ...],
    preprocess: Preprocess | None,
    sample: Mapping[str, npt.NDArray[Any]],
) -> FrameSource:
    """Opens a source of frames; nothing is decoded yet, but what can be refused now is.

    Args:
        source: A folder of images or of `.npz` files, sorted by name; an image; a video file; an
            `.npz` or `.npy` file of frames along a leading axis; or `sample:N`, N times the sample.
        inputs: Of the network.
        preprocess: For images and videos, which need a network with one input.
        sample: The network's inputs for `sample:N`.

    Raises:
        UsageError: There is no such source, it is of no known kind, or it does not fit the network.
    """
    if source.startswith(SAMPLE):
        return _repeated(source, dict(sample))
    path = Path(source)
    if path.is_dir():
        return _folder(path, inputs, preprocess)
    if not path.is_file():
        raise UsageError(f"There are no frames at {source}", do=f"give {_KINDS}")
    suffix = path.suffix.lower()
    if suffix in arrays.SUFFIXES:
        return arrays.open_files(source, (path,), inputs)
    if suffix in IMAGE_SUFFIXES:
        return pictures.open_files(source, (path,), inputs, preprocess)
    return video.open_video(path, inputs, preprocess)


def _folder(
    path: Path, inputs: tuple[TensorSpec, ...], preprocess: Preprocess | None
) -> FrameSource:
    visible = sorted(p for p in path.rglob("*") if not _hidden(p.relative_to(path)))
    streams = tuple(p for p in visible if p.suffix.lower() in arrays.SUFFIXES)
    images = tuple(p for p in visible if p.suffix.lower() in IMAGE_SUFFIXES)
    if bool(streams) == bool(images):
        what = "both images and arrays" if images else "neither images nor arrays"
        raise UsageError(
            f"It is not clear what the frames of {path} are",
            seen=f"{what} in it" + (f": {images[0]}, {streams[0]}" if images else ""),
            do=f"give {_KINDS}",
        )
    if streams:
        return arrays.open_files(str(path), streams, inputs)
    return pictures.open_files(str(path), images, inputs, preprocess)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _repeated(source: str, sample: Frame) -> FrameSource:
    times = source.removeprefix(SAMPLE)
    if not times.isdecimal() or int(times) < 1:
        raise UsageError(
            "The number of frames cannot be read", seen=source, do=f"write it as {SAMPLE}100"
        )

    def frames() -> Iterator[Frame]:
        for _ in range(int(times)):
            yield sample

    return FrameSource(name=f"the sample, {times} times", count=int(times), start=frames)
