from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import tvm_iovt
from tvm_iovt import bundle, compiler, runtime
from tvm_iovt.build.elf import elf_machine
from tvm_iovt.compiler.tolerances import FLOAT_TOLERANCE
from tvm_iovt.errors import (
    BundleError,
    IovtError,
    NumericsError,
    TargetError,
    ToolchainError,
    UsageError,
)
from tvm_iovt.frontend import reference


@pytest.fixture(scope="module")
def compiled(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> compiler.Compilation:
    path = tmp_path_factory.mktemp("bundle") / "small.iovt"
    return tvm_iovt.compile(small_model, targets="host,arm", output=path)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_bundle_is_complete_and_verified(compiled: compiler.Compilation) -> None:
    manifest = bundle.check(compiled.path)
    host, arm = manifest.deployments
    assert (host.name, arm.name) == ("host", "arm")
    assert host.discrepancy is not None
    assert host.discrepancy.passed
    assert host.discrepancy.tolerance == manifest.tolerance == FLOAT_TOLERANCE
    assert host.measurement is not None
    assert host.measurement.scope == "device"
    assert arm.discrepancy is None
    assert "not run here" in arm.verified
    assert leftovers(compiled.path) == [
        "arm.plan.json",
        "host.plan.json",
        "manifest.json",
        "report.html",
        "sample.npz",
        "stage0.arm.so",
        "stage0.host.so",
    ]


def test_libraries_are_for_their_architecture(compiled: compiler.Compilation) -> None:
    assert elf_machine(compiled.path / "stage0.arm.so") == "aarch64"


def test_manifest_names_versions_tensors_and_no_paths(compiled: compiler.Compilation) -> None:
    manifest = compiled.manifest
    assert manifest.tvm_version == "0.27.0.post1"
    assert [t.name for t in (*manifest.inputs, *manifest.outputs)] == ["image", "scores"]
    text = (compiled.path / "manifest.json").read_text()
    assert str(Path.home()) not in text
    assert str(compiled.path.parent) not in text


def test_decisions_tell_what_was_done(compiled: compiler.Compilation) -> None:
    transforms = {decision.transform for decision in compiled.manifest.decisions}
    assert {"Simplify", "RestoreClip", "ScheduleForCpu"} <= transforms


def test_loaded_bundle_agrees_with_the_reference(
    compiled: compiler.Compilation, small_model: Path
) -> None:
    executor = tvm_iovt.load(compiled.path)
    expected = reference.load_reference(small_model, {})
    image = np.random.default_rng(3).standard_normal((1, 3, 16, 16)).astype(np.float32)
    np.testing.assert_allclose(
        executor.run({"image": image})["scores"],
        expected({"image": image})["scores"],
        # fp32 sums in another order
        rtol=1e-4,
        atol=1e-5,
    )


def test_report_is_inside(compiled: compiler.Compilation) -> None:
    page = (compiled.path / "report.html").read_text()
    assert "small" in page
    assert "not run here" in page


def wrong_reference(self: reference.OnnxReference, inputs):
    return {"scores": np.full((1, 10), 5.0, np.float32)}


def test_wrong_numbers_leave_no_bundle(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference.OnnxReference, "__call__", wrong_reference)
    with pytest.raises(NumericsError) as caught:
        tvm_iovt.compile(small_model, output=tmp_path / "b.iovt")
    assert caught.value.exit_code == 6
    assert "10 of 10 elements" in str(caught.value)
    assert "cosine" in str(caught.value)
    assert leftovers(tmp_path) == []


def test_keep_writes_the_wrong_bundle_and_still_fails(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference.OnnxReference, "__call__", wrong_reference)
    with pytest.raises(NumericsError, match="was kept"):
        tvm_iovt.compile(small_model, output=tmp_path / "b.iovt", keep=True)
    deployment = bundle.check(tmp_path / "b.iovt").deployments[0]
    assert deployment.discrepancy is not None
    assert not deployment.discrepancy.passed


def test_failed_overwrite_keeps_the_old_bundle(
    small_model: Path,
    compiled: compiler.Compilation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = tmp_path / "b.iovt"
    shutil.copytree(compiled.path, old)
    with pytest.raises(BundleError, match="exists"):
        tvm_iovt.compile(small_model, output=old)
    monkeypatch.setattr(reference.OnnxReference, "__call__", wrong_reference)
    with pytest.raises(NumericsError):
        tvm_iovt.compile(small_model, output=old, overwrite=True)
    assert bundle.check(old) == compiled.manifest
    assert leftovers(tmp_path) == ["b.iovt"]


def test_reference_that_gives_nan_is_not_a_pass(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        reference.OnnxReference, "__call__", lambda *_: {"scores": np.full((1, 10), np.nan)}
    )
    with pytest.raises(NumericsError, match="reference itself gives NaN"):
        tvm_iovt.compile(small_model, output=tmp_path / "b.iovt")


def test_vulkan_says_that_its_back_end_is_missing(small_model: Path, tmp_path: Path) -> None:
    with pytest.raises(TargetError) as caught:
        tvm_iovt.compile(small_model, targets="vulkan", output=tmp_path / "b.iovt")
    assert "back-end is not there yet" in str(caught.value)
    assert leftovers(tmp_path) == []


def test_armv7_links(small_model: Path, tmp_path: Path) -> None:
    try:
        result = tvm_iovt.compile(small_model, targets="armv7", output=tmp_path / "b.iovt")
    except ToolchainError as error:
        pytest.skip(f"no linker for armv7: {error.what}")
    assert elf_machine(result.path / "stage0.armv7.so") == "armv7l"


def test_missing_cross_linker(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "ziglang", None)
    with pytest.raises(ToolchainError) as caught:
        tvm_iovt.compile(small_model, targets="arm", output=tmp_path / "b.iovt")
    assert caught.value.exit_code == 4
    assert "tvm-iovt[cross]" in str(caught.value)
    assert leftovers(tmp_path) == []


def compile_process(model: Path, output: Path, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tvm_iovt", "compile", str(model), "-o", str(output)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=output.parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
    )


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_in_the_middle_leaves_nothing(
    small_model: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    process = compile_process(small_model, tmp_path / "b.iovt")
    deadline_s = time.monotonic() + 120
    while not leftovers(tmp_path) and process.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.005)
    assert leftovers(tmp_path), "the build should have begun to write"
    process.send_signal(sent)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert leftovers(tmp_path) == []


def test_full_disk(small_model: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        process = compile_process(small_model, disk / "b.iovt")
        _, err = process.communicate(timeout=120)
        assert process.returncode == 8, err
        assert "free" in err
        assert "Traceback" not in err
        assert leftovers(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_wrong_tvm_version_stops_before_the_import(small_model: Path, tmp_path: Path) -> None:
    # A distribution of another version, first on the path, as a careless upgrade leaves it.
    info = tmp_path / "site" / "apache_tvm_ffi-0.1.15.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: apache-tvm-ffi\nVersion: 0.1.15\n")
    paths = os.pathsep.join([str(tmp_path / "site"), str(Path(__file__).parents[2])])
    process = compile_process(small_model, tmp_path / "b.iovt", PYTHONPATH=paths)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 4, err
    assert "apache-tvm-ffi 0.1.15" in err
    assert "pip install" in err
    assert not (tmp_path / "b.iovt").exists()


def test_no_verify_runs_no_reference(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        message = "the reference was run"
        raise AssertionError(message)

    monkeypatch.setattr(reference.OnnxReference, "__call__", refuse)
    result = tvm_iovt.compile(small_model, output=tmp_path / "b.iovt", verify=False)
    assert "not verified" in result.manifest.deployments[0].verified


def test_sample_from_a_file_is_shipped(small_model: Path, tmp_path: Path) -> None:
    image = np.full((1, 3, 16, 16), 0.25, np.float32)
    np.savez(tmp_path / "in.npz", image=image)
    result = tvm_iovt.compile(small_model, output=tmp_path / "b.iovt", sample=tmp_path / "in.npz")
    inputs, _ = bundle.load_sample(result.path, bundle.SAMPLE)
    np.testing.assert_array_equal(inputs["image"], image)


def test_bundle_moves(compiled: compiler.Compilation, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(compiled.path, moved)
    assert runtime.load(moved).self_check().passed


def test_tampered_library_is_refused(compiled: compiler.Compilation, tmp_path: Path) -> None:
    moved = tmp_path / "b.iovt"
    shutil.copytree(compiled.path, moved)
    library = moved / "stage0.host.so"
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 1
    library.write_bytes(content)
    with pytest.raises(BundleError, match=r"stage0\.host\.so"):
        runtime.load(moved)


def test_other_architecture_is_refused(compiled: compiler.Compilation) -> None:
    with pytest.raises(IovtError, match="aarch64") as caught:
        runtime.load(compiled.path, target="arm")
    assert caught.value.exit_code == 8


def test_a_bundle_compiled_again_in_its_place_is_the_new_one(
    make_model: Any, tmp_path: Path
) -> None:
    # The dynamic loader knows libraries by their path.
    x = np.ones((1, 4), np.float32)
    for factor in (2.0, 3.0):
        node = helper.make_node("Mul", ["x", "f"], ["y"])
        model = tmp_path / "scale.onnx"
        onnx.save(
            make_model([node], {"x": [1, 4]}, {"y": [1, 4]}, {"f": np.float32(factor)}), model
        )
        found = tvm_iovt.compile(model, output=tmp_path / "scale.iovt", overwrite=True)
        loaded = tvm_iovt.load(found.path)
        np.testing.assert_array_equal(loaded.run({"x": x})["y"], x * factor)


@pytest.mark.parametrize("fuse", ["always", "auto", "never"])
def test_branches_are_folded_as_asked(fuse: str, tmp_path: Path) -> None:
    digits = Path(tvm_iovt.__file__).parent / "zoo" / "digits.onnx"
    manifest = tvm_iovt.compile(digits, output=tmp_path / "digits.iovt", fuse=fuse).manifest
    folded = [d for d in manifest.decisions if d.transform == "FuseParallelConvs" and d.applied]
    assert len(folded) == (0 if fuse == "never" else 5)
    if folded:
        assert "conv3x3" in folded[0].subject, "decisions name the model's nodes"
    assert all(d.discrepancy is not None and d.discrepancy.passed for d in manifest.deployments)


def test_an_unknown_fusion_mode_is_refused(small_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="always, auto, never"):
        tvm_iovt.compile(small_model, output=tmp_path / "x.iovt", fuse="sometimes")
