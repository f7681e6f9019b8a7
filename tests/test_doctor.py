from __future__ import annotations

import json

import pytest

from tvm_iovt import doctor
from tvm_iovt.cli.main import run
from tvm_iovt.errors import ToolchainError


def test_this_machine_can_build_for_itself() -> None:
    findings = {finding.name: finding for finding in doctor.examine()}
    assert findings["TVM"].ok
    assert findings["TVM JSON writer"].ok
    assert findings["target host"].ok
    assert not findings["target vulkan"].ok
    assert "threads" in findings["tuning records"].detail
    assert all(finding.cure for finding in findings.values() if not finding.ok)


def test_missing_requirement_is_exit_4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_linker(*_: object, **__: object) -> None:
        message = "No linker"
        raise ToolchainError(message, seen="none", do="install one")

    monkeypatch.setattr("tvm_iovt.build.link.find_linker", no_linker)
    assert run(["doctor", "--json"]) == 4
    captured = capsys.readouterr()
    assert "install one" in captured.err
    listed = json.loads(captured.out.partition("\n]")[0] + "]")
    assert any(item["name"] == "target host" and not item["ok"] for item in listed)
