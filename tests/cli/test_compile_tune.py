"""`compile --tune`: search first, then build with what was found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tvm_iovt.cli.main import run

DIGITS = Path(__file__).resolve().parents[2] / "tvm_iovt" / "zoo" / "digits.onnx"


@pytest.mark.slow
def test_tuning_comes_first_and_stdout_is_the_bundle_s(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TVM_IOVT_PATH", str(tmp_path / "mine"))
    out = tmp_path / "digits.iovt"
    assert run(["compile", str(DIGITS), "--tune", "8", "-o", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["bundle"] == str(out)
    assert "8 of 8 trials" in printed.err or "8 trials" in printed.err
    trials = list((tmp_path / "mine" / "tuning_logs").glob("*/trials.jsonl"))
    assert len(trials[0].read_text().splitlines()) == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tune", "0"], "tunes nothing"),
        (["--tune", "soon"], "could not be read"),
        (["--tracker", "127.0.0.1:9190", "--key", "rpi4"], "are for --tune"),
        (["--tune", "5", "--targets", "arm"], "cannot be measured on this machine"),
        (["--tune", "5", "--tracker", "127.0.0.1:9190"], "belong together"),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path, words, message, capsys):
    out = tmp_path / "digits.iovt"
    assert run(["compile", str(DIGITS), "-o", str(out), *words]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
