"""Video files as frames, decoded by OpenCV where it is installed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tvm_iovt.errors import UsageError
from tvm_iovt.frames.pictures import recipe
from tvm_iovt.frames.source import Frame, FrameSource
from tvm_iovt.images import image_input
from tvm_iovt.types import Preprocess, TensorSpec

INSTALL = "pip install opencv-python-headless"

# Containers without an index only estimate the number of their frames.
_MISSING_FRAMES, _MISSING_SHARE = 2, 0.02

_QUIET = "OPENCV_FFMPEG_LOGLEVEL"
_FFMPEG_SILENT = "-8"  # AV_LOG_QUIET of libavutil/log.h: our own message says what is wrong


def open_video(
    path: Path, inputs: tuple[TensorSpec, ...], preprocess: Preprocess | None
) -> FrameSource:
    """A video file; its first frame is decoded here, to see whether it is one.

    Raises:
        UsageError: The network does not take pictures, OpenCV is missing, or the file is not a
            video that it can read.
    """
    spec, chosen = recipe(str(path), inputs, preprocess)
    with _capture(path) as (_, capture):
        if not capture.grab():
            raise UsageError(
                f"{path} has no frame",
                seen="a container without a picture that can be decoded",
                do="look at it with a player, or convert it to H.264 in .mp4",
            )
        count = _count(capture)

    def frames() -> Iterator[Frame]:
        from PIL import Image

        with _capture(path) as (cv2, stream):
            index = 0
            while stream.grab():
                decoded, pixels = stream.retrieve()
                if not decoded or pixels is None:
                    raise UsageError(
                        f"Frame {index} of {path} cannot be decoded",
                        do="repair the video; the frames before it are done",
                    )
                image = Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
                yield {spec.name: image_input(image, chosen, spec)}
                index += 1
            missing = (count or 0) - index
            if missing > max(_MISSING_FRAMES, _MISSING_SHARE * (count or 0)):
                raise UsageError(
                    f"{path} is damaged: frame {index} does not come",
                    seen=f"{index} frames could be decoded; its header promises {count}",
                    do="copy or record it again; the frames that it has are done",
                )

    return FrameSource(name=str(path), count=count, start=frames)


@contextlib.contextmanager
def _capture(path: Path) -> Iterator[tuple[Any, Any]]:
    """OpenCV, and the file opened by it."""
    os.environ.setdefault(_QUIET, _FFMPEG_SILENT)
    try:
        import cv2
    except ImportError as error:
        raise UsageError(
            f"Nothing here can decode the video {path}",
            seen=f"OpenCV: {error}",
            do=f"{INSTALL}; or give a folder of images",
        ) from error
    try:
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    except cv2.error as error:
        raise _no_video(path, str(error)) from error
    try:
        if not capture.isOpened():
            size = path.stat().st_size
            raise _no_video(path, f"{size} bytes that OpenCV finds no video in")
        yield cv2, capture
    finally:
        capture.release()


def _no_video(path: Path, seen: str) -> UsageError:
    return UsageError(
        f"{path} is not a video that can be read",
        seen=seen,
        do="give a complete .mp4, .avi, .mkv or .webm file, or a folder of images",
    )


def _count(capture: Any) -> int | None:
    """Frames that the container promises; None if it promises nothing."""
    import cv2

    found = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return round(found) if 0 < found < 1e9 else None
