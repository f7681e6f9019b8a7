"""Plans as files: what does not fit together is refused, with what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tvm_iovt.errors import UsageError
from tvm_iovt.planning.model_plan import PlanOptions, plan_model
from tvm_iovt.planning.plan_file import read_plan, write_plan


@pytest.fixture(scope="module")
def file(funnel_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    options = PlanOptions(targets="host/1,host/2", objective="throughput")
    write_plan(path, plan_model(funnel_model, options))
    return path


def same_names(data: Any) -> None:
    data["targets"][1]["name"] = data["targets"][0]["name"]


def no_times(data: Any) -> None:
    data["unit_s"].pop()


def short_row(data: Any) -> None:
    data["unit_s"][0].pop()


def negative(data: Any) -> None:
    data["unit_s"][0][0] = -1.0


def no_number(data: Any) -> None:
    data["unit_s"][1][0] = "nan"


def short_measured(data: Any) -> None:
    data["measured"] = [[1.0], []]


def no_roof(data: Any) -> None:
    roof = {"threads": 1, "peaks": [], "bandwidth_bytes_per_s": 1.0}
    profile = {"source": "measured", "roofs": [roof], "launch_s": 0.0}
    data["targets"][0]["profile"] = profile | {"roofs": []}


def foreign_triple(data: Any) -> None:
    data["targets"][1]["cpu"]["triple"] = "bogus-linux-gnu"


def bare_attribute(data: Any) -> None:
    data["named"][0]["cpu"]["mattr"] = ["neon"]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (same_names, "two targets of one name"),
        (no_times, "2 targets, and times of units on 1"),
        (short_row, "and times of"),
        (negative, "negative or no number"),
        (no_number, "negative or no number"),
        (short_measured, "measured times of 1"),
        (no_roof, "without a roof"),
        (foreign_triple, "cpu.triple of host/2 is 'bogus-linux-gnu'; write one of"),
        (bare_attribute, 'write "+neon"'),
    ],
)
def test_edits_that_do_not_fit(
    file: Path, tmp_path: Path, edit: Callable[[Any], None], said: str
) -> None:
    data = json.loads(file.read_text())
    edit(data)
    (tmp_path / "edited.json").write_text(json.dumps(data))
    with pytest.raises(UsageError, match="does not fit together") as caught:
        read_plan(tmp_path / "edited.json")
    assert said in caught.value.seen
    assert "plan again" in caught.value.do


def test_what_is_written_is_read(file: Path, tmp_path: Path) -> None:
    found = read_plan(file)
    write_plan(tmp_path / "again.json", found)
    assert read_plan(tmp_path / "again.json") == found
