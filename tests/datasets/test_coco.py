from __future__ import annotations

import copy
import json

import pytest

from tvm_iovt.datasets import read_coco
from tvm_iovt.errors import UsageError

GOOD = {
    "images": [
        {"id": 9, "file_name": "b.jpg", "width": 20, "height": 10},
        {"id": 4, "file_name": "sub/a.jpg", "width": 8, "height": 8},
    ],
    "annotations": [
        {"id": 1, "image_id": 9, "category_id": 18, "bbox": [1, 2, 3, 4.5], "iscrowd": 0},
        {"id": 2, "image_id": 9, "category_id": 3, "bbox": [15, -5, 10, 8], "iscrowd": 0},
        {"id": 3, "image_id": 9, "category_id": 3, "bbox": [5, 5, 0, 2], "iscrowd": 0},
        {"id": 4, "image_id": 9, "category_id": 3, "bbox": [0, 0, 20, 10], "iscrowd": 1},
    ],
    "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
}


@pytest.fixture
def read(tmp_path):
    """Writes the file, and the images it had before any change, and reads it."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for image in GOOD["images"]:
        (folder / image["file_name"]).touch()

    def read(content, **options):
        path = tmp_path / "instances.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_coco(path, folder, **options)

    return read


def changed(*keys, to):
    """The good content with one entry replaced; removed if `to` is an Ellipsis."""
    content = copy.deepcopy(GOOD)
    place = content
    for key in keys[:-1]:
        place = place[key]
    if to is ...:
        del place[keys[-1]]
    else:
        place[keys[-1]] = to
    return content


def test_good(read, tmp_path):
    found = read(GOOD)
    assert found.classes == ("car", "dog")
    assert len(found) == 2
    first, second = found.images
    assert first.path == tmp_path / "images" / "b.jpg"
    assert (first.width, first.height) == (20, 10)
    assert first.boxes.tolist() == [[1, 2, 4, 6.5], [15, 0, 20, 3]]
    assert first.labels.tolist() == [1, 0]
    assert second.path == tmp_path / "images" / "sub" / "a.jpg"
    assert second.boxes.shape == (0, 4)


def test_crowds_on_demand(read):
    assert read(GOOD, skip_crowd=False).images[0].boxes.tolist()[-1] == [0, 0, 20, 10]


def test_iscrowd_may_be_absent(read):
    content = changed("annotations", 0, "iscrowd", to=...)
    assert len(read(content).images[0].boxes) == 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"images": [',
        "{'images': []}",
        '{"images": ' + "[" * 100_000,
        '{"images": ' + "9" * 5000 + "}",
    ],
)
def test_broken_json(read, content):
    with pytest.raises(UsageError, match=r"Cannot read .*instances\.json as JSON"):
        read(content)


def test_json_error_says_the_line(read):
    with pytest.raises(UsageError) as info:
        read('{"images": [],\n\n oops}')
    assert "line 3" in info.value.seen


def test_not_utf8(tmp_path):
    path = tmp_path / "instances.json"
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(UsageError, match="as JSON"):
        read_coco(path, tmp_path)


def test_missing_file(tmp_path):
    with pytest.raises(UsageError, match="There is no file"):
        read_coco(tmp_path / "gone.json", tmp_path)


def test_not_an_object(read):
    with pytest.raises(UsageError, match="not a COCO file"):
        read([1])


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
@pytest.mark.parametrize("value", [..., {}, None])
def test_missing_list(read, key, value):
    with pytest.raises(UsageError, match=f"no list of {key}"):
        read(changed(key, to=value))


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_entry_is_no_object(read, key):
    with pytest.raises(UsageError, match=rf"{key}\[1\] in .* is not an object"):
        read(changed(key, 1, to=7))


@pytest.mark.parametrize("key", ["images", "categories"])
def test_empty(read, key):
    content = changed("annotations", to=[])
    content[key] = []
    with pytest.raises(UsageError, match=f"lists no {key}"):
        read(content)


@pytest.mark.parametrize(
    ("keys", "to", "message"),
    [
        (("annotations", 1, "image_id"), 5, r"annotations\[1\] .* image that is not listed"),
        (("annotations", 1, "category_id"), 5, r"annotations\[1\] .* category that is not listed"),
        (("annotations", 1, "image_id"), ..., "no integer image_id"),
        (("annotations", 1, "category_id"), "3", "no integer category_id"),
        (("annotations", 1, "iscrowd"), 2, "iscrowd"),
        (("images", 1, "id"), 9, r"images\[1\] .* id of another image"),
        (("images", 1, "id"), True, "no integer id"),
        (("images", 1, "width"), 0, "impossible width"),
        (("images", 1, "height"), 2**40, "impossible height"),
        (("images", 1, "height"), 5.5, "no integer height"),
        (("images", 1, "file_name"), ..., "no file_name"),
        (("images", 1, "file_name"), "a\0b", "no file_name"),
        (("images", 1, "file_name"), "gone.jpg", r"image of images\[1\] .* is missing"),
        (("images", 1, "file_name"), "\ud800", "is missing"),
        (("images", 1, "file_name"), "x" * 5000, r"image of images\[1\] "),
        (("images", 1, "file_name"), "../instances.json", "outside the image folder"),
        (("images", 1, "file_name"), "/etc/passwd", "outside the image folder"),
        (("categories", 1, "id"), 18, "id of another category"),
        (("categories", 1, "id"), None, "no integer id"),
        (("categories", 1, "name"), 7, "has no name"),
    ],
)
def test_bad_entry(read, keys, to, message):
    with pytest.raises(UsageError, match=message) as info:
        read(changed(*keys, to=to))
    assert "instances.json" in info.value.what
    str(info.value).encode()


@pytest.mark.parametrize(
    "box",
    [
        ...,
        None,
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        [1, 2, 3, "4"],
        [1, 2, 3, None],
        [1, 2, 3, float("nan")],
        [1, 2, 3, float("inf")],
        [1, 2, 3, 10**400],
        [1, 2, 3, 1e300],
        {"x": 1},
    ],
)
def test_bad_box(read, box):
    with pytest.raises(UsageError, match=r"annotations\[1\] in .* no bbox"):
        read(changed("annotations", 1, "bbox", to=box))
