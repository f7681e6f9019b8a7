from __future__ import annotations

import pickle
import struct

import numpy as np
import pytest
from PIL import Image

from tvm_iovt.datasets import read_labelled_images
from tvm_iovt.datasets.mnist import FILES
from tvm_iovt.datasets.read import LAYOUTS
from tvm_iovt.errors import UsageError


def mnist(folder, labels=(7, 0)):
    arrays = (np.arange(len(labels) * 20, dtype=np.uint8).reshape(-1, 5, 4), np.uint8(labels))
    for name, array in zip(FILES["test"], arrays, strict=True):
        shape = struct.pack(f">{array.ndim}I", *array.shape)
        (folder / name).write_bytes(bytes((0, 0, 8, array.ndim)) + shape + bytes(array))


def cifar(folder, kind):
    meta, batch, prefix = {
        10: ("batches.meta", "test_batch", ""),
        100: ("meta", "test", "fine_"),
    }[kind]
    content = {"data": np.full((2, 3072), kind, np.uint8), f"{prefix}labels": [1, 0]}
    names = {f"{prefix}label_names": ["cat", "dog"]}
    (folder / meta).write_bytes(pickle.dumps(names, protocol=2))
    (folder / batch).write_bytes(pickle.dumps(content, protocol=2))


def class_folder(folder):
    folder.mkdir(parents=True)
    Image.new("RGB", (3, 3), (5, 6, 7)).save(folder / "a.png")


def test_mnist(tmp_path):
    mnist(tmp_path)
    found = read_labelled_images(tmp_path, "test")
    np.testing.assert_array_equal(found.images.ravel(), np.arange(40))
    assert found.images.shape == (2, 5, 4, 1)
    assert found.labels.tolist() == [7, 0]
    assert found.classes == tuple("0123456789")


def test_more_classes_in_the_format_of_mnist(tmp_path):
    mnist(tmp_path, (25, 0))
    assert len(read_labelled_images(tmp_path, "test").classes) == 26


@pytest.mark.parametrize("kind", [10, 100])
def test_cifar(tmp_path, kind):
    cifar(tmp_path, kind)
    found = read_labelled_images(tmp_path, "test", size=(32, 32))
    assert found.images.shape == (2, 32, 32, 3)
    assert (found.images == kind).all()
    assert found.classes == ("cat", "dog")


def test_class_folders(tmp_path):
    class_folder(tmp_path / "val" / "dog")
    found = read_labelled_images(tmp_path, "test", size=(4, 6))
    assert found.images.shape == (1, 4, 6, 3)
    assert found.images[0, 0, 0].tolist() == [5, 6, 7]
    undivided = read_labelled_images(tmp_path / "val", None, size=(4, 6))
    assert undivided.classes == ("dog",)


def test_class_folders_need_a_size(tmp_path):
    class_folder(tmp_path / "train" / "dog")
    with pytest.raises(UsageError, match="of any size"):
        read_labelled_images(tmp_path, "train")


def test_split_of_an_undivided_set(tmp_path):
    class_folder(tmp_path / "dog")
    with pytest.raises(UsageError, match="split 'train'") as info:
        read_labelled_images(tmp_path, "train", size=(4, 4))
    assert "need no split" in info.value.do


def test_other_layouts_are_not_resized(tmp_path):
    mnist(tmp_path)
    with pytest.raises(UsageError, match="MNIST are not resized"):
        read_labelled_images(tmp_path, "test", size=(32, 32))


def test_other_layouts_need_a_split(tmp_path):
    mnist(tmp_path)
    with pytest.raises(UsageError, match="divided into splits"):
        read_labelled_images(tmp_path, None)


def test_several_layouts(tmp_path):
    mnist(tmp_path)
    cifar(tmp_path, 100)
    with pytest.raises(UsageError, match="several data sets") as info:
        read_labelled_images(tmp_path, "test")
    assert info.value.seen == "MNIST, CIFAR-100"


@pytest.mark.parametrize("split", ["test", None])
def test_unknown_layout_lists_what_was_looked_for(tmp_path, split):
    (tmp_path / "readme.txt").touch()
    with pytest.raises(UsageError, match="known layout") as info:
        read_labelled_images(tmp_path, split)
    assert info.value.seen == "readme.txt"
    for name, files in LAYOUTS.items():
        assert f"{name}: {files}" in info.value.do


def test_no_folder(tmp_path):
    with pytest.raises(UsageError, match="not a folder"):
        read_labelled_images(tmp_path / "gone", "test")


def test_missing_split(tmp_path):
    mnist(tmp_path)
    with pytest.raises(UsageError, match="train-images-idx3-ubyte"):
        read_labelled_images(tmp_path, "train")
