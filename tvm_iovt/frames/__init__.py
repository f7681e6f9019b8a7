"""Frames for a pipeline: from a folder, a video, a stream of arrays, or a bundle's sample."""

from tvm_iovt.frames.opening import open_frames
from tvm_iovt.frames.source import Frame, FrameSource

__all__ = ["Frame", "FrameSource", "open_frames"]
