import importlib.util
import sys

import onnx
import pytest

from tvm_iovt import zoo
from tvm_iovt.errors import ModelError, UsageError
from tvm_iovt.images import PRESETS, read_metadata

CONVERTED = [entry for entry in zoo.ENTRIES if entry.install]


def test_entries_are_complete():
    assert [entry.name for entry in zoo.ENTRIES] == ["digits", "efficientnet-lite0", "mobilenet-v2"]
    for entry in zoo.ENTRIES:
        assert entry.preprocess in {preset.name for preset in PRESETS}
        assert entry.description
        assert entry.origin
        assert entry.licence
        assert bool(entry.packages) == bool(entry.install)


def test_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(UsageError, match="mobilenet-v2"):
        zoo.export("mobilenet", tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_digits_need_no_extra_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = zoo.export("digits", tmp_path / "new" / "folder" / "a.onnx")
    assert found.path == tmp_path / "new" / "folder" / "a.onnx"
    assert [path.name for path in found.path.parent.iterdir()] == ["a.onnx"]


def test_existing_file_is_replaced(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"old")
    zoo.export("digits", path)
    onnx.checker.check_model(onnx.load(path))


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="Cannot write"):
        zoo.export("digits", tmp_path / "file" / "a.onnx")
    with pytest.raises(UsageError, match="Cannot write"):
        zoo.export("digits", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("entry", CONVERTED, ids=lambda entry: entry.name)
def test_missing_torch_tells_the_command(entry, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelError, match="torch") as info:
        zoo.export(entry.name, tmp_path / "a.onnx")
    assert 'pip install "tvm-iovt[zoo]"' in info.value.do
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("entry", CONVERTED, ids=lambda entry: entry.name)
def test_missing_weights_tell_the_command(entry, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(ModelError) as info:
        zoo.export(entry.name, tmp_path / "a.onnx")
    assert info.value.do == entry.install
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("entry", CONVERTED, ids=lambda entry: entry.name)
def test_converted_network(entry, tmp_path):
    pytest.importorskip("torch")
    for requirement in entry.packages:
        pytest.importorskip(requirement.partition("==")[0].replace("-", "_"))
    found = zoo.export(entry.name, tmp_path / "a.onnx")
    model = onnx.load(found.path)
    onnx.checker.check_model(model, full_check=True)
    (graph_input,), (graph_output,) = model.graph.input, model.graph.output
    assert (graph_input.name, graph_output.name) == ("input", "output")
    dims = [dim.dim_value for dim in graph_input.type.tensor_type.shape.dim]
    assert tuple(dims) == entry.input_shape
    assert [opset.version for opset in model.opset_import] == [17]
    assert read_metadata(model) == (found.preprocess, found.labels)
    assert found.preprocess.name == entry.preprocess
    assert len(found.labels) in (0, 1000)
