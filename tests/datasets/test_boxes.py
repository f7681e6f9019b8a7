from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tvm_iovt.datasets import BoxedImage
from tvm_iovt.datasets.boxes import (
    clipped_boxes,
    cxcywh_to_xyxy,
    xywh_to_xyxy,
    xyxy_to_cxcywh,
)
from tvm_iovt.errors import UsageError


def test_conversions():
    assert xywh_to_xyxy(np.array([[10.0, 20, 4, 6]])).tolist() == [[10, 20, 14, 26]]
    assert cxcywh_to_xyxy(np.array([[10.0, 20, 4, 6]])).tolist() == [[8, 17, 12, 23]]
    assert xyxy_to_cxcywh(np.array([[8.0, 17, 12, 23]])).tolist() == [[10, 20, 4, 6]]


def test_conversions_keep_leading_axes():
    boxes = np.random.default_rng(0).random((2, 3, 4))
    np.testing.assert_allclose(xyxy_to_cxcywh(cxcywh_to_xyxy(boxes)), boxes)
    assert xywh_to_xyxy(np.zeros((0, 4))).shape == (0, 4)


def test_clipping_keeps_labels_with_their_boxes():
    boxes = np.array(
        [
            [-5, -5, 3, 4],  # over the corner
            [2, 2, 8, 8],  # inside
            [20, 0, 30, 5],  # outside
            [5, 5, 5, 9],  # no width
            [6, 9, 8, 7],  # negative height
            [9, 9, 99, 99],
        ]
    )
    found, labels = clipped_boxes(boxes, np.arange(6, dtype=np.uint8), width=20, height=10)
    assert found.tolist() == [[0, 0, 3, 4], [2, 2, 8, 8], [9, 9, 20, 10]]
    assert labels.tolist() == [0, 1, 5]
    assert (found.dtype, labels.dtype) == (np.float32, np.int64)


def test_width_that_float32_does_not_have_is_dropped():
    boxes = np.array([[1000.0, 0, 1000.0 + 1e-6, 5]])
    found, labels = clipped_boxes(boxes, np.array([0]), width=2000, height=10)
    assert found.shape == (0, 4)
    assert labels.shape == (0,)


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [
        (np.zeros((1, 5), np.float32), np.zeros(1, np.int64), "boxes of a.png"),
        (np.zeros((1, 4), np.float64), np.zeros(1, np.int64), "boxes of a.png"),
        (np.zeros(4, np.float32), np.zeros(1, np.int64), "boxes of a.png"),
        (np.zeros((1, 4), np.float32), np.zeros(2, np.int64), "labels of a.png"),
        (np.zeros((1, 4), np.float32), np.zeros(1, np.int32), "labels of a.png"),
    ],
)
def test_shapes_are_checked(boxes, labels, message):
    with pytest.raises(UsageError, match=message):
        BoxedImage(path=Path("a.png"), width=1, height=1, boxes=boxes, labels=labels)
