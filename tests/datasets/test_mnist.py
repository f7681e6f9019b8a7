from __future__ import annotations

import gzip
import struct
import tracemalloc

import numpy as np
import pytest

from tvm_iovt.datasets import mnist
from tvm_iovt.datasets.mnist import FILES, has_mnist, read_idx, read_split
from tvm_iovt.errors import UsageError


def idx(array: np.ndarray) -> bytes:
    return (
        bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + bytes(array)
    )


def _images(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 5, 4), dtype=np.uint8)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_idx_round_trip(tmp_path, compress):
    path = tmp_path / "file"
    path.write_bytes(compress(idx(_images())))
    np.testing.assert_array_equal(read_idx(path), _images())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an idx file"),
        (b"\x00\x00\x08", "not an idx file"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x00", "not an idx file"),  # floats
        (b"\x00\x00\x08\x00", "not an idx file"),
        (b"\x89PNG\r\n", "not an idx file"),
        (b"\x00\x00\x08\x03\x00\x00", "inside its header"),
        (idx(_images())[:-1], "as many elements"),
        (idx(_images()) + b"\x00", "as many elements"),
        (b"\x00\x00\x08\x02\xff\xff\xff\xff\xff\xff\xff\xff", "as many elements"),
        (gzip.compress(idx(_images()))[:-12], "Cannot read"),
        (b"\x1f\x8bnot really gzip", "Cannot read"),
        (gzip.compress(idx(_images()))[:-8] + bytes(8), "Cannot read"),  # checksum
        (gzip.compress(idx(_images()) + b"\x00"), "as many elements"),
        (gzip.compress(idx(_images())[:-1]), "as many elements"),
        (idx(_images(0)), "is empty"),
        (idx(np.zeros((3, 0, 4), np.uint8)), "is empty"),
        (bytes((0, 0, 8, 33)) + b"\x00\x00\x00\x01" * 33 + b"\x07", "too many axes"),
    ],
)
def test_broken_idx(tmp_path, content, message):
    path = tmp_path / "broken-idx"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as info:
        read_idx(path)
    assert "broken-idx" in info.value.what


@pytest.mark.parametrize("below", ["", "raw", "MNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_read_split(tmp_path, below, suffix):
    folder = tmp_path / below
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.array([7, 0, 9], dtype=np.uint8)
    for name, array in zip(FILES["test"], (_images(), labels), strict=True):
        (folder / (name + suffix)).write_bytes((gzip.compress if suffix else bytes)(idx(array)))
    found = read_split(tmp_path, "test")
    np.testing.assert_array_equal(found[0], _images())
    np.testing.assert_array_equal(found[1], labels)
    with pytest.raises(UsageError, match="train-images-idx3-ubyte"):
        read_split(tmp_path, "train")


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_header_cannot_make_it_allocate(tmp_path, compress):
    path = tmp_path / "forged"
    path.write_bytes(compress(bytes((0, 0, 8, 1)) + struct.pack(">I", 2**31 - 1) + bytes(100)))
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match="as many elements"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_too_large_for_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "MAX_BYTES", 59)
    path = tmp_path / "large"
    path.write_bytes(idx(_images(3)))
    with pytest.raises(UsageError, match="too large"):
        read_idx(path)
    path.write_bytes(idx(_images(2)))
    assert read_idx(path).shape == (2, 5, 4)


def test_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(UsageError, match="Cannot read"):
        read_idx(tmp_path)


def test_unknown_split(tmp_path):
    with pytest.raises(UsageError, match="no split 'val'"):
        read_split(tmp_path, "val")


def test_has_mnist(tmp_path):
    assert not has_mnist(tmp_path)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / (FILES["test"][1] + ".gz")).touch()
    assert has_mnist(tmp_path)


def test_images_and_labels_must_match(tmp_path):
    for name, array in zip(FILES["test"], (_images(3), np.zeros(4, np.uint8)), strict=True):
        (tmp_path / name).write_bytes(idx(array))
    with pytest.raises(UsageError, match="belong together"):
        read_split(tmp_path, "test")
