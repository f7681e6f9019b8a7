"""`tvm-iovt bundle check` and `tvm-iovt bundle pack`."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path

import pytest

from tvm_iovt import bundle
from tvm_iovt.cli.main import run
from tvm_iovt.types import (
    CpuSpec,
    Deployment,
    Library,
    Manifest,
    PartitionPlan,
    Stage,
    TargetSpec,
    TensorSpec,
    Tolerance,
)


def deployment(folder: Path, arch: str) -> Deployment:
    (folder / f"{arch}.so").write_bytes(b"library")
    cpu = CpuSpec(
        arch=arch,
        triple=f"{arch}-linux-gnu",
        mcpu="generic",
        cores=1,
        vector_bits=128,
        vector_registers=16,
        l1d_bytes=1,
        l2_bytes=1,
    )
    spec = TensorSpec(name="x", shape=(1,), dtype="float32")
    stage = Stage(index=0, target=arch, inputs=(spec,), outputs=(spec,))
    return Deployment(
        name=arch,
        targets=(TargetSpec(name=arch, description="", cpu=cpu),),
        plan=PartitionPlan(stages=(stage,), objective="", reason=""),
        libraries=(
            Library(
                stage=0,
                file=bundle.record(folder, f"{arch}.so"),
                device="cpu",
                parameters_bytes=0,
            ),
        ),
        verified="",
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A bundle of this machine and a board of another architecture; nothing in it can run."""
    from importlib.metadata import version

    spec = TensorSpec(name="x", shape=(1,), dtype="float32")
    with bundle.staging(tmp_path / "model.iovt", overwrite=False) as folder:
        (folder / "report.html").write_text("report")
        bundle.save_manifest(
            folder,
            Manifest(
                tool_version="1",
                tvm_version=version("apache-tvm"),
                tvm_ffi_version=version("apache-tvm-ffi"),
                created="",
                model_name="model",
                model_sha256="",
                inputs=(spec,),
                outputs=(spec,),
                deployments=(
                    deployment(folder, platform.machine()),
                    deployment(folder, "armv7l"),
                ),
                sample=bundle.save_sample(folder, {}, {}),
                reference="onnxruntime 1.31.1",
                tolerance=Tolerance(rtol=1e-3, atol=1e-4),
                report=bundle.record(folder, "report.html"),
                operators=(),
                decisions=(),
            ),
        )
    return tmp_path / "model.iovt"


def test_check_lists_the_files(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bundle", "check", str(path)]) == 0
    printed = capsys.readouterr()
    assert "4 files, all as recorded" in printed.out
    assert "armv7l.so" in printed.out


def test_check_prints_json_alone(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bundle", "check", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["deployments"] == [platform.machine(), "armv7l"]
    assert {f["file"] for f in found["files"]} >= {"sample.npz", "report.html"}


def test_check_finds_damage(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path / "armv7l.so").write_bytes(b"other")
    assert run(["bundle", "check", str(path)]) == 8
    assert "armv7l.so" in capsys.readouterr().err


def test_pack_asks_when_it_cannot_know(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bundle", "pack", str(path), str(tmp_path / "out")]) == 2
    assert "--arch" in capsys.readouterr().err


def test_pack_refuses_32_bit_arm(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bundle", "pack", str(path), str(tmp_path / "out"), "--target", "armv7l"]) == 4
    assert "no published TVM runtime for armv7l" in capsys.readouterr().err


def test_pack_prints_json_alone(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not shutil.which("g++"):
        pytest.skip("needs a C++ compiler (apt-get install g++)")
    out = tmp_path / "out"
    arguments = ["bundle", "pack", str(path), str(out), "--arch", platform.machine(), "--json"]
    assert run(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["deployments"] == [platform.machine()]
    assert (out / "run.sh").is_file()
    assert run([*arguments[:-1], "--overwrite"]) == 0
    assert "needs on the board" in capsys.readouterr().out
