import struct

import numpy as np
import onnx
import pytest

from tvm_iovt.images import read_metadata

pytest.importorskip("torch")

from tvm_iovt.datasets.mnist import FILES
from tvm_iovt.zoo.train_digits import SHIFT_PIXELS, _shift, accuracy, main, train


def _easy_set(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Each class is a bright bar of its own height: learnable in a few steps."""
    labels = (np.arange(count) % 10).astype(np.uint8)
    images = np.zeros((count, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4 : 6 + 2 * label, 4:24] = 255
    return images, labels


def _write_set(folder, split, images, labels):
    for name, array in zip(FILES[split], (images, labels), strict=True):
        header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
        (folder / name).write_bytes(header + array.tobytes())


def test_training_learns():
    images, labels = _easy_set(640)
    model = train(images, labels, epochs=10, batch_size=64)
    assert accuracy(model, images, labels) > 0.7  # chance is 0.1


def test_training_repeats():
    images, labels = _easy_set(128)
    models = [train(images, labels, epochs=1, batch_size=32, seed=3) for _ in range(2)]
    first, second = (model.classify.weight.detach().numpy() for model in models)
    np.testing.assert_array_equal(first, second)


def test_shift_moves_by_at_most_the_margin():
    images = np.zeros((50, 28, 28), dtype=np.uint8)
    images[:, 14, 14] = 255
    shifted = _shift(images, np.random.default_rng(0))
    _, rows, columns = np.nonzero(shifted)
    assert len(rows) == 50
    for positions in (rows, columns):
        assert set(positions) == set(range(14 - SHIFT_PIXELS, 14 + SHIFT_PIXELS + 1))


def test_command_writes_the_network(tmp_path, capsys):
    _write_set(tmp_path, "train", *_easy_set(256))
    _write_set(tmp_path, "test", *_easy_set(20))
    out = tmp_path / "new.onnx"
    assert main(["--data", str(tmp_path), "-o", str(out), "--epochs", "1"]) == 0
    captured = capsys.readouterr()
    assert "test accuracy" in captured.out
    assert "epoch 1/1" in captured.err
    assert read_metadata(onnx.load(out))[1] == tuple("0123456789")


def test_command_without_data_exits_with_2(tmp_path, capsys):
    assert main(["--data", str(tmp_path)]) == 2
    assert "train-images-idx3-ubyte" in capsys.readouterr().err
