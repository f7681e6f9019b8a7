from __future__ import annotations

import numpy as np
import pytest

from tvm_iovt.datasets.labelled_images import LabelledImages


def bars(count: int, seed: int) -> LabelledImages:
    """Noise with a bright bar, whose row is the class; `[count, 8, 8, 1]`."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    images = random.integers(0, 120, (count, 8, 8, 1), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label + 1] += 100
    return LabelledImages(images=images, labels=labels.astype(np.int64), classes=("a", "b", "c"))


@pytest.fixture(scope="session")
def data() -> LabelledImages:
    return bars(160, seed=0)


@pytest.fixture(scope="session")
def unseen() -> LabelledImages:
    return bars(200, seed=1)


@pytest.fixture
def network():
    """A new small network of RepVGG blocks with the same weights at each call."""
    pytest.importorskip("torch")
    from tvm_iovt.nn.digit_network import digit_network
    from tvm_iovt.nn.training import seeded_model

    return lambda: seeded_model(lambda: digit_network(width=4, num_classes=3), 0)


@pytest.fixture(scope="session")
def trained(data):
    """That network, trained; a copy at each call."""
    pytest.importorskip("torch")
    import copy

    from tvm_iovt.nn.digit_network import digit_network
    from tvm_iovt.nn.training import TrainingOptions, seeded_model, train

    model = seeded_model(lambda: digit_network(width=4, num_classes=3), 0)
    train(model, data, TrainingOptions(epochs=8, batch_size=16, shift_pixels=0))
    return lambda: copy.deepcopy(model)
