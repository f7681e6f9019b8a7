from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tvm_iovt import bundle, runtime
from tvm_iovt.build.elf import elf_machine
from tvm_iovt.errors import BundleError, ToolchainError, UsageError
from tvm_iovt.runtime.pack import choose_architecture, pack
from tvm_iovt.runtime.shared_objects import find_libraries, needed_libraries

ROOT = Path(__file__).resolve().parents[2]


def versions(path: Path) -> tuple[str, str]:
    manifest = bundle.read_manifest(path)
    return manifest.tvm_version, manifest.tvm_ffi_version


def test_only_the_machine_s_files_are_packed(both_bundle: Path, tmp_path: Path, tiny: Any) -> None:
    out = tmp_path / "packed"
    packed = pack(both_bundle, out, arch=tiny.host)
    assert packed.deployments == (tiny.host,)
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert files - {"lib/libtvm_runtime_extra.so"} == {
        "bin/iovt-runner",
        "lib/libtvm_ffi.so",
        "lib/libtvm_runtime.so",
        "manifest.json",
        "report.html",
        "run.sh",
        "sample.npz",
        f"stage0.{tiny.host}.so",
    }
    assert [d.name for d in bundle.check(out).deployments] == [tiny.host]
    assert packed.size_bytes == sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    assert "libstdc++.so.6" in packed.needs
    assert not {n for n in packed.needs if n.startswith("libtvm")}
    assert packed.glibc.startswith("2.")


def test_the_python_runtime_uses_the_packed_libraries(
    host_bundle: Path, tmp_path: Path, tiny: Any
) -> None:
    out = tmp_path / "packed"
    pack(host_bundle, out, arch=tiny.host)
    script = """
import json, pathlib, sys
sys.modules["tvm"] = None  # as if apache-tvm were not installed
from tvm_iovt import runtime
passed = runtime.load(sys.argv[1]).self_check().passed
print(json.dumps([passed, sys.argv[1] + "/lib/libtvm_runtime.so" in
                  pathlib.Path("/proc/self/maps").read_text()]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True, True]
    assert runtime.load(out).self_check().passed


def test_an_existing_folder_needs_overwrite(host_bundle: Path, tmp_path: Path, tiny: Any) -> None:
    out = tmp_path / "packed"
    pack(host_bundle, out, arch=tiny.host)
    with pytest.raises(BundleError, match="--overwrite"):
        pack(host_bundle, out, arch=tiny.host)
    pack(host_bundle, out, arch=tiny.host, overwrite=True)


def test_no_deployment_for_the_architecture(host_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no deployment for riscv64"):
        pack(host_bundle, tmp_path / "packed", arch="riscv64")
    assert not (tmp_path / "packed").exists()


def test_a_damaged_bundle_is_not_packed(host_bundle: Path, tmp_path: Path, tiny: Any) -> None:
    (host_bundle / "report.html").write_text("changed")
    with pytest.raises(BundleError, match=r"report\.html"):
        pack(host_bundle, tmp_path / "packed", arch=tiny.host)


def test_the_architecture_is_found_where_it_is_clear(both_bundle: Path, tiny: Any) -> None:
    manifest = bundle.read_manifest(both_bundle)
    assert choose_architecture(manifest, arch="x", target=None) == "x"
    assert choose_architecture(manifest, arch=None, target="aarch64") == "aarch64"
    with pytest.raises(BundleError, match="no deployment fpga"):
        choose_architecture(manifest, arch=None, target="fpga")
    with pytest.raises(UsageError, match="several architectures") as caught:
        choose_architecture(manifest, arch=None, target=None)
    assert tiny.host in caught.value.seen


def test_a_broken_compiler_is_reported(
    host_bundle: Path, tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(ToolchainError, match="runner cannot be compiled") as caught:
        pack(host_bundle, tmp_path / "packed", arch=tiny.host, compiler="false")
    assert "runner.cc" in caught.value.seen
    assert not (tmp_path / "packed").exists()


# --- TVM's libraries ---------------------------------------------------------------------------


def test_there_is_no_runtime_for_32_bit_arm() -> None:
    with pytest.raises(ToolchainError, match="no published TVM runtime for armv7l"):
        find_libraries("armv7l", "0.27.0", "0.1.14")


def test_this_machine_s_libraries_are_the_installed_ones(host_bundle: Path, tiny: Any) -> None:
    found = find_libraries(tiny.host, *versions(host_bundle))
    assert {"libtvm_runtime.so", "libtvm_ffi.so"} <= set(found)
    assert elf_machine(found["libtvm_runtime.so"]) == tiny.host
    needed = needed_libraries(found["libtvm_runtime.so"])
    assert {"libtvm_ffi.so", "libc.so.6"} <= set(needed)


def test_a_failed_download_shows_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ToolchainError, match="cannot be downloaded") as caught:
        find_libraries("aarch64", "0.0.1", "0.0.1")
    assert "pip download" in caught.value.seen
    assert "apache-tvm==0.0.1" in caught.value.seen
    assert "--wheels" in caught.value.do
    assert not list((tmp_path / "tvm-iovt" / "wheels").iterdir())


def wheel(folder: Path, project: str, version: str, members: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    name = f"{project}-{version}-py3-none-manylinux_2_28_aarch64.whl"
    with zipfile.ZipFile(folder / name, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)


AARCH64_ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\0\xb7\0" + bytes(44)


def test_wheels_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wheels = tmp_path / "wheels"
    wheel(wheels, "apache_tvm", "1.0", {"tvm/lib/libtvm_runtime.so": AARCH64_ELF})
    with pytest.raises(ToolchainError, match=r"no wheel of apache-tvm-ffi 2\.0") as caught:
        find_libraries("aarch64", "1.0", "2.0", wheels=wheels)
    assert "apache_tvm-1.0" in caught.value.seen
    wheel(wheels, "apache_tvm_ffi", "2.0", {"tvm_ffi/lib/libtvm_ffi.so": AARCH64_ELF})
    found = find_libraries("aarch64", "1.0", "2.0", wheels=wheels)
    assert set(found) == {"libtvm_runtime.so", "libtvm_ffi.so"}
    assert found["libtvm_ffi.so"].read_bytes() == AARCH64_ELF
    # The cache answers from now on, without the wheels and without a network.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert find_libraries("aarch64", "1.0", "2.0") == found


def test_wheels_that_lack_the_library_or_are_of_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wheels = tmp_path / "wheels"
    wheel(wheels, "apache_tvm", "1.0", {"tvm/__init__.py": b""})
    wheel(wheels, "apache_tvm_ffi", "2.0", {"tvm_ffi/lib/libtvm_ffi.so": AARCH64_ELF})
    with pytest.raises(ToolchainError, match=r"lack libtvm_runtime\.so"):
        find_libraries("aarch64", "1.0", "2.0", wheels=wheels)
    x86 = AARCH64_ELF.replace(b"\xb7\0", b"\x3e\0")
    wheel(wheels, "apache_tvm", "1.0", {"tvm/lib/libtvm_runtime.so": x86})
    with pytest.raises(ToolchainError, match="another machine"):
        find_libraries("aarch64", "1.0", "2.0", wheels=wheels)
    (wheels / "apache_tvm-1.0-py3-none-manylinux_2_28_aarch64.whl").write_bytes(b"junk")
    with pytest.raises(ToolchainError, match="cannot be extracted"):
        find_libraries("aarch64", "1.0", "2.0", wheels=wheels)


def test_needed_libraries_of_junk(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(ToolchainError, match="ELF"):
        needed_libraries(tmp_path / "junk")
