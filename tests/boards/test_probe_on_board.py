"""`targets probe --tracker`: a board's numbers, through its session."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from tvm_iovt import targets
from tvm_iovt.boards import session
from tvm_iovt.cli import main
from tvm_iovt.errors import DeviceError
from tvm_iovt.probe.probe_target import probe_target


@pytest.mark.slow
def test_a_board_is_measured(lab: Any, board: Any, tmp_path: Path) -> None:
    output = tmp_path / "mine.toml"
    command = ["targets", "probe", "host/1", "--tracker", str(lab.tracker), "--key", "shared"]
    assert main.run([*command, "--quick", "-o", str(output)]) == 0
    with pytest.warns(UserWarning, match="measured on 'bench-top'"):
        (link,) = targets.load(str(output)).links
    assert '[[measured.fit]]\nkind = "pointwise"' in output.read_text()
    assert link.source == "measured"
    assert 0 < link.latency_s < 1
    assert link.bytes_per_s > 1e6


def test_no_board_of_that_key_is_an_error(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    brief = functools.partial(session.BoardRequest, wait_s=1.0)
    monkeypatch.setattr(session, "BoardRequest", brief)
    spec = targets.load("host/1")
    with pytest.raises(DeviceError, match="no-such-key"):
        probe_target(spec, tracker=str(lab.tracker), key="no-such-key")
