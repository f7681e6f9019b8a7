"""Images as batches of tensors, and the random shifts of training."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_iovt.nn.torch_import import nn, torch

Images = npt.NDArray[np.uint8]


def image_tensor(images: Images, model: Any) -> Any:
    """Images as a model takes them.

    Args:
        images: `[N, H, W, C]` uint8.
        model: Its first parameter says the dtype and device; float32 on the CPU if it has none.

    Returns:
        `[N, C, H, W]`, from 0 to 1.
    """
    like = next(model.parameters(), nn.Parameter(torch.zeros(())))
    tensor = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    return tensor.to(like.device, like.dtype) / 255


def shifted(images: Images, pixels: int, generator: np.random.Generator) -> Images:
    """Each image moved by its own random offset, filled with zeros.

    Args:
        images: `[N, H, W, C]` uint8.
        pixels: Largest distance along both axes; with 0 nothing is drawn.
        generator: Draws the offsets.

    Returns:
        The same shape and dtype.
    """
    if pixels == 0:
        return images
    count, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    down, right = generator.integers(0, 2 * pixels + 1, size=(2, count))
    return np.moveaxis(windows[np.arange(count), down, right], 1, 3)
