"""Plans as files: printed, edited, and replayed by `compile --plan`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tvm_iovt.atomic_write import write_atomically
from tvm_iovt.cost_graph import CostGraph
from tvm_iovt.errors import IovtError, UsageError
from tvm_iovt.json_codec import from_json, to_json
from tvm_iovt.planning.links import StatedLink
from tvm_iovt.targets import cpu_misfits
from tvm_iovt.types import PartitionPlan, TargetSpec

_UNDO = "undo the edit, or plan again with `tvm-iovt plan -o`"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFile:
    """A plan, and everything that it was made from.

    What may be edited is `plan.stages`: move names of units from one stage to another, or change
    its target to another one of the file. The rest is for reading.

    Attributes:
        model_name: Name of the model.
        model_sha256: Digest of the model file.
        targets: The devices that were planned for.
        graph: The units of the network.
        unit_s: Seconds of each unit on each target that the plan rests on.
        measured: Of those, the measured ones: a row of seconds for each target, empty for targets
            that were not measured.
        plan: The plan.
        links: What was said of the ways between the caller and targets, over what the targets say.
        home: The machine that frames come from; empty for that which `places.home_of` takes.
        named: All targets that were named, which decided together about fusions; empty: `targets`.
    """

    SCHEMA: ClassVar[str] = "tvm-iovt/plan/1"

    model_name: str
    model_sha256: str
    targets: tuple[TargetSpec, ...]
    graph: CostGraph
    unit_s: tuple[tuple[float, ...], ...]
    measured: tuple[tuple[float, ...], ...] = ()
    plan: PartitionPlan
    links: tuple[StatedLink, ...] = ()
    home: str = ""
    named: tuple[TargetSpec, ...] = ()


def write_plan(path: Path, plan: PlanFile) -> None:
    """Write a plan as JSON, atomically.

    Raises:
        UsageError: It cannot be written.
    """
    text = json.dumps(to_json(plan), indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode())


def read_plan(path: Path) -> PlanFile:
    """A plan from its file.

    Raises:
        UsageError: There is none, or it is not a plan that this version reads.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UsageError(
            f"Cannot read the plan {path}",
            seen=f"{type(error).__name__}: {error}",
            do="give a file that `tvm-iovt plan -o` wrote",
        ) from error
    try:
        plan = from_json(PlanFile, data)
    except IovtError as error:
        raise UsageError(f"{path}: {error.what}", seen=error.seen, do=error.do or _UNDO) from error
    misfit = next(_misfits(plan), "")
    if misfit:
        raise UsageError(f"{path} does not fit together", seen=misfit, do=_UNDO)
    return plan


def _misfits(plan: PlanFile) -> Iterator[str]:
    """What its parts do not agree on."""
    names = [spec.name for spec in plan.targets]
    units = len(plan.graph.units)
    if len(set(names)) != len(names):
        yield f"two targets of one name among {', '.join(names)}"
    if len(plan.unit_s) != len(names):
        yield f"{len(names)} targets, and times of units on {len(plan.unit_s)}"
    for name, row in zip(names, plan.unit_s, strict=False):
        if len(row) != units:
            yield f"{units} units, and times of {len(row)} on {name}"
        if any(not seconds >= 0 for seconds in row):
            yield f"a time on {name} that is negative or no number"
    for row in plan.measured:
        if row and len(row) != units:
            yield f"{units} units, and measured times of {len(row)}"
    for spec in (*plan.targets, *plan.named):
        for misfit in cpu_misfits(spec.cpu):
            yield f"cpu.{misfit.key} of {spec.name} is {misfit.value!r}; {misfit.do}"
        if spec.profile is not None and not spec.profile.roofs:
            yield f"a profile of {spec.name} without a roof"


def check_model(path: Path, plan: PlanFile, name: str, sha256: str) -> None:
    """Refuse a plan that was made for another model.

    Raises:
        UsageError: It was.
    """
    if plan.model_sha256 != sha256:
        raise UsageError(
            f"{path} is a plan for another model",
            seen=f"{plan.model_name}, SHA-256 {plan.model_sha256[:12]}...; {name} has "
            f"{sha256[:12]}...",
            do="plan this model: tvm-iovt plan MODEL --targets ... -o FILE",
        )
