from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from tvm_iovt.errors import ModelError, UsageError
from tvm_iovt.images import preset, read_metadata

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from tvm_iovt.nn.blocks import RepVGGBlock  # noqa: E402
from tvm_iovt.nn.deploy import deploy  # noqa: E402
from tvm_iovt.nn.export import export_onnx  # noqa: E402
from tvm_iovt.nn.networks import digit_network, repvgg, small_detector  # noqa: E402


@pytest.fixture
def model(randomise):
    return randomise(digit_network(width=4))


SHAPE = (1, 1, 28, 28)


def operators(path):
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    return Counter(node.op_type for node in proto.graph.node)


def run(path, x):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (output,) = session.run(["output"], {"input": x.numpy()})
    return output


def test_training_form_keeps_everything(tmp_path, model):
    path = tmp_path / "new" / "a.onnx"
    export_onnx(model, path, SHAPE, training_form=True)
    found = operators(path)
    assert (found["Conv"], found["BatchNormalization"], found["Add"]) == (10, 13, 8)
    assert found["Identity"] == 0
    proto = onnx.load(path)
    assert proto.opset_import[0].version == 17
    assert [entry.name for entry in proto.graph.input] == ["input"]
    assert [path.name for path in path.parent.iterdir()] == ["a.onnx"]
    x = torch.rand(SHAPE)
    with torch.no_grad():
        np.testing.assert_allclose(run(path, x), model(x).numpy(), rtol=1e-3, atol=1e-4)


def test_training_form_has_only_kept_branches_and_their_scales(tmp_path, model):
    model.blocks[1].keep(["3x3", "identity"])
    model.blocks[2].keep(["1x1"])
    model.blocks[4].enable_scales()
    export_onnx(model, tmp_path / "a.onnx", SHAPE, training_form=True)
    found = operators(tmp_path / "a.onnx")
    assert (found["Conv"], found["BatchNormalization"], found["Add"]) == (8, 11, 6)
    assert found["Mul"] == 3


def test_deployed_has_one_convolution_a_block(tmp_path, model):
    export_onnx(deploy(model), tmp_path / "a.onnx", SHAPE, training_form=False)
    found = operators(tmp_path / "a.onnx")
    assert found["Conv"] == found["Relu"] == 5
    assert found["BatchNormalization"] == found["Add"] == 0
    x = torch.rand(SHAPE)
    with torch.no_grad():
        np.testing.assert_allclose(
            run(tmp_path / "a.onnx", x), model(x).numpy(), rtol=1e-3, atol=1e-4
        )


def test_repvgg_a0(tmp_path):
    model = repvgg("A0")
    export_onnx(model, tmp_path / "a.onnx", (1, 3, 64, 64), training_form=True)
    found = operators(tmp_path / "a.onnx")
    assert (found["Conv"], found["BatchNormalization"]) == (44, 61)
    assert found["Identity"] == 0  # although equal biases and statistics abound before training
    export_onnx(deploy(model), tmp_path / "a.onnx", (1, 3, 64, 64), training_form=False)
    found = operators(tmp_path / "a.onnx")
    assert (found["Conv"], found["BatchNormalization"]) == (22, 0)


@pytest.mark.parametrize("training_form", [True, False])
def test_detector(tmp_path, training_form):
    model = small_detector(3, width=4).eval()
    export_onnx(model, tmp_path / "a.onnx", (1, 3, 64, 96), training_form=training_form)
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        np.testing.assert_allclose(
            run(tmp_path / "a.onnx", x), model(x).numpy(), rtol=1e-3, atol=1e-3
        )


def test_newer_exporter(tmp_path, model):
    pytest.importorskip("onnxscript")
    export_onnx(model, tmp_path / "a.onnx", SHAPE, training_form=False, dynamo=True)
    assert operators(tmp_path / "a.onnx")["Conv"] == 10
    x = torch.rand(SHAPE)
    with torch.no_grad():
        np.testing.assert_allclose(
            run(tmp_path / "a.onnx", x), model(x).numpy(), rtol=1e-3, atol=1e-4
        )


def test_newer_exporter_without_onnxscript(tmp_path, model, monkeypatch):
    def missing(*_, **__):
        raise ImportError("No module named 'onnxscript'")

    monkeypatch.setattr(torch.onnx, "export", missing)
    with pytest.raises(UsageError, match="onnxscript") as info:
        export_onnx(model, tmp_path / "a.onnx", SHAPE, training_form=False, dynamo=True)
    assert info.value.do == "pip install onnxscript"


def test_mode_of_the_model_is_left(tmp_path, model):
    model.train()
    model.blocks[0].eval()
    export_onnx(model, tmp_path / "a.onnx", SHAPE, training_form=True)
    assert model.training
    assert not model.blocks[0].training


def test_metadata(tmp_path, model):
    labels = tuple("0123456789")
    export_onnx(
        model,
        tmp_path / "a.onnx",
        SHAPE,
        training_form=True,
        preprocess=preset("digits"),
        labels=labels,
    )
    assert read_metadata(onnx.load(tmp_path / "a.onnx")) == (preset("digits"), labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"training_form": True, "dynamo": True}, "cannot keep the training form"),
        ({"training_form": True, "labels": ("a",)}, "beside a preprocessing"),
    ],
)
def test_options_that_exclude_each_other(tmp_path, model, options, message):
    with pytest.raises(UsageError, match=message):
        export_onnx(model, tmp_path / "a.onnx", SHAPE, **options)
    assert not list(tmp_path.iterdir())


def test_input_that_does_not_fit(tmp_path, model):
    with pytest.raises(UsageError, match="does not take an input of shape"):
        export_onnx(model, tmp_path / "a.onnx", (1, 3, 28, 28), training_form=True)


def test_several_outputs(tmp_path):
    class Two(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(UsageError, match="one output"):
        export_onnx(Two(), tmp_path / "a.onnx", SHAPE, training_form=True)


def test_model_that_the_exporter_refuses(tmp_path):
    class Refused(nn.Module):
        def forward(self, x):
            return torch.linalg.matrix_exp(x)

    with pytest.raises(ModelError, match="torch cannot export"):
        export_onnx(Refused(), tmp_path / "a.onnx", SHAPE, training_form=False)
    assert not list(tmp_path.iterdir())


def test_file_that_cannot_be_written_keeps_the_old_one(tmp_path, model):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(UsageError, match="Cannot write"):
        export_onnx(model, tmp_path / "file" / "a.onnx", SHAPE, training_form=True)
    assert (tmp_path / "file").read_bytes() == b"old"


def test_wrong_export_leaves_no_file(tmp_path, monkeypatch):
    class Wrong:
        def __init__(self, *_, **__):
            pass

        def run(self, *_):
            return [np.full((1, 4, 5, 5), 1e3, np.float32)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Wrong)
    with pytest.raises(ModelError, match="does not compute what the torch model computes"):
        export_onnx(RepVGGBlock(4, 4), tmp_path / "a.onnx", (1, 4, 5, 5), training_form=True)
    assert not list(tmp_path.iterdir())
