"""Classification sets with one folder per class: `root/[split/]class/image.jpg`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tvm_iovt.datasets.labelled_images import LabelledImages
from tvm_iovt.datasets.pixels import read_pixels
from tvm_iovt.errors import UsageError
from tvm_iovt.images import image_files

SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val")}
"""Folders that are looked for when a split is asked for, the first that exists is taken. Any other
split is the name of its folder."""

_KNOWN_SPLITS = {"train", "test", "val", "valid", "validation"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFolder:
    """The files of a set and their classes; iterating decodes one image after the other.

    Attributes:
        files: The images, sorted by path; at least one.
        labels: For each file, the index into `classes`.
        classes: The names of the class folders.
    """

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[tuple[npt.NDArray[np.uint8], int]]:
        """Images `[H, W, 3]` uint8 RGB, each of its own size, with their labels.

        Raises:
            UsageError: An image cannot be decoded; the message names its file.
        """
        for path, label in zip(self.files, self.labels, strict=True):
            yield read_pixels(path), label


def open_image_folder(folder: Path, split: str | None = None) -> ImageFolder:
    """Lists the images of a folder with one folder per class, without decoding them.

    Classes are in sorted order, numerically if all their names are numbers. Class folders count
    even when empty: leaving one out would shift every later class.

    Args:
        folder: Holds the class folders, or a folder for each split that does.
        split: `train`, `test` (the folder `test`, else `val`), the name of any other folder, or
            None if the set is not divided.

    Raises:
        UsageError: There is no such folder or split, it holds no image, an image is in no class
            folder, or the set is divided and no split was asked for.
    """
    root = folder if split is None else _split_folder(folder, split)
    files = image_files(root)
    classes = tuple(sorted(_subfolders(root)))
    if split is None and classes and set(classes) <= _KNOWN_SPLITS:
        raise UsageError(
            f"{folder} is divided into splits", seen=", ".join(classes), do="ask for one of them"
        )
    if all(name.isdecimal() for name in classes):
        classes = tuple(sorted(classes, key=lambda name: (int(name), name)))
    loose = next((path for path in files if path.parent == root), None)
    if loose is not None:
        raise UsageError(
            f"{loose} is in no class folder", do="put each image into a folder of its class"
        )
    index = {name: place for place, name in enumerate(classes)}
    labels = tuple(index[path.relative_to(root).parts[0]] for path in files)
    return ImageFolder(files=files, labels=labels, classes=classes)


def read_image_folder(
    folder: Path, split: str | None = None, *, size: tuple[int, int]
) -> LabelledImages:
    """Reads all images of a folder with one folder per class into memory.

    Args:
        folder: As for `open_image_folder`.
        split: As for `open_image_folder`.
        size: Height and width that each image is stretched to (bilinear, antialiased).

    Returns:
        Images `[N, H, W, 3]` uint8 RGB with their classes; N is at least 1.

    Raises:
        UsageError: As for `open_image_folder`, or an image cannot be decoded, or the set does not
            fit into memory.
    """
    if min(size) < 1:
        raise UsageError("Images cannot be resized to nothing", seen=f"{size[0]}x{size[1]}")
    listed = open_image_folder(folder, split)
    shape = (len(listed), *size, 3)
    try:
        images = np.empty(shape, dtype=np.uint8)
    # A ValueError if the number of bytes is beyond an integer of the machine.
    except (MemoryError, ValueError) as error:
        raise UsageError(
            f"The images of {folder} do not fit into memory",
            seen=f"{len(listed)} images of {size[0]}x{size[1]}",
            do="use a smaller size",
        ) from error
    for place, path in enumerate(listed.files):
        images[place] = read_pixels(path, size)
    return LabelledImages(
        images=images, labels=np.array(listed.labels, dtype=np.int64), classes=listed.classes
    )


def has_class_folders(folder: Path, split: str | None) -> bool:
    """Whether there are folders where `open_image_folder` looks for those of the classes."""
    root = folder if split is None else _existing_split(folder, split)
    return root is not None and bool(_subfolders(root))


def _split_folder(folder: Path, split: str) -> Path:
    found = _existing_split(folder, split)
    if found is None:
        names = " or ".join(SPLIT_FOLDERS.get(split, (split,)))
        raise UsageError(
            f"There is no folder {names} in {folder}",
            seen=f"folders {', '.join(_subfolders(folder))[:200] or '(none)'}",
            do="give the folder above the splits; for a set that is not divided, ask for no split",
        )
    return found


def _existing_split(folder: Path, split: str) -> Path | None:
    candidates = (folder / name for name in SPLIT_FOLDERS.get(split, (split,)))
    return next((path for path in candidates if path.is_dir()), None)


def _subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    try:
        return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise UsageError(f"Cannot list {folder}", seen=str(error)) from error
