"""What all kinds of frames have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_iovt.errors import UsageError
from tvm_iovt.types import TensorSpec

Frame = dict[str, npt.NDArray[Any]]
"""The network's inputs by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSource:
    """Frames in their order, each read and preprocessed when it is asked for.

    Iterating raises UsageError, which names the frame, where one cannot be read.

    Attributes:
        name: For messages: the path.
        count: Frames, as far as that is known before they are read; None if it is not.
        start: Begins at the first frame; may be called several times.
    """

    name: str
    count: int | None
    start: Callable[[], Iterator[Frame]]

    def __iter__(self) -> Iterator[Frame]:
        return self.start()


def unreadable(index: int, source: str, error: UsageError) -> UsageError:
    """The error of one frame, with its number."""
    return UsageError(
        f"Frame {index} of {source} cannot be used",
        seen=f"{error.what}: {error.seen}" if error.seen else error.what,
        do=error.do or "repair or remove it; the frames before it are done",
    )


def frame_axis(array: npt.NDArray[Any], spec: TensorSpec, source: str) -> npt.NDArray[Any]:
    """An array as frames of an input: the frame axis first, then exactly the input's shape.

    Args:
        array: One frame, or frames with a leading axis; a batch axis of 1 may be left out.
        spec: The input.
        source: For messages.

    Raises:
        UsageError: The shape or the dtype does not fit.
    """
    bare = spec.shape[1:] if spec.shape[:1] == (1,) else spec.shape
    if array.shape in (spec.shape, bare):
        array = array.reshape(1, *spec.shape)
    elif array.ndim and array.shape[1:] in (spec.shape, bare):
        array = array.reshape(array.shape[0], *spec.shape)
    else:
        raise UsageError(
            f"An array of {source} has the wrong shape for frames of the input {spec}",
            seen="x".join(map(str, array.shape)) or "scalar",
            do="give one frame, or frames along a leading axis",
        )
    if not np.can_cast(array.dtype, spec.dtype, casting="same_kind"):
        raise UsageError(
            f"An array of {source} has the wrong dtype for the input {spec}", seen=str(array.dtype)
        )
    if spec.dtype.startswith(("int", "uint")) and array.size:
        limits = np.iinfo(spec.dtype)
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            raise UsageError(
                f"An array of {source} has numbers that do not fit the input {spec}",
                seen=f"{low} to {high}, where it takes {limits.min} to {limits.max}",
                do="scale or shift them as the network expects",
            )
    return array
