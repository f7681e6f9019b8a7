import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_iovt.errors import UsageError
from tvm_iovt.nn.detections import (
    cell_centres,
    decode,
    intersection_over_union,
    non_maximum_suppression,
)

HW = (64, 96)
CELLS = 8 * 12 + 4 * 6 + 2 * 3


def output_with(*objects, classes=3):
    """Each object: (cell, class, score, distances)."""
    output = np.zeros((CELLS, classes + 4), np.float32)
    for cell, label, score, distances in objects:
        output[cell, label] = score
        output[cell, -4:] = distances
    return output


def test_centres_go_level_by_level_and_row_by_row():
    centres = cell_centres(HW)
    assert centres.shape == (CELLS, 2)
    np.testing.assert_array_equal(centres[[0, 1, 11, 12]], [[4, 4], [12, 4], [92, 4], [4, 12]])
    np.testing.assert_array_equal(
        centres[[96, 97, 120, 125]], [[8, 8], [24, 8], [16, 16], [80, 48]]
    )


def test_box_is_around_the_centre_of_its_cell():
    found = decode(output_with((97, 2, 0.9, (1, 2, 3, 4))), HW)
    np.testing.assert_array_equal(found.boxes, [[23, 6, 27, 12]])
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert found.scores.tolist() == [np.float32(0.9)]
    assert found.classes.tolist() == [2]
    assert found.classes.dtype == np.int64


def test_boxes_are_clipped():
    found = decode(output_with((0, 0, 0.9, (50, 50, 500, 500))), HW)
    np.testing.assert_array_equal(found.boxes, [[0, 0, 96, 64]])


def test_duplicates_go_but_other_classes_stay():
    same = (10, 10, 10, 10)
    output = output_with((0, 0, 0.6, same), (1, 0, 0.5, same), (0, 1, 0.4, same))
    found = decode(output, HW, iou_threshold=0.2)
    assert found.classes.tolist() == [0, 1]
    np.testing.assert_allclose(found.scores, [0.6, 0.4])
    found = decode(output, HW, iou_threshold=0.9)
    assert found.classes.tolist() == [0, 0, 1]
    np.testing.assert_allclose(found.scores, [0.6, 0.5, 0.4])


def test_threshold_and_limit():
    output = output_with(*((cell, 0, 0.3 + cell / 100, (3, 3, 3, 3)) for cell in range(20)))
    assert len(decode(output, HW).boxes) == 20
    assert len(decode(output, HW, score_threshold=0.395).boxes) == 10
    found = decode(output, HW, limit=5)
    np.testing.assert_allclose(found.scores, [0.49, 0.48, 0.47, 0.46, 0.45], rtol=1e-6)


def test_nothing_found():
    found = decode(output_with(), HW)
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == found.classes.shape == (0,)


def test_image_that_is_no_multiple_of_the_stride():
    with pytest.raises(UsageError, match="multiples of 32"):
        cell_centres((64, 80))


@pytest.mark.parametrize("shape", [(CELLS - 1, 7), (CELLS, 4), (1, CELLS, 7)])
def test_output_of_another_shape(shape):
    with pytest.raises(UsageError, match="not of a detector for this image"):
        decode(np.zeros(shape, np.float32), HW)


def test_overlap_of_known_boxes():
    others = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [2, 0, 4, 2], [1, 1, 1, 1]], np.float32)
    overlap = intersection_over_union(np.array([0, 0, 2, 2], np.float32), others)
    np.testing.assert_allclose(overlap, [1, 1 / 7, 0, 0])


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.floats(0.05, 0.95))
def test_suppression_keeps_no_pair_and_drops_only_for_a_better_one(seed, count, threshold):
    generator = np.random.default_rng(seed)
    low = generator.uniform(0, 20, (count, 2))
    boxes = np.concatenate([low, low + generator.uniform(1, 20, (count, 2))], axis=1)
    scores = generator.permutation(count) / max(count, 1)
    kept = non_maximum_suppression(boxes, scores, threshold)
    assert (np.diff(scores[kept]) < 0).all()
    for index in range(count):
        better = [k for k in kept if scores[k] > scores[index]]
        overlaps = intersection_over_union(boxes[index], boxes[better])
        assert (index in kept) == bool((overlaps <= threshold).all())
