"""Images with boxes around their objects, and the ways to write a box.

`xyxy` is left, top, right, bottom in pixels; `xywh` is left, top, width, height; `cxcywh` is centre
and size. Pixel (0, 0) covers the area from 0 to 1, so the whole image is `0, 0, width, height`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_iovt.errors import UsageError

Array = npt.NDArray[Any]


# Compared by identity: arrays have no single truth value.
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoxedImage:
    """One image file and its objects.

    Attributes:
        path: The image file.
        width: In pixels.
        height: In pixels.
        boxes: `[M, 4]` float32, xyxy in pixels, inside the image; M may be 0.
        labels: `[M]` int64, indices into the classes of the set.

    Raises:
        UsageError: Boxes or labels have another shape or dtype.
    """

    path: Path
    width: int
    height: int
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        boxes, labels = self.boxes, self.labels
        if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype != np.float32:
            raise UsageError(
                f"The boxes of {self.path} have to be [M, 4] float32",
                seen=f"{list(boxes.shape)} {boxes.dtype}",
            )
        if labels.shape != boxes.shape[:1] or labels.dtype != np.int64:
            raise UsageError(
                f"The labels of {self.path} have to be [{len(boxes)}] int64",
                seen=f"{list(labels.shape)} {labels.dtype}",
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoxedImages:
    """A detection set: the images, at least one, and the names of the classes."""

    images: tuple[BoxedImage, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)


def clipped_boxes(
    boxes: Array, labels: Array, *, width: int, height: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Cuts boxes at the border of their image and drops those of which no area is left.

    Args:
        boxes: `[M, 4]`, xyxy in pixels.
        labels: `[M]`, of any integer type.
        width: Of the image, in pixels.
        height: Of the image, in pixels.

    Returns:
        The boxes `[K, 4]` float32 and their labels `[K]` int64, K <= M, in the same order.
    """
    limits = np.array([width, height, width, height], dtype=np.float64)
    # float32 before looking: rounding may close a narrow gap.
    inside = np.clip(boxes, 0.0, limits).astype(np.float32)
    kept = (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])
    return inside[kept], labels[kept].astype(np.int64)


def xywh_to_xyxy(boxes: Array) -> Array:
    """Boxes `[..., 4]` of left, top, width, height as left, top, right, bottom."""
    corner, size = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([corner, corner + size], axis=-1)


def cxcywh_to_xyxy(boxes: Array) -> Array:
    """Boxes `[..., 4]` of centre x, centre y, width, height as left, top, right, bottom."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=-1)


def xyxy_to_cxcywh(boxes: Array) -> Array:
    """Boxes `[..., 4]` of left, top, right, bottom as centre x, centre y, width, height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([(low + high) / 2, high - low], axis=-1)
