"""Lines of records: damage is named, the rest is used."""

from __future__ import annotations

import json
from pathlib import Path

from tests.tuning.record_examples import trial
from tvm_iovt.json_codec import to_json
from tvm_iovt.tuning.record_files import TRIALS
from tvm_iovt.tuning.record_lines import read_file, read_lines

PATH = Path("trials.jsonl")


def damaged_lines() -> list[tuple[bytes, str]]:
    good = to_json(trial())
    missing = {key: value for key, value in good.items() if key != "run_s"}
    return [
        (b"\0" * 300, "not JSON"),
        (b'{"schema": "tvm-iovt/trial/1"', "not JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[]", "not a trial"),
        (b"7", "not a trial"),
        (json.dumps({**good, "schema": "tvm-iovt/trial/2"}).encode(), "tvm-iovt/trial/2"),
        (json.dumps(missing).encode(), "missing run_s"),
        (json.dumps({**good, "run_s": ["fast"]}).encode(), "should be float"),
        (json.dumps({**good, "colour": 1}).encode(), "unknown colour"),
        (json.dumps({**good, "run_s": [10**400]}).encode(), "sensible"),
        (b"[" * 100_000, "sensible"),
        (b"9" * 10_000, "sensible"),
    ]


def test_damaged_lines_are_named_and_the_others_are_used():
    good = TRIALS.line(trial())
    for line, reason in damaged_lines():
        found = read_lines(TRIALS, b"\n" + good + line + b"\n" + good, PATH)
        assert found.records == (trial(), trial())
        (problem,) = found.problems
        assert problem.startswith("trials.jsonl, line 3, was skipped:") and reason in problem


def test_all_damage_in_one_file():
    content = b"\n".join(line for line, _ in damaged_lines()) + b"\n" + TRIALS.line(trial())
    found = read_lines(TRIALS, content, PATH)
    assert found.records == (trial(),)
    assert [line.number for line in found.skipped] == list(range(1, len(damaged_lines()) + 1))
    assert [line.foreign for line in found.skipped].count(True) == 1


def test_no_file_is_no_problem_and_an_unreadable_one_is(tmp_path):
    assert read_file(TRIALS, tmp_path).problems == ()
    (tmp_path / TRIALS.name).mkdir()
    (problem,) = read_file(TRIALS, tmp_path).problems
    assert "cannot be read" in problem and str(tmp_path / TRIALS.name) in problem
