from __future__ import annotations

import numpy as np
import pytest

from tvm_iovt.datasets import LabelledImages
from tvm_iovt.errors import UsageError

GOOD = {
    "images": np.zeros((2, 4, 5, 3), np.uint8),
    "labels": np.array([0, 1], np.int64),
    "classes": ("cat", "dog"),
}


def test_good():
    assert len(LabelledImages(**GOOD)) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((2, 4, 5), np.uint8)}, "N, H, W, C"),
        ({"images": np.zeros((2, 3, 4, 5), np.uint8)}, "N, H, W, C"),
        ({"images": np.zeros((2, 4, 5, 3), np.float32)}, "N, H, W, C"),
        ({"labels": np.zeros(3, np.int64)}, "labels of 2 images"),
        ({"labels": np.zeros(2, np.uint8)}, "labels of 2 images"),
        ({"labels": np.array([0, 2], np.int64)}, "not the index of a class"),
        ({"labels": np.array([-1, 0], np.int64)}, "not the index of a class"),
        (
            {"images": np.zeros((0, 4, 5, 3), np.uint8), "labels": np.zeros(0, np.int64)},
            "no images",
        ),
        ({"images": np.zeros((2, 0, 5, 3), np.uint8)}, "no images"),
    ],
)
def test_bad(change, message):
    with pytest.raises(UsageError, match=message):
        LabelledImages(**{**GOOD, **change})
