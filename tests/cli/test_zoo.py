import json
import subprocess
import sys

import onnx
import pytest
from click.testing import CliRunner

from tvm_iovt.cli.zoo import zoo
from tvm_iovt.errors import UsageError


@pytest.fixture
def runner():
    return CliRunner(catch_exceptions=False)


def test_list_names_every_network_and_its_licence(runner):
    result = runner.invoke(zoo, ["list"])
    assert result.exit_code == 0
    for text in ("digits", "efficientnet-lite0", "mobilenet-v2", "Apache-2.0", "tvm-iovt[zoo]"):
        assert text in result.stdout


def test_list_as_json(runner):
    entries = json.loads(runner.invoke(zoo, ["list", "--json"]).stdout)
    assert entries[0]["name"] == "digits"
    assert entries[0]["input_shape"] == [1, 1, 28, 28]


def test_export_to_the_current_folder(runner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(zoo, ["export", "digits"])
    assert result.exit_code == 0
    assert "10 class names" in result.stdout
    onnx.checker.check_model(onnx.load("digits.onnx"))


def test_export_as_json(runner, tmp_path):
    out = tmp_path / "x.onnx"
    result = runner.invoke(zoo, ["export", "digits", "-o", str(out), "--json"])
    found = json.loads(result.stdout)
    assert found["path"] == str(out)
    assert found["preprocess"]["name"] == "digits"
    assert found["labels"] == list("0123456789")
    assert out.is_file()


def test_unknown_network(runner, tmp_path):
    with pytest.raises(UsageError, match="digits"):
        runner.invoke(zoo, ["export", "nope", "-o", str(tmp_path / "x.onnx")])


def test_listing_imports_neither_torch_nor_tvm():
    code = (
        "import sys; from tvm_iovt.cli.zoo import zoo; zoo(['list'], standalone_mode=False); "
        "sys.exit(' '.join({'torch', 'tvm', 'onnx', 'PIL'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
