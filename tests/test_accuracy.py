from pathlib import Path

import numpy as np
import pytest

from tvm_iovt.accuracy import MAX_DISAGREEMENTS, Accuracy, evaluate, read_labels
from tvm_iovt.errors import NumericsError, UsageError
from tvm_iovt.json_codec import from_json, to_json


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def _names(samples, folder):
    return [(path.relative_to(folder).as_posix(), label) for path, label in samples]


def test_folders_are_classes_in_sorted_order(tmp_path):
    _touch(tmp_path, "dog/1.jpg", "cat/deep/2.jpg", "cat/1.jpg", "readme.txt")
    (tmp_path / "bird").mkdir()  # an empty class still counts
    found = _names(read_labels(tmp_path, "folders"), tmp_path)
    assert found == [("cat/1.jpg", 1), ("cat/deep/2.jpg", 1), ("dog/1.jpg", 2)]


def test_integer_folders_are_the_index(tmp_path):
    _touch(tmp_path, "3/a.png", "10/b.png")
    assert sorted(label for _, label in read_labels(tmp_path, "folders")) == [3, 10]


def test_image_outside_of_the_class_folders(tmp_path):
    _touch(tmp_path, "cat/1.jpg", "2.jpg")
    with pytest.raises(UsageError, match=r"2\.jpg is in no class folder"):
        read_labels(tmp_path, "folders")


def test_prefix(tmp_path):
    _touch(tmp_path, "007_a.jpg", "12_b_c.png")
    assert [label for _, label in read_labels(tmp_path, "prefix")] == [7, 12]


@pytest.mark.parametrize("name", ["cat.jpg", "x7_a.jpg", "-1_a.jpg", "7.jpg"])
def test_prefix_that_is_no_index(tmp_path, name):
    _touch(tmp_path, name)
    with pytest.raises(UsageError, match="does not start with a class index"):
        read_labels(tmp_path, "prefix")


@pytest.mark.parametrize(
    "text",
    [
        "b.jpg,1\nsub/a 1.jpg,0\n",
        "b.jpg\t1\nsub/a 1.jpg\t0\n",
        "b.jpg 1\n\n# comment\nsub/a 1.jpg 0",
        'file,class\r\n"b.jpg", 1\r\n"sub/a 1.jpg";0\r\n',
        "\ufeffb.jpg,1\nsub/a 1.jpg,0\n",
    ],
)
def test_label_file(tmp_path, text):
    _touch(tmp_path, "sub/a 1.jpg", "b.jpg", "unlisted.jpg")
    file = tmp_path / "labels.csv"
    file.write_text(text, encoding="utf-8", newline="")
    found = _names(read_labels(tmp_path, str(file)), tmp_path)
    assert found == [("b.jpg", 1), ("sub/a 1.jpg", 0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("b.jpg,1\nb.jpg,cat\n", "line 2 .*labels.txt is not a non-negative integer"),
        ("b.jpg,-1\n", "not a non-negative integer"),
        ("b.jpg,1.5\n", "not a non-negative integer"),
        ("b.jpg\n", "not a non-negative integer"),
        ("gone.jpg,1\n", "line 1 .* does not exist"),
        ("file,class\n", "names no image"),
        ("", "names no image"),
    ],
)
def test_label_file_that_is_wrong(tmp_path, text, message):
    _touch(tmp_path, "b.jpg")
    file = tmp_path / "labels.txt"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_labels(tmp_path, str(file))


def test_label_file_that_cannot_be_read(tmp_path):
    _touch(tmp_path, "b.jpg")
    with pytest.raises(UsageError, match="There is no label file folder"):
        read_labels(tmp_path, "folder")
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00\xd8")
    for unreadable in (tmp_path / "x.txt", tmp_path):
        with pytest.raises(UsageError, match="Cannot read the label file"):
            read_labels(tmp_path, str(unreadable))


@pytest.mark.parametrize("labels", ["folders", "prefix", "labels.txt", None])
def test_missing_folder(tmp_path, labels):
    with pytest.raises(UsageError, match="not a folder"):
        read_labels(tmp_path / "gone", labels)


def _network(table):
    """A classifier that looks the scores of an image up."""
    return lambda inputs: {"output": np.array([table[int(inputs["x"])]], dtype=np.float32)}


def _load(path):
    return {"x": np.array(int(path.stem))}


