from __future__ import annotations

import dataclasses
import json

import pytest

from tvm_iovt.errors import UsageError
from tvm_iovt.json_codec import to_json
from tvm_iovt.tuning.kernel_records import (
    CpuKind,
    KernelChoice,
    MeasuredKernel,
    Records,
    Setting,
)

SETTING = Setting(
    target=CpuKind(mcpu="znver4", triple="x86_64-linux-gnu", vector_bits=512, cores=2),
    threads=1,
    winograd=True,
)
PREDICTED, OTHER = "direct 1x6x2x16", "direct 1x4x2x16"


@pytest.fixture
def choice(conv):
    return KernelChoice(
        setting=SETTING,
        convolution=conv,
        candidates=(
            MeasuredKernel(name=PREDICTED, median_s=1e-3, spread_s=0.0),
            MeasuredKernel(name=OTHER, median_s=5e-4, spread_s=0.0),
        ),
        dropped=(),
        predicted=PREDICTED,
        chosen=OTHER,
        tvm_version="0",
        tool_version="0",
        date="2026-01-01",
    )


def find(records, conv):
    return records.find(conv, PREDICTED)


def test_records_are_found_again(tmp_path, choice, conv):
    records = Records(SETTING, [tmp_path / "user", tmp_path / "shipped"])
    assert find(records, conv) is None
    records.add(choice)
    assert records.path == tmp_path / "user" / "znver4" / "kernel_choice.jsonl"
    again = Records(SETTING, [tmp_path / "user"])
    assert find(again, conv) == choice
    assert not again.problems
    (line,) = records.path.read_text().splitlines()
    assert json.loads(line)["schema"] == "tvm-iovt/kernel-choice/1"


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(SETTING, threads=2),
        dataclasses.replace(SETTING, winograd=False),
        *(
            dataclasses.replace(SETTING, target=dataclasses.replace(SETTING.target, **change))
            for change in (
                {"mcpu": "znver3"},
                {"vector_bits": 256},
                {"cores": 8},
                {"triple": "x86_64-linux-musl"},
            )
        ),
    ],
    ids=str,
)
def test_records_of_another_setting_are_never_used(tmp_path, choice, conv, other):
    Records(SETTING, [tmp_path]).add(choice)
    # Also where somebody put the file into the wrong folder.
    path = Records(other, [tmp_path]).path
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        path.write_bytes(Records(SETTING, [tmp_path]).path.read_bytes())
    records = Records(other, [tmp_path])
    assert find(records, conv) is None
    assert not records.problems


def test_the_users_records_come_before_the_shipped_ones(tmp_path, choice, conv):
    shipped, user = tmp_path / "shipped", tmp_path / "user"
    Records(SETTING, [shipped]).add(dataclasses.replace(choice, date="2026-01-01"))
    assert find(Records(SETTING, [user, shipped]), conv).date == "2026-01-01"
    Records(SETTING, [user, shipped]).add(dataclasses.replace(choice, date="2026-02-02"))
    assert find(Records(SETTING, [user, shipped]), conv).date == "2026-02-02"
    assert find(Records(SETTING, [shipped]), conv).date == "2026-01-01"


def test_a_new_measurement_replaces_the_old_one(tmp_path, choice, conv):
    records = Records(SETTING, [tmp_path])
    other = dataclasses.replace(conv, in_channels=64)
    for record in (
        choice,
        dataclasses.replace(choice, convolution=other),
        dataclasses.replace(choice, chosen=choice.predicted),
    ):
        records.add(record)
    again = Records(SETTING, [tmp_path])
    assert find(again, conv).chosen == choice.predicted
    assert find(again, other).chosen == choice.chosen
    assert len(records.path.read_text().splitlines()) == 2


def test_broken_lines_are_skipped_and_named(tmp_path, choice, conv):
    good = json.dumps(to_json(choice))
    unknown = json.dumps({**to_json(choice), "chosen": "something else"})
    newer = good.replace("kernel-choice/1", "kernel-choice/2")
    path = Records(SETTING, [tmp_path]).path
    path.parent.mkdir()
    path.write_bytes(
        "\n".join([good[:40], unknown, newer, "[]", "\xff", "", good, ""]).encode("latin1")
    )
    records = Records(SETTING, [tmp_path])
    assert find(records, conv) == choice
    assert [problem.split(":")[0] for problem in records.problems] == [
        f"{path}, line {number}, was skipped" for number in (1, 2, 3, 4, 5)
    ]
    assert "not among its candidates" in records.problems[1]
    # What cannot be read is not thrown away: a newer version may read it.
    records.add(dataclasses.replace(choice, date="2026-03-03"))
    lines = path.read_bytes().splitlines()
    assert newer.encode() in lines and b"\xff" in lines and len(lines) == 7


def test_a_file_that_cannot_be_read_is_a_problem_and_an_error_when_it_is_needed(tmp_path, choice):
    records = Records(SETTING, [tmp_path])
    records.path.mkdir(parents=True)
    with pytest.raises(UsageError, match="Cannot add a measurement"):
        records.add(choice)
    (problem,) = Records(SETTING, [tmp_path]).problems
    assert "cannot be read" in problem and str(records.path) in problem
