"""The stages of a partitioned module, each on its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax

from tvm_iovt.errors import ModelError
from tvm_iovt.json_codec import from_json
from tvm_iovt.types import TensorSpec

STAGE = "tvm_iovt.stage"
"""Attribute of a stage's function: its `StageInterface` as JSON text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageInterface:
    """What passes between a stage and the others.

    Attributes:
        index: From 0, in the order in which they run.
        units: Names of its units, in order.
        inputs: Its parameters in order, by the names of the tensors in the `CostGraph`.
        outputs: What it returns, in order.
    """

    index: int
    units: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, eq=False)
class StageModule:
    """A stage alone.

    Attributes:
        module: `IRModule` with the stage as `main`, and the TIR functions that it calls.
        interface: What it takes and returns.
    """

    module: Any
    interface: StageInterface


def stage_module(mod: Any, index: int) -> StageModule:
    """A stage of a partitioned module, ready to be compiled on its own.

    Args:
        mod: What `PartitionByPlan` made.
        index: Of the stage.

    Raises:
        ModelError: The module has no such stage.
    """
    stages = _stage_functions(mod)
    if index not in stages:
        raise ModelError(
            f"The module has no stage {index}",
            seen=f"{len(stages)} stages" if stages else "it is not partitioned",
            do="run PartitionByPlan(stages) on the annotated module",
        )
    interface, function = stages[index]
    main = function.without_attr(STAGE).with_attr("global_symbol", "main")
    functions = {var: mod[var] for var in _called(mod, function)}
    module = tvm.IRModule({tvm.ir.GlobalVar("main"): main, **functions})
    return StageModule(module=relax.transform.Normalize()(module), interface=interface)


def stage_interfaces(mod: Any) -> tuple[StageInterface, ...]:
    """What the stages of a partitioned module take and return; none if it is not partitioned."""
    stages = _stage_functions(mod)
    return tuple(stages[index][0] for index in sorted(stages))


def _stage_functions(mod: Any) -> dict[int, tuple[StageInterface, Any]]:
    found = {}
    for function in mod.functions.values():
        if isinstance(function, relax.Function) and function.attrs and STAGE in function.attrs:
            interface = from_json(StageInterface, json.loads(str(function.attrs[STAGE])))
            found[interface.index] = (interface, function)
    return found


def _called(mod: Any, function: Any) -> list[Any]:
    """The module's functions that a function calls."""
    found: dict[Any, None] = {}

    def visit(expr: Any) -> None:
        if isinstance(expr, relax.Call):
            for part in (expr.op, *expr.args):
                if isinstance(part, tvm.ir.GlobalVar):
                    found[part] = None

    relax.analysis.post_order_visit(function, visit)
    return list(found)