def _samples(*labels):
    return [(Path(f"{index}.png"), label) for index, label in enumerate(labels)]


def test_evaluate_counts():
    ours = _network([[9, 5, 4, 3, 2, 1, 0], [0, 9, 1, 1, 1, 1, 1], [1, 2, 3, 4, 5, 6, 7]])
    theirs = _network([[9, 5, 4, 3, 2, 1, 0], [0, 9, 1, 1, 1, 1, 1], [1, 2, 3, 4, 5, 7, 6.5]])
    steps = []
    found = evaluate(
        ours, theirs, _samples(0, 3, 5), _load, progress=lambda done, total: steps.append(done)
    )
    assert found.images == 3
    assert found.labelled
    assert found.top1 == pytest.approx(1 / 3)  # image 0
    assert found.top5 == pytest.approx(1)  # 3 is third of equals in image 1
    assert found.reference_top1 == pytest.approx(2 / 3)  # images 0 and 2
    assert found.top1_agreement == pytest.approx(2 / 3)
    (different,) = found.disagreements
    assert (different.file, different.label) == ("2.png", 5)
    assert (different.ours, different.reference) == (6, 5)
    assert found.max_abs_difference == pytest.approx(1.0)
    assert steps == [1, 2, 3]
    assert from_json(Accuracy, to_json(found)) == found


def test_evaluate_without_labels():
    network = _network([[1, 2], [2, 1]])
    found = evaluate(network, network, _samples(None, None), _load)
    assert not found.labelled
    assert found.top1 is found.top5 is found.reference_top1 is found.reference_top5 is None
    assert found.top1_agreement == 1.0
    assert from_json(Accuracy, to_json(found)) == found


def test_top5_says_nothing_for_five_classes():
    network = _network([[1, 2, 3, 4, 5]])
    found = evaluate(network, network, _samples(4), _load)
    assert found.top1 == 1.0
    assert found.top5 is None


def test_disagreements_are_capped():
    count = MAX_DISAGREEMENTS + 5
    ours, theirs = _network([[1, 0]] * count), _network([[0, 1]] * count)
    found = evaluate(ours, theirs, _samples(*[None] * count), _load)
    assert len(found.disagreements) == MAX_DISAGREEMENTS
    assert found.top1_agreement == 0.0
    assert found.disagreements[0].label == -1


def test_unsigned_scores_do_not_wrap():
    def network(inputs):
        return {"output": np.array([[3, 200, 7, 1, 1, 1]], dtype=np.uint8)}

    assert evaluate(network, network, _samples(1), _load).top1 == 1.0


@pytest.mark.parametrize("shape", [(3,), (1, 3), (1, 3, 1, 1)])
def test_scores_are_found_beside_scalars(shape):
    def network(inputs):
        return {"confidence": np.ones((1,)), "scores": np.array([0, 0, 1.0]).reshape(shape)}

    assert evaluate(network, network, _samples(2), _load).top1 == 1.0


@pytest.mark.parametrize(
    "outputs",
    [
        {"mask": np.ones((1, 1, 4, 4))},
        {"a": np.ones((1, 4)), "b": np.ones((1, 4))},
        {"a": np.ones((1, 1))},
        {"batch": np.ones((2, 4))},
    ],
)
def test_networks_that_are_no_classifier(outputs):
    with pytest.raises(UsageError, match="classifier"):
        evaluate(lambda _: outputs, lambda _: outputs, _samples(0), _load)


def test_label_out_of_range_names_the_file():
    network = _network([[1, 2]])
    with pytest.raises(UsageError, match=r"0\.png is out of range"):
        evaluate(network, network, _samples(2), _load)


def test_evaluate_refuses():
    network = _network([[1, 2], [1, 2]])
    with pytest.raises(UsageError, match="no images"):
        evaluate(network, network, [], _load)
    with pytest.raises(UsageError, match="some have none"):
        evaluate(network, network, _samples(1, None), _load)
    with pytest.raises(UsageError, match="different numbers of classes"):
        evaluate(network, _network([[1, 2, 3]]), _samples(1), _load)


def test_nan_is_a_failure_not_a_class():
    with pytest.raises(NumericsError, match=r"0\.png is not finite"):
        evaluate(_network([[np.nan, 2]]), _network([[1, 2]]), _samples(1), _load)
