from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tvm_iovt.errors import ModelError
from tvm_iovt.frontend import onnx_model
from tvm_iovt.frontend.inspection import inspect_model
from tvm_iovt.frontend.load import load_network
from tvm_iovt.frontend.onnx_model import load_onnx


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_onnx(path)
    assert caught.value.exit_code == 3
    assert caught.value.do
    return str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.onnx")
    assert "a folder" in refusal(tmp_path)


def test_text_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("import torch\n")
    assert "a text file that begins with 'import torch" in refusal(path)


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"")
    assert "an empty file" in refusal(path)


@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.7, 0.99])
def test_truncated_file(small_model: Path, tmp_path: Path, fraction: float) -> None:
    content = small_model.read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(content[: int(len(content) * fraction)])
    assert "model" in refusal(path)


def test_random_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(bytes(range(256)) * 8)
    assert "is not an ONNX model" in refusal(path)


def test_old_opset(make_model, tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    path = tmp_path / "old.onnx"
    onnx.save(make_model([node], {"x": [1]}, {"y": [1]}, opset=5), str(path))
    assert "opset 5" in refusal(path)


def test_other_suffix_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"TFL3")
    with pytest.raises(ModelError, match=r"a \.tflite file"):
        load_network(path, {})


def test_missing_external_data(make_model, tmp_path: Path) -> None:
    import numpy as np

    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    model = make_model([node], {"x": [1024]}, {"y": [1024]}, {"w": np.ones(1024, dtype=np.float32)})
    path = tmp_path / "model.onnx"
    onnx.save(
        model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    (tmp_path / "weights.bin").unlink()
    assert "weights.bin" in refusal(path)


def test_models_beyond_one_message_are_refused(
    small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Checked by its path, as in-memory checks end at the same size.
    monkeypatch.setattr(onnx_model, "LARGEST_WEIGHTS_BYTES", 1000)
    with pytest.raises(ModelError, match=r"small.onnx is too large"):
        load_network(small_model, {})
    with pytest.raises(ModelError, match=r"small.onnx is too large"):
        inspect_model(small_model, {})
