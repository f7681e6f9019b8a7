from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image, ImageDraw, ImageFont

from tvm_iovt import zoo
from tvm_iovt.images import load_inputs, preset, read_metadata
from tvm_iovt.types import TensorSpec

SPEC = TensorSpec(name="input", shape=(1, 1, 28, 28), dtype="float32")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return zoo.export("digits", tmp_path_factory.mktemp("zoo") / "digits.onnx")


@pytest.fixture(scope="module")
def session(digits):
    return onnxruntime.InferenceSession(str(digits.path), providers=["CPUExecutionProvider"])


def draw_digit(digit: int) -> Image.Image:
    """A white digit on black, centred in 28x28, in Pillow's own font."""
    image = Image.new("L", (28, 28), 0)
    font = ImageFont.load_default(size=20)
    ImageDraw.Draw(image).text((14, 14), str(digit), fill=255, font=font, anchor="mm")
    return image


def test_every_branch_and_batch_norm_is_in_the_graph(digits):
    model = onnx.load(digits.path)
    onnx.checker.check_model(model, full_check=True)
    found = Counter(node.op_type for node in model.graph.node)
    # Five blocks of a 3x3 and a 1x1 branch; three of them have an identity branch too.
    assert found == {
        "Conv": 10,
        "BatchNormalization": 13,
        "Add": 8,
        "Relu": 5,
        "GlobalAveragePool": 1,
        "Flatten": 1,
        "Gemm": 1,
    }
    kernels = Counter(
        tuple(attribute.ints)
        for node in model.graph.node
        for attribute in node.attribute
        if attribute.name == "kernel_shape"
    )
    assert kernels == {(3, 3): 5, (1, 1): 5}
    used = Counter(name for node in model.graph.node for name in node.input)
    assert all(used[tensor.name] == 1 for tensor in model.graph.initializer)


def test_file_is_small_self_describing_and_anonymous(digits):
    content = digits.path.read_bytes()
    assert len(content) < 200_000
    model = onnx.load_from_string(content)
    assert [opset.version for opset in model.opset_import] == [17]
    assert read_metadata(model) == (preset("digits"), tuple("0123456789"))
    assert (digits.preprocess, digits.labels) == read_metadata(model)
    assert not any(node.doc_string for node in model.graph.node)


def test_statistics_are_of_a_trained_network(digits):
    model = onnx.load(digits.path)
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            scale, _, mean, variance = (tensors[name] for name in node.input[1:])
            assert np.isfinite(scale).all()
            assert np.abs(mean).max() > 1e-3
            assert (variance > 0).all()
            assert variance.std() > 1e-3


def test_drawn_digits_are_recognised(session, tmp_path):
    recognised = []
    for digit in range(10):
        path = tmp_path / f"{digit}.png"
        draw_digit(digit).save(path)
        (logits,) = session.run(None, load_inputs(path, (SPEC,), preset("digits")))
        assert logits.shape == (1, 10)
        recognised.append(int(logits[0].argmax()) == digit)
    # Print is not handwriting: the font's 1 has a flag and no foot, as a 7 is written by hand.
    assert sum(recognised) >= 8
