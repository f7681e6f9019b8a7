"""Reader of the MNIST file format (idx), plain or gzipped.

Fashion-MNIST and EMNIST come in the same format and under the same file names.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tvm_iovt.errors import UsageError

Stream = IO[bytes] | gzip.GzipFile

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

MAX_BYTES = 2**31
"""Most elements that a file may hold; EMNIST, the largest set in this format, has a quarter."""

_UNSIGNED_BYTE = 0x08
_GZIP = b"\x1f\x8b"
_MAX_AXES = 32  # of a numpy 1 array
_CHUNK_BYTES = 2**20


def read_split(folder: Path, split: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Reads the `train` or `test` images and labels.

    Args:
        folder: Holds the two files of the split under their standard names, with or without `.gz`;
            `raw` and `MNIST/raw` below it are looked into as well.
        split: `train` or `test`.

    Returns:
        Images `[N, H, W]` and labels `[N]`, both uint8; N is at least 1.

    Raises:
        UsageError: There is no such split, a file is missing, damaged or empty, or the two do not
            belong together.
    """
    if split not in FILES:
        raise UsageError(f"MNIST has no split {split!r}", do=f"use one of: {', '.join(FILES)}")
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

    Returns:
        A uint8 array of the shape in the header, without an axis of length 0.

    Raises:
        UsageError: The file cannot be read, is truncated, is not idx of unsigned bytes, or holds
            nothing or more than `MAX_BYTES`.
    """
    try:
        with path.open("rb") as stored:
            zipped = stored.read(len(_GZIP)) == _GZIP
            stored.seek(0)
            if not zipped:
                return _read(stored, path)
            with gzip.GzipFile(fileobj=stored) as unzipped:
                return _read(unzipped, path)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"Cannot read {path}", seen=str(error)) from error


def has_mnist(folder: Path) -> bool:
    """Whether `read_split` finds one of its files in the folder."""
    names = (name for pair in FILES.values() for name in pair)
    return any(_candidate(folder, name) is not None for name in names)


def _read(stream: Stream, path: Path) -> npt.NDArray[Any]:
    start = stream.read(4)
    if len(start) < 4 or start[:3] != bytes((0, 0, _UNSIGNED_BYTE)) or start[3] == 0:
        raise UsageError(f"{path} is not an idx file of unsigned bytes", seen=start.hex(" "))
    axes = start[3]
    if axes > _MAX_AXES:
        raise UsageError(f"{path} has too many axes", seen=f"{axes}; at most {_MAX_AXES} are read")
    header = stream.read(4 * axes)
    if len(header) < 4 * axes:
        raise UsageError(f"{path} ends inside its header", seen=f"{4 + len(header)} bytes")
    shape = struct.unpack(f">{axes}I", header)
    count = math.prod(shape)
    if count == 0:
        raise UsageError(f"{path} is empty", seen=f"the shape {shape}")
    # One byte more, to notice a file that is too long.
    elements = _read_at_most(stream, min(count, MAX_BYTES) + 1)
    if len(elements) > MAX_BYTES:
        raise UsageError(f"{path} is too large", seen=f"more than {MAX_BYTES} bytes")
    if len(elements) != count:
        found = "more" if len(elements) > count else "fewer"
        raise UsageError(
            f"{path} does not hold as many elements as its header says",
            seen=f"{found} than {count} bytes for the shape {shape}",
            do="download the file again",
        )
    return np.frombuffer(elements, dtype=np.uint8).reshape(shape)


def _read_at_most(stream: Stream, limit: int) -> bytearray:
    """Reads piece by piece: one read would allocate what the header says before it looks."""
    data = bytearray()
    while len(data) < limit:
        chunk = stream.read(min(_CHUNK_BYTES, limit - len(data)))
        if not chunk:
            break
        data += chunk
    return data


def _find(folder: Path, name: str) -> Path:
    path = _candidate(folder, name)
    if path is None:
        raise UsageError(
            f"There is no {name} or {name}.gz in {folder}",
            do="give the folder with the four MNIST files; "
            "torchvision.datasets.MNIST(folder, download=True) fetches them",
        )
    return path


def _candidate(folder: Path, name: str) -> Path | None:
    for below in ("", "raw", "MNIST/raw"):
        for suffix in ("", ".gz"):
            path = folder / below / (name + suffix)
            if path.is_file():
                return path
    return None
