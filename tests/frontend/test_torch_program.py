from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tvm_iovt
from tvm_iovt.errors import ModelError, UsageError
from tvm_iovt.frontend.load import load_network


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch", reason="needs `pip install tvm-iovt[torch]`")
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU6(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 5),
    ).eval()
    path = tmp_path_factory.mktemp("torch") / "net.pt2"
    torch.export.save(torch.export.export(model, (torch.randn(1, 3, 12, 12),)), str(path))
    return path


def test_program_compiles_and_is_verified_against_torch(program: Path, tmp_path: Path) -> None:
    result = tvm_iovt.compile(program, output=tmp_path / "net.iovt")
    (deployment,) = result.manifest.deployments
    assert deployment.discrepancy is not None
    assert deployment.discrepancy.passed
    assert deployment.discrepancy.reference.startswith("torch ")
    assert result.manifest.inputs[0].shape == (1, 3, 12, 12)


def test_reference_is_the_program(program: Path) -> None:
    network = load_network(program, {})
    (name,) = (spec.name for spec in network.inputs)
    outputs = network.reference({name: np.zeros((1, 3, 12, 12), np.float32)})
    assert [value.shape for value in outputs.values()] == [(1, 5)]


def test_shapes_cannot_be_overridden(program: Path) -> None:
    with pytest.raises(UsageError, match="no effect"):
        load_network(program, {"x": (1, 3, 8, 8)})


def test_other_file_with_that_suffix(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs `pip install tvm-iovt[torch]`")
    path = tmp_path / "net.pt2"
    path.write_bytes(b"not a zip file")
    with pytest.raises(ModelError, match=r"not a torch\.export program"):
        load_network(path, {})


def test_missing_torch_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "net.pt2"
    path.write_bytes(b"")
    with pytest.raises(ModelError) as caught:
        load_network(path, {})
    assert "tvm-iovt[torch]" in str(caught.value)
