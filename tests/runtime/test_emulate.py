"""64-bit ARM under qemu-user: the C++ runner, and the Python runtime with a real ARM Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_iovt.build.elf import elf_machine
from tvm_iovt.errors import BundleError, DeviceError, ToolchainError, UsageError
from tvm_iovt.runtime.emulate import emulate, emulate_deployment, find_emulator
from tvm_iovt.runtime.pack import pack

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def sysroot(arm_root: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TVM_IOVT_SYSROOT_AARCH64", arm_root["root"])
    return arm_root["root"]


@pytest.fixture
def packed(arm_bundle: Path, arm_root: dict[str, str], tmp_path: Path, sysroot: str) -> Path:
    out = tmp_path / "packed"
    pack(arm_bundle, out, arch="aarch64", wheels=Path(arm_root["wheels"]), portable=False)
    return out


@pytest.mark.arm
def test_the_runner_computes_the_sample(packed: Path, tiny: Any) -> None:
    assert elf_machine(packed / "bin" / "iovt-runner") == "aarch64"
    found = emulate(packed)
    assert found.discrepancy is not None
    assert found.discrepancy.passed
    assert found.emulator.startswith("qemu-aarch64 ")
    expected = tiny.reference(tiny.image(1))
    np.testing.assert_allclose(
        found.outputs["features"], expected["features"], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(found.outputs["class"], expected["class"], strict=True)


@pytest.mark.arm
def test_the_runner_computes_own_inputs(packed: Path, tiny: Any) -> None:
    image = tiny.image(5)
    found = emulate(packed, inputs={"image": image})
    assert found.discrepancy is None
    expected = tiny.reference(image)
    np.testing.assert_allclose(
        found.outputs["features"], expected["features"], rtol=1e-4, atol=1e-5
    )
    with pytest.raises(UsageError, match="qemu"):
        emulate(packed, inputs={"image": image[:, :2]})


@pytest.mark.arm
def test_a_tampered_bundle_fails_under_emulation(packed: Path) -> None:
    library = packed / "stage0.aarch64.so"
    library.write_bytes(library.read_bytes() + b"\0")
    with pytest.raises(BundleError, match="not the file that was compiled"):
        emulate(packed)


@pytest.mark.arm
def test_missing_cpu_features_of_the_emulated_cpu(packed: Path, tiny: Any) -> None:
    def need(features: list[str]) -> None:
        def edit(data: dict) -> None:
            data["deployments"][0]["targets"][0]["cpu"]["features"] = features

        tiny.edit_manifest(packed, edit)

    need(["asimd", "asimddp", "asimdhp"])
    assert emulate(packed).outputs
    need(["avx2"])
    with pytest.raises(BundleError, match="needs the CPU features avx2"):
        emulate(packed)


@pytest.mark.arm
def test_one_call_from_bundle_to_outputs(both_bundle: Path, packed: Path, tiny: Any) -> None:
    assert packed  # has put TVM's libraries into the cache, so that nothing is downloaded
    outputs, emulator = emulate_deployment(both_bundle, "aarch64")
    assert emulator.startswith("qemu-aarch64 ")
    np.testing.assert_array_equal(outputs["class"], tiny.reference(tiny.image(1))["class"])


@pytest.mark.arm
def test_the_python_runtime_on_an_arm_python(both_bundle: Path, arm_root: dict[str, str]) -> None:
    script = """
import json, sys
from tvm_iovt import runtime
from tvm_iovt.runtime.machine import this_machine
executor = runtime.load(sys.argv[1])
found = executor.self_check()
print(json.dumps([executor.deployment.name, found.passed, this_machine().arch,
                  "asimd" in this_machine().features, "tvm" in sys.modules]))
"""
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    done = subprocess.run(
        [qemu, "-L", arm_root["root"], arm_root["python"], "-c", script, str(both_bundle)],
        env={
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "PYTHONPATH": f"{ROOT}:{arm_root['site']}",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["aarch64", True, "aarch64", True, False]


@pytest.mark.arm
@pytest.mark.slow
def test_a_runner_built_by_zig(
    arm_bundle: Path, arm_root: dict[str, str], tmp_path: Path, sysroot: str, tiny: Any
) -> None:
    pytest.importorskip("ziglang", reason="needs zig (pip install ziglang)")
    out = tmp_path / "packed"
    packed = pack(arm_bundle, out, arch="aarch64", wheels=Path(arm_root["wheels"]))
    assert packed.compiler.startswith("zig")
    assert tuple(map(int, packed.glibc.split("."))) <= (2, 28)
    assert emulate(out).discrepancy.passed  # type: ignore[union-attr]
    # Errors inside of libtvm_ffi, of another C++ library, must arrive as messages.
    (out / "manifest.json").write_text("{")
    runner = [str(find_emulator("aarch64").command), "-L", sysroot, str(out / "bin/iovt-runner")]
    done = subprocess.run([*runner, str(out)], capture_output=True, text=True)
    assert done.returncode == 8
    assert "is damaged" in done.stderr


# --- Without an emulator -----------------------------------------------------------------------


def test_a_missing_emulator_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ToolchainError, match="qemu-user-static"):
        find_emulator("aarch64")


def test_missing_system_libraries_name_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "qemu-aarch64").write_text("#!/bin/sh\necho qemu-aarch64 version 1.2.3\n")
    (tmp_path / "qemu-aarch64").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TVM_IOVT_SYSROOT_AARCH64", str(tmp_path / "root"))
    with pytest.raises(ToolchainError, match="libstdc\\+\\+6-arm64-cross"):
        find_emulator("aarch64")
    (tmp_path / "root" / "lib").mkdir(parents=True)
    (tmp_path / "root" / "lib" / "ld-linux-aarch64.so.1").write_text("")
    assert find_emulator("aarch64").version == "qemu-aarch64 1.2.3"


def test_architectures_that_are_not_emulated() -> None:
    with pytest.raises(ToolchainError, match="no emulation of armv7l"):
        find_emulator("armv7l")


def test_a_bundle_that_is_not_packed(host_bundle: Path) -> None:
    with pytest.raises(BundleError, match="not a packed bundle"):
        emulate(host_bundle)


def test_this_machine_is_not_emulated(host_bundle: Path, tiny: Any) -> None:
    with pytest.raises(DeviceError, match="cannot be emulated"):
        emulate_deployment(host_bundle, tiny.host)
    with pytest.raises(BundleError, match="no deployment fpga"):
        emulate_deployment(host_bundle, "fpga")
