"""A classification set from a folder, whichever of the known layouts it has."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tvm_iovt.datasets.cifar import (
    CIFAR10_FOLDER,
    CIFAR100_FOLDER,
    has_cifar10,
    has_cifar100,
    read_cifar10,
    read_cifar100,
)
from tvm_iovt.datasets.image_folder import has_class_folders, read_image_folder
from tvm_iovt.datasets.labelled_images import LabelledImages
from tvm_iovt.datasets.mnist import has_mnist, read_split
from tvm_iovt.errors import UsageError

LAYOUTS = {
    "MNIST": "train-images-idx3-ubyte[.gz] and the like, here, in raw/ or in MNIST/raw/",
    "CIFAR-10": f"data_batch_1, test_batch, batches.meta, here or in {CIFAR10_FOLDER}/",
    "CIFAR-100": f"train, test, meta, here or in {CIFAR100_FOLDER}/",
    "class folders": "[split/]class/image.jpg",
}
"""What each layout is recognised by."""

_MNIST_CLASSES = 10


def read_labelled_images(
    folder: Path, split: str | None, *, size: tuple[int, int] | None = None
) -> LabelledImages:
    """Reads a split of a classification set into memory; `LAYOUTS` are the ones that it may have.

    Args:
        folder: The folder of the set.
        split: `train` or `test`; None for class folders that are not divided into splits.
        size: Height and width that images in class folders are stretched to. The images of the
            other layouts have a size, and no other one can be asked for.

    Returns:
        Images `[N, H, W, C]` uint8 with their classes; C is 1 for MNIST and 3 otherwise. The
        classes of MNIST are named by their numbers: its format has no names.

    Raises:
        UsageError: The folder is missing, has none or several of the layouts, or cannot be read.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    layout = _layout(folder, split)
    if layout == "class folders":
        if size is None:
            raise UsageError(
                f"The images in {folder} may be of any size", do="give the size to resize them to"
            )
        return read_image_folder(folder, split, size=size)
    if split is None:
        raise UsageError(f"{folder} is divided into splits", do="ask for `train` or `test`")
    if layout == "MNIST":
        found = _read_mnist(folder, split)
    else:
        found = (read_cifar10 if layout == "CIFAR-10" else read_cifar100)(folder, split)
    height, width = found.images.shape[1:3]
    if size is not None and size != (height, width):
        raise UsageError(
            f"The images of {layout} are not resized",
            seen=f"a size of {size[0]}x{size[1]}; the images are {height}x{width}",
            do="ask for no size",
        )
    return found


def _layout(folder: Path, split: str | None) -> str:
    detectors = {"MNIST": has_mnist, "CIFAR-10": has_cifar10, "CIFAR-100": has_cifar100}
    found = [name for name, has in detectors.items() if has(folder)]
    if len(found) > 1:
        raise UsageError(
            f"{folder} holds several data sets", seen=", ".join(found), do="give the folder of one"
        )
    # Last, as the folders of the others look like classes.
    if not found and has_class_folders(folder, split):
        found = ["class folders"]
    if not found:
        raise UsageError(
            f"{folder} holds no data set of a known layout"
            + ("" if split is None else f" with a split {split!r}"),
            seen=_listing(folder),
            do="give a folder with one of\n"
            + "\n".join(f"    {name}: {files}" for name, files in LAYOUTS.items())
            + "\n  where class folders that are not divided need no split",
        )
    return found[0]


def _read_mnist(folder: Path, split: str) -> LabelledImages:
    images, labels = read_split(folder, split)
    # At least the ten of MNIST, so that a subset without a 9 has the same classes.
    count = max(_MNIST_CLASSES, int(labels.max()) + 1)
    return LabelledImages(
        images=images[..., np.newaxis],
        labels=labels.astype(np.int64),
        classes=tuple(str(number) for number in range(count)),
    )


def _listing(folder: Path) -> str:
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        return str(error)
    return ", ".join(names)[:200] or "an empty folder"
