from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tvm_iovt.datasets.pixels import image_size, read_pixels
from tvm_iovt.errors import UsageError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


@pytest.fixture
def png(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(PIXELS).save(path)
    return path


def test_own_size(png):
    assert image_size(png) == (6, 9)
    found = read_pixels(png)
    np.testing.assert_array_equal(found, PIXELS)
    assert found.dtype == np.uint8


def test_resized(png):
    expected = Image.fromarray(PIXELS).resize((4, 3), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(read_pixels(png, (3, 4)), np.asarray(expected))


def test_grey_becomes_rgb(tmp_path):
    path = tmp_path / "grey.png"
    Image.fromarray(PIXELS[..., 0]).save(path)
    np.testing.assert_array_equal(read_pixels(path), np.repeat(PIXELS[..., :1], 3, axis=2))


@pytest.mark.parametrize("size", [(0, 4), (4, -1)])
def test_bad_size(png, size):
    with pytest.raises(UsageError, match="resized to nothing"):
        read_pixels(png, size)


@pytest.mark.parametrize("read", [image_size, read_pixels])
def test_missing(tmp_path, read):
    with pytest.raises(UsageError, match=r"no image .*gone.png"):
        read(tmp_path / "gone.png")


@pytest.mark.parametrize("read", [image_size, read_pixels])
def test_no_image(tmp_path, read):
    path = tmp_path / "text.png"
    path.write_text("hello")
    with pytest.raises(UsageError, match=r"text.png is not an image"):
        read(path)


def test_truncated(png):
    png.write_bytes(png.read_bytes()[:-40])
    with pytest.raises(UsageError, match=r"image.png"):
        read_pixels(png)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_decompression_bomb(tmp_path):
    path = tmp_path / "bomb.png"
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", b""))
    with pytest.raises(UsageError, match=r"Cannot read .*bomb.png"):
        image_size(path)


def test_any_failure_of_the_decoder(png, monkeypatch):
    def convert(self, mode):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", convert)
    with pytest.raises(UsageError, match=r"Cannot read .*image.png") as info:
        read_pixels(png)
    assert info.value.seen == "MemoryError"
