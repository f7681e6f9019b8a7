from __future__ import annotations

import pytest
from PIL import Image

from tvm_iovt.datasets import open_image_folder, read_image_folder
from tvm_iovt.errors import UsageError


def write(path, colour=(1, 2, 3), size=(5, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "dog" / "b.png", (10, 0, 0))
    write(tmp_path / "dog" / "more" / "a.png", (20, 0, 0), (7, 7))
    write(tmp_path / "ant" / "z.png", (30, 0, 0))
    (tmp_path / "cat").mkdir()
    return tmp_path


def test_classes_are_sorted_and_count_when_empty(folder):
    found = open_image_folder(folder)
    assert found.classes == ("ant", "cat", "dog")
    assert [path.name for path in found.files] == ["z.png", "b.png", "a.png"]
    assert found.labels == (0, 2, 2)
    assert len(found) == 3


def test_numbers_are_sorted_as_numbers(tmp_path):
    for name in ("10", "2", "0"):
        write(tmp_path / name / "a.png")
    found = open_image_folder(tmp_path)
    assert found.classes == ("0", "2", "10")
    labels = {p.parent.name: n for p, n in zip(found.files, found.labels, strict=True)}
    assert labels == {"0": 0, "2": 1, "10": 2}


def test_iteration_decodes(folder):
    found = [
        (pixels.shape, int(pixels[0, 0, 0]), label) for pixels, label in open_image_folder(folder)
    ]
    assert found == [((4, 5, 3), 30, 0), ((4, 5, 3), 10, 2), ((7, 7, 3), 20, 2)]


def test_iteration_is_lazy_and_names_the_broken_file(folder):
    (folder / "dog" / "b.png").write_bytes(b"broken")
    images = iter(open_image_folder(folder))
    assert next(images)[1] == 0
    with pytest.raises(UsageError, match=r"b\.png is not an image"):
        next(images)


def test_read(folder):
    found = read_image_folder(folder, size=(2, 3))
    assert found.images.shape == (3, 2, 3, 3)
    assert found.images[:, 0, 0, 0].tolist() == [30, 10, 20]
    assert found.labels.tolist() == [0, 2, 2]
    assert found.classes == ("ant", "cat", "dog")


@pytest.mark.parametrize(
    ("split", "name"), [("train", "train"), ("test", "test"), ("test", "val"), ("extra", "extra")]
)
def test_split(tmp_path, split, name):
    write(tmp_path / name / "dog" / "a.png")
    write(tmp_path / "other" / "cat" / "a.png")
    assert open_image_folder(tmp_path, split).classes == ("dog",)


def test_missing_split(folder):
    with pytest.raises(UsageError, match="no folder test or val") as info:
        open_image_folder(folder, "test")
    assert "ant, cat, dog" in info.value.seen


def test_split_has_to_be_asked_for(tmp_path):
    for name in ("train", "val"):
        write(tmp_path / name / "dog" / "a.png")
    with pytest.raises(UsageError, match="divided into splits"):
        open_image_folder(tmp_path)


def test_loose_image(folder):
    write(folder / "loose.png")
    with pytest.raises(UsageError, match=r"loose\.png is in no class folder"):
        open_image_folder(folder)


def test_no_images(tmp_path):
    (tmp_path / "dog").mkdir()
    with pytest.raises(UsageError, match="no image below"):
        open_image_folder(tmp_path)


def test_no_folder(tmp_path):
    with pytest.raises(UsageError, match="not a folder"):
        open_image_folder(tmp_path / "gone")


@pytest.mark.parametrize("size", [(0, 3), (3, -3)])
def test_bad_size(folder, size):
    with pytest.raises(UsageError, match="resized to nothing"):
        read_image_folder(folder, size=size)


@pytest.mark.parametrize("side", [2**27, 2**40])
def test_beyond_memory(folder, side):
    with pytest.raises(UsageError, match="fit into memory"):
        read_image_folder(folder, size=(side, side))


def test_read_names_the_broken_file(folder):
    path = folder / "dog" / "b.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UsageError, match=r"b\.png"):
        read_image_folder(folder, size=(2, 3))
