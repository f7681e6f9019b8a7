"""Image files as unprocessed pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from tvm_iovt.errors import UsageError
from tvm_iovt.images import load_image, preset
from tvm_iovt.types import TensorSpec


def image_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels, from the header alone.

    Raises:
        UsageError: The file is missing or not an image.
    """
    # Pillow costs more to import than the readers of arrays, which do not need it.
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.height, image.width
    except FileNotFoundError as error:
        raise UsageError(f"There is no image {path}") from error
    except UnidentifiedImageError as error:
        raise UsageError(f"{path} is not an image", do="give a JPEG, PNG or similar") from error
    # Pillow's readers can raise almost anything on a broken header.
    except Exception as error:
        raise UsageError(f"Cannot read the image {path}", seen=str(error)) from error


def read_pixels(path: Path, size: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
    """Decodes an image file.

    Args:
        path: The file, of any format that Pillow reads.
        size: Height and width that the whole image is stretched to (bilinear, antialiased); its own
            size if None.

    Returns:
        `[H, W, 3]` uint8, RGB.

    Raises:
        UsageError: The file is missing, not an image or truncated, or the size is not positive.
    """
    if size is not None and min(size) < 1:
        raise UsageError("Images cannot be resized to nothing", seen=f"{size[0]}x{size[1]}")
    height, width = image_size(path) if size is None else size
    # Channels first: with them last, an image of three rows would be taken for one of channels.
    spec = TensorSpec(name="pixels", shape=(3, height, width), dtype="uint8")
    try:
        return np.ascontiguousarray(load_image(path, preset("raw"), spec).transpose(1, 2, 0))
    except UsageError:
        raise
    # Nor are its decoders limited to what `load_image` expects: a forged length in a PNG file
    # makes them run out of memory.
    except Exception as error:
        seen = f"{type(error).__name__} {error}".rstrip()
        raise UsageError(f"Cannot read the image {path}", seen=seen) from error
