"""Reader of detection sets in the text format of YOLO: `images/` and, beside it, `labels/`.

A label file has one line for each object: the class, the centre and the size of the box, the latter
four as fractions of the image's width and height. It has the name of its image, but for `.txt`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tvm_iovt.datasets.boxes import BoxedImage, BoxedImages, clipped_boxes, cxcywh_to_xyxy
from tvm_iovt.datasets.pixels import image_size
from tvm_iovt.errors import UsageError
from tvm_iovt.images import image_files

_MAX_UNNAMED_CLASSES = 100_000
_ROUNDING = 1e-3
"""How far outside 0..1 a number may be: tools round, and boxes are cut at the border anyway."""

_FIELDS = "class, centre x, centre y, width, height"

Objects = list[tuple[int, list[float]]]


def read_yolo(
    folder: Path, split: str | None = None, *, classes: Sequence[str] | None = None
) -> BoxedImages:
    """Reads the boxes of a YOLO set; of the images, only the headers are read.

    Boxes are cut at the border of their image; those of which no area is left are dropped. An image
    without a label file has no boxes. Label files without an image are not looked at.

    Args:
        folder: Holds the folders `images` and `labels`.
        split: A folder in both of them, e.g. `train`; None for all images.
        classes: The names of the classes. If None, they are the lines of `classes.txt` in `folder`
            or `labels`; without that file, the numbers up to the largest one found.

    Returns:
        The images, sorted by path.

    Raises:
        UsageError: A folder is missing or empty, no image has a label file, a line is malformed
            (the message names the file and line), or an image cannot be read.
    """
    images, labels = (folder / name / (split or "") for name in ("images", "labels"))
    for needed in (images, labels):
        if not needed.is_dir():
            raise UsageError(
                f"There is no folder {needed}",
                do="give the folder that holds images/ and labels/",
            )
    names = _class_names(folder) if classes is None else tuple(classes)
    limit = _MAX_UNNAMED_CLASSES if names is None else len(names)
    found: list[tuple[Path, Objects | None]] = []
    for path in image_files(images):
        label_file = (labels / path.relative_to(images)).with_suffix(".txt")
        objects = _read_lines(label_file, limit) if label_file.is_file() else None
        found.append((path, objects))
    if all(objects is None for _, objects in found):
        raise UsageError(
            f"None of the {len(found)} images in {images} has a label file",
            seen=f"no {found[0][0].stem}.txt in {labels}",
            do="check that the label files have the names of the images",
        )
    if names is None:
        largest = max((label for _, objects in found for label, _ in objects or ()), default=-1)
        names = tuple(str(number) for number in range(largest + 1))
    return BoxedImages(
        images=tuple(_boxed(path, objects or []) for path, objects in found), classes=names
    )


def _class_names(folder: Path) -> tuple[str, ...] | None:
    for path in (folder / "classes.txt", folder / "labels" / "classes.txt"):
        if path.is_file():
            names = tuple(line.strip() for line in _lines(path) if line.strip())
            if not names:
                raise UsageError(f"{path} names no class", do="write one name on each line")
            return names
    return None


def _read_lines(path: Path, classes: int) -> Objects:
    objects = []
    for number, line in enumerate(_lines(path), start=1):
        fields = line.split()
        if fields:
            objects.append(_parse(fields, classes, f"Line {number} of {path}", line))
    return objects


def _parse(fields: list[str], classes: int, where: str, line: str) -> tuple[int, list[float]]:
    seen = repr(line)[:100]
    if len(fields) != 5:
        reason = "has not five fields"
        if len(fields) >= 7 and len(fields) % 2:
            reason = "is the outline of a segmentation, not a box"
        elif len(fields) == 6:
            reason = "has a sixth field, as predictions with a score have"
        raise UsageError(f"{where} {reason}", seen=seen, do=f"write lines of: {_FIELDS}")
    label = fields[0]
    if not (label.isascii() and label.isdecimal()):
        raise UsageError(f"The class in line {where[5:]} is not a non-negative integer", seen=seen)
    # By length first: Python refuses to convert integers of thousands of digits.
    if len(label.lstrip("0")) > len(str(classes)) or int(label) >= classes:
        raise UsageError(
            f"The class in line {where[5:]} is out of range",
            seen=seen,
            do=f"classes count from 0; there are {classes} at most",
        )
    try:
        numbers = [float(field) for field in fields[1:]]
    except ValueError as error:
        raise UsageError(f"{where} has a field that is not a number", seen=seen) from error
    # Also false for NaN.
    if not all(-_ROUNDING <= number <= 1 + _ROUNDING for number in numbers):
        raise UsageError(
            f"{where} has a number outside 0..1",
            seen=seen,
            do="write fractions of the image's width and height, not pixels",
        )
    return int(label), numbers


def _boxed(path: Path, objects: Objects) -> BoxedImage:
    height, width = image_size(path)
    fractions = np.array([box for _, box in objects], dtype=np.float64).reshape(-1, 4)
    labels = np.array([label for label, _ in objects], dtype=np.int64)
    boxes = cxcywh_to_xyxy(fractions) * np.array([width, height, width, height], dtype=np.float64)
    boxes, labels = clipped_boxes(boxes, labels, width=width, height=height)
    return BoxedImage(path=path, width=width, height=height, boxes=boxes, labels=labels)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read {path}", seen=str(error)) from error
