"""Reader of detection sets in the format of COCO: one JSON file and a folder of images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tvm_iovt.datasets.boxes import BoxedImage, BoxedImages, clipped_boxes, xywh_to_xyxy
from tvm_iovt.errors import UsageError

_MAX_SIDE = 2**24  # float32 holds every whole pixel up to here


def read_coco(annotations: Path, images: Path, *, skip_crowd: bool = True) -> BoxedImages:
    """Reads the boxes of a COCO file of instances.

    Boxes are cut at the border of their image; those of which no area is left are dropped.

    Args:
        annotations: The JSON file, e.g. `instances_val2017.json`.
        images: The folder that its file names start from. Every image has to be there; none is
            opened.
        skip_crowd: Leave out boxes around crowds (`iscrowd`), which mark no single object.

    Returns:
        The images in the order of the file; classes in the order of their category ids.

    Raises:
        UsageError: A file is missing or not valid JSON, an entry is missing or malformed, two
            images or categories have the same id, or an annotation names an unknown one.
    """
    content = _load(annotations)
    names = _categories(content, annotations)
    labels = {identifier: place for place, identifier in enumerate(sorted(names))}
    objects: dict[int, list[tuple[list[float], int]]] = {}
    listed: list[tuple[int, Path, int, int]] = []
    for where, entry in _entries(content, "images", annotations):
        identifier = _integer(entry, "id", where)
        if identifier in objects:
            raise UsageError(f"{where} has the id of another image", seen=str(identifier))
        objects[identifier] = []
        width, height = (_side(entry, key, where) for key in ("width", "height"))
        listed.append((identifier, _image(entry, images, where), width, height))
    if not listed:
        raise UsageError(f"{annotations} lists no images")
    for where, entry in _entries(content, "annotations", annotations):
        image, category = (_integer(entry, key, where) for key in ("image_id", "category_id"))
        if image not in objects:
            raise UsageError(f"{where} is of an image that is not listed", seen=f"image_id {image}")
        if category not in labels:
            raise UsageError(
                f"{where} is of a category that is not listed", seen=f"category_id {category}"
            )
        if not (skip_crowd and _is_crowd(entry, where)):
            objects[image].append((_box(entry, where), labels[category]))
    return BoxedImages(
        images=tuple(
            _boxed(path, width, height, objects[identifier])
            for identifier, path, width, height in listed
        ),
        classes=tuple(names[identifier] for identifier in sorted(names)),
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {path}") from error
    # A ValueError also stands for text that is not UTF-8 and for numbers of thousands of digits.
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"Cannot read {path} as JSON", seen=str(error)) from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} is not a COCO file", seen=f"a JSON {type(content).__name__}")
    return content


def _entries(content: dict[str, Any], key: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of one list of the file, each with words for where it is."""
    entries = content.get(key)
    if not isinstance(entries, list):
        raise UsageError(
            f"{path} has no list of {key}",
            seen=f"entries {list(content)!r}"[:200],
            do="give a file of instances, which has images, annotations and categories",
        )
    for place, entry in enumerate(entries):
        where = f"{key}[{place}] in {path}"
        if not isinstance(entry, dict):
            raise UsageError(f"{where} is not an object", seen=_short(entry))
        yield where, entry


def _categories(content: dict[str, Any], path: Path) -> dict[int, str]:
    names: dict[int, str] = {}
    for where, entry in _entries(content, "categories", path):
        identifier = _integer(entry, "id", where)
        if identifier in names:
            raise UsageError(f"{where} has the id of another category", seen=str(identifier))
        name = entry.get("name")
        if not isinstance(name, str):
            raise UsageError(f"{where} has no name", seen=_short(name))
        names[identifier] = name
    if not names:
        raise UsageError(f"{path} lists no categories")
    return names


def _image(entry: dict[str, Any], folder: Path, where: str) -> Path:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        raise UsageError(f"{where} has no file_name", seen=_short(name))
    # The file may come from anywhere; it has no say over paths outside the folder.
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise UsageError(f"{where} has a file_name outside the image folder", seen=_short(name))
    path = folder / name
    try:
        found = path.is_file()
    except OSError as error:  # a name too long for the file system
        raise UsageError(f"The image of {where} cannot be read", seen=str(error)[:200]) from error
    if not found:
        raise UsageError(
            f"The image of {where} is missing", seen=_short(str(path)), do="check the image folder"
        )
    return path


def _integer(entry: dict[str, Any], key: str, where: str) -> int:
    value = entry.get(key)
    if type(value) is not int:
        raise UsageError(f"{where} has no integer {key}", seen=_short(value))
    return value


def _side(entry: dict[str, Any], key: str, where: str) -> int:
    value = _integer(entry, key, where)
    if not 0 < value <= _MAX_SIDE:
        raise UsageError(f"{where} has an impossible {key}", seen=_short(value))
    return value


def _is_crowd(entry: dict[str, Any], where: str) -> bool:
    value = entry.get("iscrowd", 0)
    if value not in (0, 1):
        raise UsageError(f"{where} has an iscrowd that is not 0 or 1", seen=_short(value))
    return bool(value)


def _box(entry: dict[str, Any], where: str) -> list[float]:
    value = entry.get("bbox")
    if isinstance(value, list) and len(value) == 4 and all(map(_is_coordinate, value)):
        return [float(number) for number in value]
    raise UsageError(f"{where} has no bbox of four finite numbers", seen=_short(value))


def _is_coordinate(value: object) -> bool:
    # The comparison is also false for NaN, and safe for integers beyond the largest float.
    return isinstance(value, int | float) and abs(value) <= _MAX_SIDE


def _boxed(
    path: Path, width: int, height: int, objects: list[tuple[list[float], int]]
) -> BoxedImage:
    corners = np.array([box for box, _ in objects], dtype=np.float64).reshape(-1, 4)
    classes = np.array([label for _, label in objects], dtype=np.int64)
    boxes, labels = clipped_boxes(xywh_to_xyxy(corners), classes, width=width, height=height)
    return BoxedImage(path=path, width=width, height=height, boxes=boxes, labels=labels)


def _short(value: object) -> str:
    return repr(value)[:100]
