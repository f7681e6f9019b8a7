import json
import subprocess
import sys
from importlib import resources

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from tvm_iovt.cli.fuse import fuse_command
from tvm_iovt.cli.main import run
from tvm_iovt.errors import UsageError

DIGITS = resources.files("tvm_iovt.zoo") / "digits.onnx"


def invoke(*arguments):
    """Output of the command; errors of ours are raised, as `main` expects them."""
    runner = CliRunner(catch_exceptions=False)
    result = runner.invoke(fuse_command, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result


def relu_network(path, shape):
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


def test_table_and_outcome(tmp_path):
    out = tmp_path / "digits.onnx"
    text = invoke(DIGITS, "-o", out).stdout
    rows = [line.split() for line in text.splitlines()]
    assert ["Conv", "10", "5"] in rows
    assert ["BatchNormalization", "13", "0"] in rows
    assert ["all", "39", "13"] in rows
    assert "5 fusions" in text
    assert "largest difference" in text
    assert f"wrote {out}" in text
    assert text.isascii()
    assert "FuseParallelConvs" not in text
    onnx.checker.check_model(onnx.load(out), full_check=True)


def test_verbose_lists_decisions(tmp_path):
    text = invoke(DIGITS, "-o", tmp_path / "o.onnx", "-v").stdout
    assert "FuseParallelConvs" in text
    assert "3 branches: 3x3, 16 to 16 channels" in text


def test_json_is_json_alone(tmp_path):
    out = tmp_path / "o.onnx"
    found = json.loads(invoke(DIGITS, "-o", out, "--json").stdout)
    assert found["model"] == str(out)
    assert found["nodes_before"]["Conv"] == 10
    assert found["nodes_after"]["Conv"] == 5
    assert found["fusions"] == 5
    assert found["max_rel"] < 1e-5
    assert len(found["checks"]) == 3
    assert found["decisions"][0]["transform"] == "FuseParallelConvs"


def test_nothing_to_fuse(tmp_path):
    path = relu_network(tmp_path / "net.onnx", [1, 3])
    text = invoke(path, "-o", tmp_path / "o.onnx").stdout
    assert "nothing to fuse" in text
    assert (tmp_path / "o.onnx").read_bytes() == path.read_bytes()


def test_no_verify(tmp_path):
    path = relu_network(tmp_path / "net.onnx", [1, "n"])
    text = invoke(path, "-o", tmp_path / "o.onnx", "--no-verify").stdout
    assert "not compared" in text


def test_open_axes(tmp_path):
    path = relu_network(tmp_path / "net.onnx", ["b", "n"])
    with pytest.raises(UsageError, match="open"):
        invoke(path, "-o", tmp_path / "o.onnx")
    invoke(path, "-o", tmp_path / "o.onnx", "--input-shape", "x=2x5")
    again = onnx.load(tmp_path / "o.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param for d in again] == ["b", "n"]


def test_configuration_file(tmp_path):
    config = tmp_path / "iovt.toml"
    config.write_text('[fuse]\nfuse = "always"\ntarget = "nowhere"\n')
    invoke(DIGITS, "-o", tmp_path / "o.onnx", "--config", config)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["none.onnx"], 3),
        (["text.onnx"], 3),
        (["net.onnx", "-o", "net.onnx"], 2),
        (["net.onnx", "--fuse", "never"], 2),
        (["net.onnx", "--target", "nowhere"], 4),
        (["net.onnx", "-o", "text.onnx/o.onnx"], 2),
        (["net.onnx", "--rtol", "-1"], 2),
        (["net.onnx", "--input-shape", "y=1x3"], 3),
        (["half.onnx"], 0),
    ],
)
def test_exit_codes(tmp_path, monkeypatch, capsys, arguments, code):
    monkeypatch.chdir(tmp_path)
    relu_network(tmp_path / "net.onnx", [1, 3])
    relu_network(tmp_path / "half.onnx", ["N", 3])
    (tmp_path / "text.onnx").write_text("hello")
    assert run(["fuse", *arguments]) == code
    captured = capsys.readouterr()
    assert ("rror: " in captured.err) == (code != 0)
    assert "internal error" not in captured.err


def test_wrong_numbers_exit_with_6(tmp_path, monkeypatch):
    from tvm_iovt.onnx_fusion import fuse_file

    def wrong(model, **_):
        other = onnx.ModelProto()
        other.CopyFrom(model)
        tensor = other.graph.initializer[0]
        value = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(value), tensor.name))
        return other

    monkeypatch.setattr(fuse_file, "fuse_onnx", wrong)
    assert run(["fuse", str(DIGITS), "-o", str(tmp_path / "o.onnx")]) == 6
    assert list(tmp_path.iterdir()) == []


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from tvm_iovt.cli.main import run; run(['fuse', '--help']); "
        "sys.exit(' '.join({'torch', 'tvm', 'onnx', 'numpy'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "--input-shape" in done.stdout


def test_fusion_needs_no_tvm(tmp_path):
    code = (
        "import sys; from tvm_iovt.cli.main import run; "
        f"assert run(['fuse', {str(DIGITS)!r}, '-o', {str(tmp_path / 'o.onnx')!r}]) == 0; "
        "sys.exit(' '.join({'torch', 'tvm', 'onnxslim'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
