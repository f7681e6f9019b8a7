"""A classification set in memory: images of one size, with the class of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tvm_iovt.errors import UsageError


# Compared by identity: arrays have no single truth value.
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledImages:
    """Images with their classes.

    Attributes:
        images: `[N, H, W, C]` uint8, RGB (C = 3) or grey (C = 1); N is at least 1.
        labels: `[N]` int64, indices into `classes`.
        classes: The name of each class.

    Raises:
        UsageError: A shape or dtype is another one, there is no image, or a label is out of range.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.shape[3] not in (1, 3) or images.dtype != np.uint8:
            raise UsageError(
                "Images have to be [N, H, W, C] uint8 with 1 or 3 channels",
                seen=f"{list(images.shape)} {images.dtype}",
            )
        if labels.shape != images.shape[:1] or labels.dtype != np.int64:
            raise UsageError(
                f"The labels of {len(images)} images have to be [{len(images)}] int64",
                seen=f"{list(labels.shape)} {labels.dtype}",
            )
        if images.size == 0:
            raise UsageError("There are no images", seen=f"{list(images.shape)}")
        if labels.min() < 0 or labels.max() >= len(self.classes):
            raise UsageError(
                "A label is not the index of a class",
                seen=f"labels {labels.min()} to {labels.max()}, {len(self.classes)} classes",
            )

    def __len__(self) -> int:
        return len(self.images)
