from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tvm_iovt import host_cpu
from tvm_iovt.cli import main
from tvm_iovt.probe import probe_target
from tvm_iovt.probe.report import Finding, ProbeResult
from tvm_iovt.types import DeviceProfile, DtypePeak, Roof


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's targets."""
    monkeypatch.delenv("TVM_IOVT_PATH", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "tvm-iovt" / "targets"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Calls of the probe, which finds 123 GFLOP/s in no time."""
    calls = []

    def probe(spec: Any, **options: Any) -> ProbeResult:
        calls.append({"name": spec.name, **options})
        roof = Roof(
            threads=1,
            peaks=(DtypePeak(dtype="float32", flops_per_s=123e9),),
            bandwidth_bytes_per_s=10e9,
        )
        profile = DeviceProfile(
            source="measured",
            date="2026-01-31",
            device=host_cpu.model(),
            roofs=(roof,),
            launch_s=1e-6,
        )
        finding = Finding("peak float32, 1 thread", 123e9, "FLOP/s", 0.02)
        return ProbeResult(profile=profile, links=(), findings=(finding,))

    monkeypatch.setattr(probe_target, "probe_target", probe)
    return calls


def test_probe_writes_the_users_target_and_targets_shows_it(
    config: Path, measured: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["targets", "probe", "host/1", "--quick"]) == 0
    assert measured[0]["name"] == "host/1"
    assert measured[0]["quick"] is True
    out = capsys.readouterr().out
    assert "123.0 GFLOP/s" in out
    assert "2.0%" in out
    assert str(config / "host.toml") in out
    assert main.run(["targets", "host"]) == 0
    shown = capsys.readouterr().out
    assert "123.0 GFLOP/s   measured" in shown
    assert "2026-01-31" in shown


def test_probe_prints_json_alone(
    config: Path, measured: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["targets", "probe", "host", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["file"] == str(config / "host.toml")
    assert found["profile"]["source"] == "measured"
    assert found["findings"][0]["spread"] == 0.02


def test_probe_writes_where_it_is_told(
    config: Path, measured: list[dict[str, Any]], tmp_path: Path
) -> None:
    output = tmp_path / "mine.toml"
    command = ["targets", "probe", "arm", "--tracker", "1.2.3.4:9190", "--key", "pi"]
    assert main.run([*command, "-o", str(output)]) == 0
    assert measured[0]["tracker"] == "1.2.3.4:9190"
    assert "[measured]" in output.read_text()
    assert not config.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["probe"], 2, "the name of one target"),
        (["probe", "a", "b"], 2, "the name of one target"),
        (["host", "arm"], 2, "shows one target"),
        (["host", "--quick"], 2, "are for `targets probe`"),
        (["probe", "host", "--key", "pi"], 2, "together"),
        (["probe", "nowhere"], 4, "no target 'nowhere'"),
        (["probe", "host/9999"], 4, "too many threads"),
    ],
)
def test_wrong_commands(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["targets", *arguments]) == code
    assert said in capsys.readouterr().err


def test_sources_are_shown(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["targets", "raspberry-pi-5"]) == 0
    assert "153.6 GFLOP/s   datasheet" in capsys.readouterr().out
    assert main.run(["targets", "vulkan"]) == 0
    assert "assumed" in capsys.readouterr().out
    assert main.run(["targets"]) == 0
    assert "raspberry-pi-5" in capsys.readouterr().out
