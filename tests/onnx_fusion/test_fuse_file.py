import onnx
import pytest

import tvm_iovt
from tvm_iovt.errors import ModelError, NumericsError, TargetError, UsageError
from tvm_iovt.onnx_fusion import fuse_file as module
from tvm_iovt.onnx_fusion.fuse_file import FuseOptions, fuse_file

C = 4


@pytest.fixture
def saved(net, tmp_path):
    n = net()
    y = n.node("Relu", n.add(n.conv_bn("x", C, C, 3), n.conv_bn("x", C, C, 1), n.bn("x", C)))
    path = tmp_path / "net.onnx"
    onnx.save(n.model(y, ["N", C, 8, 8]), path)
    return path


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_writes_a_checked_model(saved, tmp_path):
    out = tmp_path / "new" / "out.onnx"
    said = []
    result = fuse_file(saved, FuseOptions(output=out), progress=said.append)
    assert result.path == out
    assert result.nodes_before == {"Add": 2, "BatchNormalization": 3, "Conv": 2, "Relu": 1}
    assert result.nodes_after == {"Conv": 1, "Relu": 1}
    assert result.fusions == 1
    assert len(result.checks) == 3
    assert result.worst is not None
    assert result.worst.passed
    assert result.reference.startswith("onnxruntime")
    assert files(out.parent) == ["out.onnx"]
    assert [node.op_type for node in onnx.load(out).graph.node] == ["Conv", "Relu"]
    assert said[0] == "reading net.onnx"


def test_default_name(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(fuse_file(saved, FuseOptions()).path) == "net.fused.onnx"


def test_always_needs_no_target(saved, tmp_path):
    options = FuseOptions(output=tmp_path / "o.onnx", fuse="always", target="nowhere")
    assert fuse_file(saved, options).fusions == 1
    with pytest.raises(TargetError):
        fuse_file(saved, FuseOptions(output=tmp_path / "p.onnx", target="nowhere"))


def test_unknown_mode(saved):
    with pytest.raises(UsageError, match="sometimes"):
        fuse_file(saved, FuseOptions(fuse="sometimes"))


def test_an_existing_file_is_kept(saved, tmp_path):
    before = saved.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        fuse_file(saved, FuseOptions(output=saved))
    assert saved.read_bytes() == before
    fuse_file(saved, FuseOptions(output=saved, overwrite=True))
    assert [node.op_type for node in onnx.load(saved).graph.node] == ["Conv", "Relu"]
    with pytest.raises(UsageError, match="folder"):
        fuse_file(saved, FuseOptions(output=tmp_path))


def test_a_wrong_fusion_writes_nothing(saved, tmp_path, monkeypatch):
    real = module.fuse_onnx

    def wrong(model, **options):
        fused = real(model, **options)
        tensor = fused.graph.initializer[0]
        values = onnx.numpy_helper.to_array(tensor) * 1.01
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return fused

    monkeypatch.setattr(module, "fuse_onnx", wrong)
    with pytest.raises(NumericsError, match="nothing was written") as caught:
        fuse_file(saved, FuseOptions(output=tmp_path / "o.onnx"))
    assert caught.value.exit_code == 6
    assert "is allowed" in caught.value.seen
    assert files(tmp_path) == ["net.onnx"]
    result = fuse_file(saved, FuseOptions(output=tmp_path / "o.onnx", verify=False))
    assert result.checks == ()
    assert result.worst is None
    assert result.reference == ""


def test_nothing_to_fuse_gives_a_copy(net, tmp_path):
    n = net()
    path, out = tmp_path / "net.onnx", tmp_path / "o.onnx"
    onnx.save(n.model(n.node("Relu", "x")), path)
    result = fuse_file(path, FuseOptions(output=out))
    assert result.fusions == 0
    assert out.read_bytes() == path.read_bytes()


def test_files_that_are_no_models(tmp_path):
    with pytest.raises(ModelError, match="Cannot read"):
        fuse_file(tmp_path / "none.onnx", FuseOptions())
    program = tmp_path / "net.pt2"
    program.write_bytes(b"PK")
    with pytest.raises(ModelError) as caught:
        fuse_file(program, FuseOptions())
    assert "torch.export" in caught.value.seen
    program = tmp_path / "net.tflite"
    program.write_bytes(b"\xff\xff\xff\xff")
    with pytest.raises(ModelError, match="not an ONNX model"):
        fuse_file(program, FuseOptions())


def test_outputs_that_cannot_be_written(saved, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(UsageError, match="Cannot write"):
        fuse_file(saved, FuseOptions(output=blocker / "o.onnx"))


def test_external_data_goes_inside_if_it_fits(saved, tmp_path):
    model = onnx.load(saved)
    folder = tmp_path / "big"
    folder.mkdir()
    onnx.save(model, folder / "net.onnx", save_as_external_data=True, size_threshold=0)
    assert len(files(folder)) > 1
    out = tmp_path / "out" / "o.onnx"
    assert fuse_file(folder / "net.onnx", FuseOptions(output=out)).fusions == 1
    assert files(out.parent) == ["o.onnx"]


def test_weights_that_are_too_large_go_beside(net, tmp_path, monkeypatch):
    n = net()
    path = tmp_path / "net.onnx"
    onnx.save(n.model(n.bn(n.conv("x", 16, 16, 3), 16), (1, 16, 8, 8)), path)
    monkeypatch.setattr(module, "LARGEST_WEIGHTS_BYTES", 1000)
    out = tmp_path / "out" / "o.onnx"
    with pytest.raises(ModelError, match="too large to be compared"):
        fuse_file(path, FuseOptions(output=out))
    fuse_file(path, FuseOptions(output=out, verify=False))
    assert files(out.parent) == ["o.onnx", "o.onnx.data"]
    onnx.checker.check_model(str(out))
    assert [node.op_type for node in onnx.load(out).graph.node] == ["Conv"]
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(UsageError, match="Cannot write"):
        fuse_file(path, FuseOptions(output=blocker / "o.onnx", verify=False))


def test_the_package_fuses_as_the_command_does(saved, tmp_path):
    found = tvm_iovt.fuse(str(saved), output=str(tmp_path / "o.onnx"), fuse="always")
    assert found.path == tmp_path / "o.onnx"
    assert found.fusions == 1
    assert found.worst is not None
    assert found.worst.passed
