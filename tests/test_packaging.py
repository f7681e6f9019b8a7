"""The wheel holds exactly what is meant to be shipped, and works from an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("build", reason="the packaging test needs `pip install build`")
    pytest.importorskip("setuptools", reason="the packaging test needs `pip install setuptools`")
    out = tmp_path_factory.mktemp("wheel")
    source = tmp_path_factory.mktemp("source") / "tree"
    # A copy: building in the checkout would leave build folders there.
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.split("\n")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


def test_top_level_names(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"tvm_iovt", "relay_passes"}


def test_every_module_and_data_file_is_inside(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    for package in ("tvm_iovt", "relay_passes"):
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert path.relative_to(ROOT).as_posix() in inside
    for path in (ROOT / "targets").glob("*.toml"):
        assert f"tvm_iovt/_data/targets/{path.name}" in inside
    assert not {name for name in inside if name.startswith(("tests/", "bench/", "targets/"))}


def test_installed_wheel_finds_its_data(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site), "XDG_CONFIG_HOME": str(tmp_path)}

    def tvm_iovt(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tvm_iovt", *arguments],
            cwd=empty,
            env=environment,
            capture_output=True,
            text=True,
        )

    listing = tvm_iovt("targets", "--json")
    assert listing.returncode == 0, listing.stderr
    assert '"raspberry-pi-4"' in listing.stdout
    verbs = ("compile", "run", "verify", "inspect", "bundle", "targets", "zoo", "doctor")
    for verb in (*verbs, "tracker", "board", "bench"):
        helped = tvm_iovt(verb, "--help")
        assert helped.returncode == 0, helped.stderr
        assert "Usage:" in helped.stdout
    exported = tvm_iovt("zoo", "export", "digits", "-o", "digits.onnx")
    assert exported.returncode == 0, exported.stderr
    assert (empty / "digits.onnx").stat().st_size > 1000
