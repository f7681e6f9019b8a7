import numpy as np
import onnx
import onnxruntime
import pytest

from tvm_iovt.errors import ModelError
from tvm_iovt.images import preset

torch = pytest.importorskip("torch")

from tvm_iovt.zoo.digits import INPUT_SHAPE, DigitClassifier  # noqa: E402
from tvm_iovt.zoo.mobilenet_v2 import MobileNetV2  # noqa: E402
from tvm_iovt.zoo.torch_to_onnx import write_onnx  # noqa: E402


def _operators(path):
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize(("training_form", "norms"), [(True, 13), (False, 3)])
def test_training_form_keeps_batch_norms(tmp_path, training_form, norms):
    torch.manual_seed(0)
    path = tmp_path / "a.onnx"
    write_onnx(
        DigitClassifier(),
        path,
        input_shape=INPUT_SHAPE,
        preprocess=preset("digits"),
        labels=(),
        training_form=training_form,
    )
    # Without a convolution before them, the three identity branches cannot be folded.
    assert _operators(path).count("BatchNormalization") == norms
    assert "Identity" not in _operators(path)


def test_model_that_is_exported_wrongly_leaves_no_file(tmp_path, monkeypatch):
    class Doubled:
        def __init__(self, *_, **__):
            pass

        def run(self, _, inputs):
            return [np.full((1, 10), 1e3, np.float32)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Doubled)
    with pytest.raises(ModelError, match="does not compute what the torch model computes"):
        write_onnx(
            DigitClassifier(),
            tmp_path / "a.onnx",
            input_shape=INPUT_SHAPE,
            preprocess=preset("digits"),
            labels=(),
        )
    assert not list(tmp_path.iterdir())


def test_mobilenet_v2_has_the_published_size():
    model = MobileNetV2()
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_504_872
    names = set(model.state_dict())
    assert {"features.0.0.weight", "features.18.1.bias", "classifier.1.weight"} <= names
    assert {"features.1.conv.0.0.weight", "features.2.conv.3.running_var"} <= names
