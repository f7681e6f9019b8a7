from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tvm_iovt.datasets import read_yolo
from tvm_iovt.errors import UsageError


def image(path, size=(20, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def label(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def folder(tmp_path):
    image(tmp_path / "images" / "a.png")
    image(tmp_path / "images" / "b.png", (8, 8))
    label(tmp_path / "labels" / "a.txt", "2 0.5 0.5 0.5 0.2\n\n0 1.0 0.0 0.2 0.4\n1 .5 .5 0 .5\n")
    return tmp_path


def test_good(folder):
    found = read_yolo(folder)
    assert found.classes == ("0", "1", "2")
    first, second = found.images
    assert first.path == folder / "images" / "a.png"
    assert (first.width, first.height) == (20, 10)
    # The second is cut at the corner; the third has no width.
    np.testing.assert_allclose(first.boxes, [[5, 4, 15, 6], [18, 0, 20, 2]], rtol=1e-6)
    assert first.labels.tolist() == [2, 0]
    assert second.boxes.shape == (0, 4)  # no label file


def test_classes_by_argument(folder):
    assert read_yolo(folder, classes=["x", "y", "z"]).classes == ("x", "y", "z")


@pytest.mark.parametrize("below", ["", "labels"])
def test_classes_by_file(folder, below):
    label(folder / below / "classes.txt", "cat\ndog\n\nhouse cat\nbird\n")
    assert read_yolo(folder).classes == ("cat", "dog", "house cat", "bird")


def test_empty_classes_file(folder):
    label(folder / "classes.txt", "\n")
    with pytest.raises(UsageError, match=r"classes\.txt names no class"):
        read_yolo(folder)


def test_splits(tmp_path):
    for split, line in (("train", "1 .5 .5 .5 .5"), ("val", "0 .5 .5 .5 .5")):
        image(tmp_path / "images" / split / "sub" / "a.png")
        label(tmp_path / "labels" / split / "sub" / "a.txt", line)
    assert [i.labels.tolist() for i in read_yolo(tmp_path, "val").images] == [[0]]
    assert [i.labels.tolist() for i in read_yolo(tmp_path).images] == [[1], [0]]


def test_empty_label_file_is_an_image_without_boxes(folder):
    label(folder / "labels" / "a.txt", "")
    assert [len(i.boxes) for i in read_yolo(folder).images] == [0, 0]


@pytest.mark.parametrize("name", ["images", "labels"])
def test_missing_folder(folder, name):
    (folder / name).rename(folder / "elsewhere")
    with pytest.raises(UsageError, match=f"no folder .*{name}"):
        read_yolo(folder)


def test_missing_split(folder):
    with pytest.raises(UsageError, match=r"no folder .*train"):
        read_yolo(folder, "train")


def test_no_images(folder):
    for path in (folder / "images").iterdir():
        path.unlink()
    with pytest.raises(UsageError, match="no image below"):
        read_yolo(folder)


def test_no_label_file_at_all(folder):
    (folder / "labels" / "a.txt").rename(folder / "labels" / "c.txt")
    with pytest.raises(UsageError, match="None of the 2 images"):
        read_yolo(folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 .5 .5 .5", "has not five fields"),
        ("0 .5 .5 .5 .5 .9", "predictions with a score"),
        ("0 .1 .1 .2 .1 .2 .2", "outline of a segmentation"),
        ("cat .5 .5 .5 .5", "not a non-negative integer"),
        ("1.0 .5 .5 .5 .5", "not a non-negative integer"),
        ("-1 .5 .5 .5 .5", "not a non-negative integer"),
        ("\u0661 .5 .5 .5 .5", "not a non-negative integer"),
        ("3 .5 .5 .5 .5", "out of range"),
        ("9" * 5000 + " .5 .5 .5 .5", "out of range"),
        ("0 .5 .5 .5 x", "not a number"),
        ("0 .5 .5 .5 1.5", "outside 0..1"),
        ("0 320 .5 .5 .5", "outside 0..1"),
        ("0 .5 -.5 .5 .5", "outside 0..1"),
        ("0 nan .5 .5 .5", "outside 0..1"),
        ("0 .5 .5 inf .5", "outside 0..1"),
    ],
)
def test_bad_line(folder, line, message):
    label(folder / "labels" / "b.txt", f"0 .5 .5 .5 .5\n{line}\n")
    with pytest.raises(UsageError, match=message) as info:
        read_yolo(folder, classes=("x", "y", "z"))
    assert "ine 2 of" in info.value.what
    assert "b.txt" in info.value.what
    assert repr(line)[:90] in info.value.seen + "'"


def test_huge_class_without_names(folder):
    label(folder / "labels" / "b.txt", "1000000000000000000000 .5 .5 .5 .5")
    with pytest.raises(UsageError, match="out of range"):
        read_yolo(folder)


def test_rounding_is_forgiven(folder):
    label(folder / "labels" / "b.txt", "0 .5 .5 1.000001 1.000001")
    assert read_yolo(folder).images[1].boxes.tolist() == [[0, 0, 8, 8]]


def test_binary_label_file(folder):
    (folder / "labels" / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"Cannot read .*b\.txt"):
        read_yolo(folder)


def test_broken_image(folder):
    (folder / "images" / "b.png").write_bytes(b"broken")
    with pytest.raises(UsageError, match=r"b\.png is not an image"):
        read_yolo(folder)
