import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tvm_iovt.nn.image_batches import image_tensor, shifted  # noqa: E402

IMAGES = np.random.default_rng(0).integers(1, 256, (40, 6, 5, 3), dtype=np.uint8)


def test_tensor_is_channels_first_from_0_to_1():
    tensor = image_tensor(IMAGES, torch.nn.Linear(1, 1).double())
    assert tensor.shape == (40, 3, 6, 5)
    assert tensor.dtype == torch.float64
    np.testing.assert_array_equal(tensor[3, 1].numpy(), IMAGES[3, :, :, 1] / 255)


def test_model_without_parameters_takes_float32():
    assert image_tensor(IMAGES, torch.nn.ReLU()).dtype == torch.float32


def test_images_move_whole_and_all_offsets_occur():
    moved = shifted(IMAGES, 1, np.random.default_rng(1))
    assert moved.shape == IMAGES.shape
    assert moved.dtype == np.uint8
    padded = np.pad(IMAGES, ((0, 0), (1, 1), (1, 1), (0, 0)))
    seen = set()
    for image, wide in zip(moved, padded, strict=True):
        offsets = [
            (row, column)
            for row in range(3)
            for column in range(3)
            if np.array_equal(image, wide[row : row + 6, column : column + 5])
        ]
        assert len(offsets) == 1
        seen.update(offsets)
    assert len(seen) == 9


def test_no_shift_draws_nothing():
    generator = np.random.default_rng(1)
    before = generator.bit_generator.state
    assert shifted(IMAGES, 0, generator) is IMAGES
    assert generator.bit_generator.state == before
