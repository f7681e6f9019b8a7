"""Work and traffic of every unit, written to the function that they are of.

    Given:
        def main(%x): ...
    Result:
        def main(%x): ...   # with attr tvm_iovt.costs = "{units: [...], edges: [...]}"

The code stays as it is. See `unit_grouping` for what a unit is; FLOPs are those of the textbook
algorithm (a multiply-add is two, a bias is free), bytes are the compulsory traffic: each tensor
that enters or leaves a unit once, and its constants. What stays inside of a unit is no traffic.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import tvm

from relay_passes.module_pass import module_pass
from relay_passes.unit_costs import main_of, units_of
from tvm_iovt.cost_graph import CostGraph
from tvm_iovt.errors import ModelError
from tvm_iovt.json_codec import from_json, to_json
from tvm_iovt.types import TensorSpec

COSTS = "tvm_iovt.costs"
"""Attribute of an annotated function: its `CostGraph` as JSON text."""

OUTPUTS = "tvm_iovt.outputs"
"""Attribute of an annotated function: names of what it returns, as JSON text."""


@module_pass("AnnotateCost")
class AnnotateCost:
    """Attaches the `CostGraph` of `main` to it.

    Args:
        inputs: What the model calls its inputs, in order; by default the parameters' names.
        outputs: What the model calls its outputs, in order; by default the variables' names.
    """

    def __init__(
        self,
        inputs: Sequence[TensorSpec] | None = None,
        outputs: Sequence[TensorSpec] | None = None,
    ) -> None:
        self._inputs = inputs
        self._outputs = outputs

    def transform_module(self, mod: Any, _ctx: Any) -> Any:
        """Annotate `main` of `mod`; a former annotation is replaced.

        Raises:
            ModelError: `main` is missing, or cannot be divided into units.
        """
        units = units_of(mod, self._inputs, self._outputs)
        main = main_of(mod)
        annotated = main.with_attr(COSTS, json.dumps(to_json(units.graph)))
        names = json.dumps([spec.name for spec in units.outputs])
        functions = dict(mod.functions.items())
        functions[mod.get_global_var("main")] = annotated.with_attr(OUTPUTS, names)
        return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)


def read_costs(mod: Any) -> CostGraph:
    """What `AnnotateCost` attached to `main`.

    Raises:
        ModelError: It is not annotated.
        IovtError: The annotation is of another version.
    """
    return from_json(CostGraph, json.loads(attached(mod, COSTS)))


def cost_graph(
    mod: Any,
    inputs: Sequence[TensorSpec] | None = None,
    outputs: Sequence[TensorSpec] | None = None,
) -> CostGraph:
    """The units of `main` and the tensors between them; arguments and errors of `AnnotateCost`."""
    return units_of(mod, inputs, outputs).graph


def attached(mod: Any, attribute: str) -> str:
    """The text of an attribute that `AnnotateCost` attaches to `main`.

    Raises:
        ModelError: It is not annotated.
    """
    attrs = main_of(mod).attrs
    if attrs is None or attribute not in attrs:
        raise ModelError(
            "The module has no costs", seen=f"`main` without {attribute}", do="run AnnotateCost()"
        )
    return str(attrs[attribute])
