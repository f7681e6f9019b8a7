"""Reader of CIFAR-10 and CIFAR-100 in the version for Python: folders of pickles.

Sets of any length are read, so a subset in the same files will do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_iovt.datasets.array_pickle import load_array_pickle
from tvm_iovt.datasets.labelled_images import LabelledImages
from tvm_iovt.errors import UsageError

CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR100_FOLDER = "cifar-100-python"

SIDE = 32
"""Height and width of an image in pixels."""

_PIXELS = 3 * SIDE * SIDE
_TRAIN_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_SPLITS = ("train", "test")


def read_cifar10(folder: Path, split: str) -> LabelledImages:
    """Reads the `train` or `test` images of CIFAR-10.

    Args:
        folder: Holds `batches.meta` and `test_batch` or `data_batch_1` to `data_batch_5`, or has a
            folder `cifar-10-batches-py` that does. A subset may do with fewer training batches, but
            not leave out one before the last.
        split: `train` or `test`.

    Returns:
        Images `[N, 32, 32, 3]` uint8 RGB with their classes; N is at least 1.

    Raises:
        UsageError: There is no such split, a file is missing or damaged, or a file asks for
            anything else than plain values and arrays.
    """
    _check_split("CIFAR-10", split)
    root = _root(folder, CIFAR10_FOLDER)
    names = _class_names(_existing(root / "batches.meta"), "label_names")
    if split == "test":
        files = [_existing(root / "test_batch")]
    else:
        there = [name for name in _TRAIN_BATCHES if (root / name).is_file()]
        files = [_existing(root / name) for name in _TRAIN_BATCHES[: max(1, len(there))]]
    return _read(files, "labels", names)


def read_cifar100(folder: Path, split: str, *, coarse: bool = False) -> LabelledImages:
    """Reads the `train` or `test` images of CIFAR-100.

    Args:
        folder: Holds `meta` and `train` or `test`, or has a folder `cifar-100-python` that does.
        split: `train` or `test`.
        coarse: Take the 20 superclasses instead of the 100 classes.

    Returns:
        Images `[N, 32, 32, 3]` uint8 RGB with their classes; N is at least 1.

    Raises:
        UsageError: As for `read_cifar10`.
    """
    _check_split("CIFAR-100", split)
    root = _root(folder, CIFAR100_FOLDER)
    kind = "coarse" if coarse else "fine"
    names = _class_names(_existing(root / "meta"), f"{kind}_label_names")
    return _read([_existing(root / split)], f"{kind}_labels", names)


def has_cifar10(folder: Path) -> bool:
    """Whether the folder, or the one of CIFAR-10 in it, has a batch or the class names."""
    root = _root(folder, CIFAR10_FOLDER)
    return any((root / name).is_file() for name in ("batches.meta", "test_batch", *_TRAIN_BATCHES))


def has_cifar100(folder: Path) -> bool:
    """Whether the folder, or the one of CIFAR-100 in it, has the images and the class names."""
    root = _root(folder, CIFAR100_FOLDER)
    # Names this common mean something only together, or in the folder of the known name.
    found = [(root / name).is_file() for name in ("meta", *_SPLITS)]
    return any(found) if root.name == CIFAR100_FOLDER else found[0] and any(found[1:])


def _check_split(data_set: str, split: str) -> None:
    if split not in _SPLITS:
        raise UsageError(
            f"{data_set} has no split {split!r}", do=f"use one of: {', '.join(_SPLITS)}"
        )


def _root(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).is_dir() else folder


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UsageError(
            f"There is no {path.name} in {path.parent}",
            do=f"give the folder {CIFAR10_FOLDER} or {CIFAR100_FOLDER} as it is in the archive for "
            "Python",
        )
    return path


def _class_names(path: Path, key: str) -> tuple[str, ...]:
    names = _entry(path, load_array_pickle(path), key)
    if not isinstance(names, list) or not all(isinstance(name, str | bytes) for name in names):
        raise UsageError(f"{key} in {path} is not a list of names")
    try:
        return tuple(n.decode("utf-8") if isinstance(n, bytes) else n for n in names)
    except UnicodeDecodeError as error:
        raise UsageError(f"A name in {path} is not UTF-8", seen=str(error)) from error


def _read(files: list[Path], key: str, names: tuple[str, ...]) -> LabelledImages:
    images, labels = [], []
    for path in files:
        batch = load_array_pickle(path)
        pixels = _pixels(path, batch)
        images.append(pixels)
        labels.append(_labels(path, batch, key, len(pixels), len(names)))
    # One row has the red plane, then the green, then the blue one.
    planes = np.concatenate(images).reshape(-1, 3, SIDE, SIDE)
    return LabelledImages(
        images=np.ascontiguousarray(planes.transpose(0, 2, 3, 1)),
        labels=np.concatenate(labels),
        classes=names,
    )


def _pixels(path: Path, batch: dict[str, Any]) -> npt.NDArray[np.uint8]:
    pixels = _entry(path, batch, "data")
    if not isinstance(pixels, np.ndarray):
        raise UsageError(f"data in {path} is not an array", seen=type(pixels).__name__)
    if pixels.ndim != 2 or pixels.shape[1] != _PIXELS or pixels.dtype != np.uint8:
        raise UsageError(
            f"The images in {path} are not [N, {_PIXELS}] uint8",
            seen=f"{list(pixels.shape)} {pixels.dtype}",
        )
    if not len(pixels):
        raise UsageError(f"{path} holds no images")
    return pixels


def _labels(
    path: Path, batch: dict[str, Any], key: str, images: int, classes: int
) -> npt.NDArray[np.int64]:
    labels = _entry(path, batch, key)
    if isinstance(labels, np.ndarray):
        labels = labels.tolist()
    # Before they become an array: an int of any size fits into a list.
    if not isinstance(labels, list) or not all(type(n) is int for n in labels):
        raise UsageError(f"{key} in {path} is not a list of integers")
    if len(labels) != images:
        raise UsageError(
            f"The images and labels in {path} do not belong together",
            seen=f"{images} images, {len(labels)} labels",
        )
    for place, label in enumerate(labels):
        if not 0 <= label < classes:
            raise UsageError(
                f"A label in {path} is out of range",
                # Not in decimal: Python refuses to print integers of thousands of digits.
                seen=f"{label:#x}"[:20] + f" at position {place}; there are {classes} classes",
            )
    return np.array(labels, dtype=np.int64)


def _entry(path: Path, content: dict[str, Any], key: str) -> Any:
    if key not in content:
        raise UsageError(
            f"{path} has no {key}",
            seen=f"entries {list(content)!r}"[:200],
            do="check that the folder is of the data set that it is read as",
        )
    return content[key]
