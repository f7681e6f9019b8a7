"""From the cells of the small detector to boxes. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_iovt.errors import UsageError

DETECTOR_STRIDES = (8, 16, 32)
"""Pixels between the cells of the detector's three levels."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detections:
    """The objects found in one image, best first.

    Attributes:
        boxes: `[K, 4]` float32: left, top, right, bottom in pixels.
        scores: `[K]` float32, 0 to 1.
        classes: `[K]` int64.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]


def cell_centres(
    input_hw: tuple[int, int], strides: Sequence[int] = DETECTOR_STRIDES
) -> npt.NDArray[np.float32]:
    """`[cells, 2]` float32: x and y in pixels, level after level, each row by row.

    Raises:
        UsageError: Height or width is no multiple of a stride.
    """
    levels = []
    for stride in strides:
        if input_hw[0] % stride or input_hw[1] % stride:
            raise UsageError(
                f"Height and width must be multiples of {stride}",
                seen=f"{input_hw[0]}x{input_hw[1]}",
            )
        y, x = ((np.arange(size // stride) + 0.5) * stride for size in input_hw)
        levels.append(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2))
    return np.concatenate(levels).astype(np.float32)


def decode(
    output: npt.NDArray[Any],
    input_hw: tuple[int, int],
    *,
    score_threshold: float = 0.25,
    iou_threshold: float = 0.5,
    limit: int = 300,
    strides: Sequence[int] = DETECTOR_STRIDES,
) -> Detections:
    """The detector's output for one image as boxes, without duplicates.

    Args:
        output: `[cells, classes + 4]`: scores, then distances in pixels from the cell's centre to
            the left, top, right and bottom edges (FCOS, arXiv 1904.01355).
        input_hw: Height and width of the image; boxes are clipped to it.
        score_threshold: Lower scores are ignored. A cell counts for each class above it.
        iou_threshold: Of two boxes of one class that overlap more, the better one remains.
        limit: At most so many detections.
        strides: Of the levels.

    Raises:
        UsageError: The output does not have as many cells as the image.
    """
    centres = cell_centres(input_hw, strides)
    if output.ndim != 2 or len(output) != len(centres) or output.shape[1] < 5:
        raise UsageError(
            "The output is not of a detector for this image",
            seen=f"shape {list(output.shape)} for {input_hw[0]}x{input_hw[1]}",
            do=f"pass [{len(centres)}, classes + 4]",
        )
    values = output.astype(np.float32)
    scores, distances = values[:, :-4], values[:, -4:]
    height, width = input_hw
    boxes = np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], axis=1)
    boxes = boxes.clip(0, np.array([width, height, width, height], np.float32))
    cells, classes = np.nonzero(scores >= score_threshold)
    kept: list[int] = []
    found_scores, found_boxes = scores[cells, classes], boxes[cells]
    for label in np.unique(classes):
        (members,) = np.nonzero(classes == label)
        chosen = non_maximum_suppression(found_boxes[members], found_scores[members], iou_threshold)
        kept += members[chosen].tolist()
    order = np.array(kept, np.int64)
    order = order[np.argsort(-found_scores[order], kind="stable")][:limit]
    return Detections(
        boxes=found_boxes[order],
        scores=found_scores[order],
        classes=classes[order].astype(np.int64),
    )


def non_maximum_suppression(
    boxes: npt.NDArray[Any], scores: npt.NDArray[Any], iou_threshold: float
) -> npt.NDArray[np.int64]:
    """Greedy: takes the best box, drops those that overlap it by more, and so on.

    Args:
        boxes: `[K, 4]`: left, top, right, bottom.
        scores: `[K]`.
        iou_threshold: Intersection over union.

    Returns:
        Indices of the boxes that remain, best first.
    """
    rest = np.argsort(-scores, kind="stable")
    kept = []
    while len(rest):
        best, rest = rest[0], rest[1:]
        kept.append(best)
        rest = rest[intersection_over_union(boxes[best], boxes[rest]) <= iou_threshold]
    return np.array(kept, np.int64)


def intersection_over_union(
    box: npt.NDArray[Any], others: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """`[K]`: of one box `[4]` with each of `[K, 4]`; boxes without area give 0."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1, dtype=np.float64)
    areas = [np.prod(b[..., 2:] - b[..., :2], axis=-1, dtype=np.float64) for b in (box, others)]
    union = areas[0] + areas[1] - shared
    quotient: npt.NDArray[np.float64] = np.divide(
        shared, union, out=np.zeros_like(shared), where=union > 0
    )
    return quotient
