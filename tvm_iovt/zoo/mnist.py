"""Reader of the MNIST file format (idx), plain or gzipped.

Fashion-MNIST and EMNIST come in the same format and under the same file names.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_iovt.errors import UsageError

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

_UNSIGNED_BYTE = 0x08


def read_split(folder: Path, split: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Reads the `train` or `test` images and labels.

    Args:
        folder: Holds the two files of the split under their standard names, with or without `.gz`;
            `raw` and `MNIST/raw` below it are looked into as well.
        split: `train` or `test`.

    Returns:
        Images `[N, H, W]` and labels `[N]`, both uint8.

    Raises:
        UsageError: A file is missing or damaged, or the two do not belong together.
    """
    images, labels = (read_idx(_find(folder, name)) for name in FILES[split])
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise UsageError(
            f"The {split} images and labels in {folder} do not belong together",
            seen=f"images of shape {images.shape}, labels of shape {labels.shape}",
        )
    return images, labels


def read_idx(path: Path) -> npt.NDArray[Any]:
    """Reads one idx file of unsigned bytes.

    The format: two zero bytes, the element type, the number of axes, each axis as a big-endian
    uint32, then the elements in row-major order.

    Raises:
        UsageError: The file cannot be read, is truncated, or is not idx of unsigned bytes.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"Cannot read {path}", seen=str(error)) from error
    if len(data) < 4 or data[:3] != bytes((0, 0, _UNSIGNED_BYTE)) or data[3] == 0:
        raise UsageError(f"{path} is not an idx file of unsigned bytes", seen=data[:4].hex(" "))
    axes = data[3]
    header = 4 + 4 * axes
    if len(data) < header:
        raise UsageError(f"{path} ends inside its header", seen=f"{len(data)} bytes")
    shape = struct.unpack(f">{axes}I", data[4:header])
    if len(data) != header + math.prod(shape):
        raise UsageError(
            f"{path} does not hold as many elements as its header says",
            seen=f"{len(data) - header} bytes for the shape {shape}",
            do="download the file again",
        )
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


def _find(folder: Path, name: str) -> Path:
    for below in ("", "raw", "MNIST/raw"):
        for suffix in ("", ".gz"):
            path = folder / below / (name + suffix)
            if path.is_file():
                return path
    raise UsageError(
        f"There is no {name} or {name}.gz in {folder}",
        do="give the folder with the four MNIST files; "
        "torchvision.datasets.MNIST(folder, download=True) fetches them",
    )
