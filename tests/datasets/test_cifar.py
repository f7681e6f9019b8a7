from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from tvm_iovt.datasets import read_cifar10, read_cifar100
from tvm_iovt.datasets.cifar import has_cifar10, has_cifar100
from tvm_iovt.errors import UsageError

NAMES = [b"airplane", b"automobile", b"bird"]


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def rows(pixels: np.ndarray) -> np.ndarray:
    return np.stack([np.concatenate([image[..., c].ravel() for c in range(3)]) for image in pixels])


def dump(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=4))


@pytest.fixture
def cifar10(tmp_path):
    dump(tmp_path / "batches.meta", {b"label_names": NAMES, b"num_vis": 3072})
    for number in (1, 2):
        batch = {b"data": rows(images(2, number)), b"labels": [number, 0], b"filenames": [b"a"] * 2}
        dump(tmp_path / f"data_batch_{number}", batch)
    dump(tmp_path / "test_batch", {b"data": rows(images(3)), b"labels": [2, 1, 0]})
    return tmp_path


@pytest.fixture
def cifar100(tmp_path):
    meta = {b"fine_label_names": [b"apple", b"bee", b"cup"], b"coarse_label_names": [b"x", b"y"]}
    dump(tmp_path / "meta", meta)
    for split, seed in (("train", 3), ("test", 4)):
        content = {b"data": rows(images(3, seed)), b"fine_labels": [0, 2, 1]}
        dump(tmp_path / split, {**content, b"coarse_labels": [1, 0, 1]})
    return tmp_path


def test_cifar10_test(cifar10):
    found = read_cifar10(cifar10, "test")
    np.testing.assert_array_equal(found.images, images(3))
    assert found.images.flags.writeable
    assert found.labels.tolist() == [2, 1, 0]
    assert found.classes == ("airplane", "automobile", "bird")


def test_cifar10_train_joins_the_batches(cifar10):
    found = read_cifar10(cifar10, "train")
    np.testing.assert_array_equal(found.images, np.concatenate([images(2, 1), images(2, 2)]))
    assert found.labels.tolist() == [1, 0, 2, 0]


def test_cifar10_below(cifar10, tmp_path):
    root = tmp_path / "data"
    (root / "cifar-10-batches-py").mkdir(parents=True)
    for path in cifar10.iterdir():
        if path.is_file():
            path.rename(root / "cifar-10-batches-py" / path.name)
    assert len(read_cifar10(root, "test")) == 3


@pytest.mark.parametrize(
    ("coarse", "labels", "classes"),
    [(False, [0, 2, 1], ("apple", "bee", "cup")), (True, [1, 0, 1], ("x", "y"))],
)
def test_cifar100(cifar100, coarse, labels, classes):
    found = read_cifar100(cifar100, "test", coarse=coarse)
    np.testing.assert_array_equal(found.images, images(3, 4))
    assert found.labels.tolist() == labels
    assert found.classes == classes
    np.testing.assert_array_equal(read_cifar100(cifar100, "train").images, images(3, 3))


def test_labels_may_be_an_array(cifar10):
    dump(cifar10 / "test_batch", {"data": rows(images(2)), "labels": np.array([2, 0])})
    assert read_cifar10(cifar10, "test").labels.tolist() == [2, 0]


@pytest.mark.parametrize("name", ["batches.meta", "test_batch"])
def test_missing_file(cifar10, name):
    (cifar10 / name).unlink()
    with pytest.raises(UsageError, match=f"no {name} in"):
        read_cifar10(cifar10, "test")


def test_gap_in_the_batches(cifar10):
    (cifar10 / "data_batch_2").rename(cifar10 / "data_batch_3")
    with pytest.raises(UsageError, match="no data_batch_2"):
        read_cifar10(cifar10, "train")


def test_no_training_batch(cifar10):
    for number in (1, 2):
        (cifar10 / f"data_batch_{number}").unlink()
    with pytest.raises(UsageError, match="no data_batch_1"):
        read_cifar10(cifar10, "train")


@pytest.mark.parametrize("read", [read_cifar10, read_cifar100])
def test_unknown_split(tmp_path, read):
    with pytest.raises(UsageError, match="no split 'val'"):
        read(tmp_path, "val")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": [0]}, "has no data"),
        ({"data": rows(images(1))}, "has no labels"),
        ({"data": [1, 2], "labels": [0]}, "not an array"),
        ({"data": rows(images(1))[:, 1:], "labels": [0]}, "uint8"),
        ({"data": rows(images(1)).astype(np.int16), "labels": [0]}, "uint8"),
        ({"data": rows(images(1))[0], "labels": [0]}, "uint8"),
        ({"data": rows(images(1))[:0], "labels": []}, "holds no images"),
        ({"data": rows(images(1)), "labels": [0, 1]}, "belong together"),
        ({"data": rows(images(1)), "labels": [3]}, "out of range"),
        ({"data": rows(images(1)), "labels": [-1]}, "out of range"),
        ({"data": rows(images(1)), "labels": [1 << 100_000]}, "out of range"),
        ({"data": rows(images(1)), "labels": [1.0]}, "list of integers"),
        ({"data": rows(images(1)), "labels": [True]}, "list of integers"),
        ({"data": rows(images(1)), "labels": np.array([[0]])}, "list of integers"),
        ({"data": rows(images(1)), "labels": None}, "list of integers"),
    ],
)
def test_bad_batch(cifar10, content, message):
    dump(cifar10 / "test_batch", content)
    with pytest.raises(UsageError, match=message) as info:
        read_cifar10(cifar10, "test")
    assert "test_batch" in info.value.what


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "has no label_names"),
        ({"label_names": "airplane"}, "list of names"),
        ({"label_names": [1, 2, 3]}, "list of names"),
        ({"label_names": [b"\xff", b"", b""]}, "not UTF-8"),
        ({"label_names": []}, "out of range"),
    ],
)
def test_bad_class_names(cifar10, content, message):
    dump(cifar10 / "batches.meta", content)
    with pytest.raises(UsageError, match=message):
        read_cifar10(cifar10, "test")


def test_truncated_batch(cifar10):
    path = cifar10 / "test_batch"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UsageError, match="test_batch is not a pickle"):
        read_cifar10(cifar10, "test")


def test_malicious_batch(cifar10, tmp_path):
    marker = tmp_path / "marker"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    dump(cifar10 / "test_batch", {"data": rows(images(1)), "labels": Evil()})
    with pytest.raises(UsageError, match="test_batch") as info:
        read_cifar10(cifar10, "test")
    assert ".system" in info.value.seen
    assert not marker.exists()


def test_object_array(cifar10):
    content = {"data": np.array([[None] * 3072], dtype=object), "labels": [0]}
    dump(cifar10 / "test_batch", content)
    with pytest.raises(UsageError, match="test_batch") as info:
        read_cifar10(cifar10, "test")
    assert "objects" in info.value.seen


def test_cifar100_read_as_cifar10(cifar100):
    (cifar100 / "meta").rename(cifar100 / "batches.meta")
    with pytest.raises(UsageError, match="has no label_names") as info:
        read_cifar10(cifar100, "test")
    assert "fine_label_names" in info.value.seen


def test_detection(tmp_path):
    assert not has_cifar10(tmp_path)
    assert not has_cifar100(tmp_path)
    (tmp_path / "train").touch()
    assert not has_cifar100(tmp_path)
    (tmp_path / "meta").touch()
    assert has_cifar100(tmp_path)
    assert not has_cifar10(tmp_path)
    (tmp_path / "data_batch_5").touch()
    assert has_cifar10(tmp_path)
