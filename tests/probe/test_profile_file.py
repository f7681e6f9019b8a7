from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tvm_iovt import host_cpu, targets
from tvm_iovt.errors import UsageError
from tvm_iovt.probe.profile_file import user_file, without_measurements, write_profile
from tvm_iovt.target_profiles import profile_toml
from tvm_iovt.types import DeviceProfile, DtypePeak, KindFit, Link, Roof
from tvm_iovt.unit_laws import TERMS

BOARD = """\
# my board
description = "a \\"board\\""   # a comment
memory_bytes = 1000
active_w = 4.5
machine = "camera"

[cpu]
arch = "aarch64"
triple = "aarch64-linux-gnu"
mcpu = "cortex-a53"
cores = 4
vector_bits = 128
vector_registers = 32
l1d_bytes = 32768
l2_bytes = 524288

# stated by hand
[[link]]
dst = "cloud"
bytes_per_s = 1e6
latency_s = 0.01
"""
PROFILE = DeviceProfile(
    source="measured",
    date="2026-01-31",
    device='a "CPU" (model 17)',
    roofs=tuple(
        Roof(
            threads=threads,
            peaks=(
                DtypePeak(dtype="float32", flops_per_s=threads * 1e9),
                DtypePeak(dtype="int8", flops_per_s=threads * 4e9),
            ),
            bandwidth_bytes_per_s=5e9,
            cache_bandwidth_bytes_per_s=2e10,
        )
        for threads in (1, 4)
    ),
    launch_s=1.5e-6,
    handoff_s=2e-5,
    stage_s=8e-5,
    boundary_bytes_per_s=3e9,
    cache_bytes=1 << 20,
    fits=(
        KindFit(
            kind="conv 3x3/1",
            threads=1,
            coefficients=tuple(0.25 * i for i in range(TERMS)),
            median_error=0.125,
            samples=12,
        ),
    ),
)
LINK = Link(src="board", dst="host", bytes_per_s=1e8, latency_s=2e-3, source="measured")


def test_measurements_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(BOARD)
    write_profile(path, path, PROFILE, (LINK,))
    spec = targets.load(str(path))
    assert spec.profile == PROFILE
    assert spec.links[-1] == dataclasses.replace(LINK, src=str(path))
    assert (spec.memory_bytes, spec.active_w, spec.machine) == (1000, 4.5, "camera")


def test_everything_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(BOARD)
    write_profile(path, path, PROFILE, (LINK,))
    once = path.read_text()
    assert once.startswith(BOARD)
    write_profile(path, path, PROFILE, (LINK,))
    assert path.read_text() == once
    assert [link.dst for link in targets.load(str(path)).links] == ["cloud", "host"]
    assert without_measurements(once, links=True).rstrip() == BOARD.rstrip()


def test_measured_links_stay_when_none_were_measured(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(BOARD)
    write_profile(path, path, PROFILE, (LINK,))
    write_profile(path, path, dataclasses.replace(PROFILE, launch_s=9e-6), ())
    spec = targets.load(str(path))
    assert [link.dst for link in spec.links] == ["cloud", "host"]
    assert spec.profile is not None
    assert spec.profile.launch_s == 9e-6


def test_tables_of_the_user_behind_the_measurements_stay(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    text = BOARD + "\n" + profile_toml(PROFILE) + "\n[datasheet]\nlaunch_s = 5e-6\n"
    text += "[[datasheet.roof]]\nthreads = 1\npeak_flops.float32 = 1e9\n"
    path.write_text(text + "bandwidth_bytes_per_s = 1e9\n")
    write_profile(path, path, PROFILE, ())
    assert "[datasheet]\nlaunch_s = 5e-6\n" in path.read_text()
    assert targets.load(str(path)).profile == PROFILE


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "board.toml"
    path.write_text(BOARD)

    def fail(self: Path, _target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(UsageError, match="Cannot write"):
        write_profile(path, path, PROFILE, ())
    assert path.read_text() == BOARD
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_to_a_file_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "real.toml"
    real.write_text(BOARD)
    link = tmp_path / "board.toml"
    link.symlink_to(real)
    write_profile(link, link, PROFILE, ())
    assert link.is_symlink()
    assert "[measured]" in real.read_text()


def test_user_file_is_found_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TVM_IOVT_PATH", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    write_profile(Path(targets.load("arm").source), user_file("arm"), PROFILE, ())
    assert (tmp_path / "tvm-iovt" / "targets" / "arm.toml").is_file()
    assert targets.load("arm/2").profile == PROFILE


def test_measurements_of_another_machine_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TVM_IOVT_PATH", str(tmp_path))
    shipped = Path(targets.load("host").source)
    mine = dataclasses.replace(PROFILE, device=host_cpu.model())
    write_profile(shipped, user_file("host"), mine, ())
    assert targets.load("host").profile == mine
    write_profile(shipped, user_file("host"), PROFILE, ())
    with pytest.warns(UserWarning, match=r'a "CPU" \(model 17\).*targets probe host'):
        assert targets.load("host").profile is None
