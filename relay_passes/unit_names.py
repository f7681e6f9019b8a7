"""What the units and tensors of a network are called."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import relax

from relay_passes.operator_roles import first_item, shape_of
from relay_passes.straight_line import Node, StraightLine
from relay_passes.unit_grouping import op_name_of
from tvm_iovt.errors import ModelError
from tvm_iovt.types import TensorSpec

_IMPORTER_NAME = re.compile(r"(lv|gv)\d*")


@dataclass(frozen=True, eq=False)
class Names:
    """Names of the tensors of a function, all different.

    Attributes:
        of: Of every parameter and node, by its variable.
        inputs: The parameters.
        outputs: What it returns. An output that is no node of its own (an input, a constant, a
            tensor that is returned twice) has a name of its own.
    """

    of: Mapping[Any, str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def name_tensors(
    line: StraightLine,
    inputs: Sequence[TensorSpec] | None,
    outputs: Sequence[TensorSpec] | None,
) -> Names:
    """Name everything after the model, and what the importer numbered after its operator.

    Args:
        line: The function.
        inputs: What the model calls the parameters, if known.
        outputs: What the model calls the results, if known.

    Raises:
        ModelError: These are not the function's inputs or outputs.
    """
    names = _Unique()
    _check("inputs", inputs, line.params)
    _check("outputs", outputs, line.outputs)
    in_specs = _specs(line, line.params, inputs, names)
    named: dict[Any, str] = {v: s.name for v, s in zip(line.params, in_specs, strict=True)}
    if outputs is not None:  # what the model calls its outputs, nothing else may be called
        out_specs = _specs(line, line.outputs, outputs, names)
        _name_outputs(line, out_specs, named)
    for node in line.nodes:
        if node.var not in named:
            named[node.var] = names.unique(_own_name(node.var, line))
    if outputs is None:
        out_specs = _named_specs(line, named, names)
    return Names(named, in_specs, out_specs)


def model_name(var: Any) -> str:
    """The model's name for a variable; empty for one that the importer numbered."""
    name = str(var.name)
    return "" if _IMPORTER_NAME.fullmatch(name) else name


def short_name(node: Node) -> str:
    """Name of a node's operator without its module: `conv2d`."""
    return op_name_of(node).split(".")[-1] or "item"


def spec_of(name: str, value: Any) -> TensorSpec:
    """A tensor as others see it."""
    return TensorSpec(name=name, shape=shape_of(value), dtype=str(first_item(value).ty.dtype))


class _Unique:
    """Hands out unique names: `a`, `a~2`, `a~3`."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}

    def unique(self, name: str) -> str:
        found, number = name, self._next.get(name, 2)
        while found in self._taken:
            found, number = f"{name}~{number}", number + 1
        self._taken.add(found)
        self._next[name] = number
        return found


def _check(what: str, specs: Sequence[TensorSpec] | None, values: Sequence[Any]) -> None:
    if specs is not None:
        have = [shape_of(value) for value in values]
        if [spec.shape for spec in specs] != have:
            raise ModelError(
                f"The {what} are not those of the module",
                seen=f"given {'; '.join(map(str, specs))}; the module has shapes {have}",
            )


def _specs(
    line: StraightLine, values: Sequence[Any], given: Sequence[TensorSpec] | None, names: _Unique
) -> tuple[TensorSpec, ...]:
    labels = [s.name for s in given] if given is not None else [_own_name(v, line) for v in values]
    return tuple(
        spec_of(names.unique(label), value) for label, value in zip(labels, values, strict=True)
    )


def _name_outputs(line: StraightLine, specs: Sequence[TensorSpec], named: dict[Any, str]) -> None:
    for value, spec in zip(line.outputs, specs, strict=True):
        node = line.node_of.get(value) if isinstance(value, relax.Var) else None
        if node is not None and not node.replicated:
            named.setdefault(value, spec.name)


def _named_specs(
    line: StraightLine, named: dict[Any, str], names: _Unique
) -> tuple[TensorSpec, ...]:
    """Outputs by the names of their tensors; inputs, constants and second ones by new names."""
    specs: list[TensorSpec] = []
    for value in line.outputs:
        own = isinstance(value, relax.Var) and value in line.node_of
        again = own and named[value] in {spec.name for spec in specs}
        fresh = not own or again or line.node_of[value].replicated
        name = names.unique(_own_name(value, line)) if fresh else named[value]
        specs.append(spec_of(name, value))
    return tuple(specs)


def _own_name(value: Any, line: StraightLine) -> str:
    """The model's name for a value if there is one, else its operator's."""
    if not isinstance(value, relax.Var):
        return "constant"
    node = line.node_of.get(value)
    return model_name(value) or ("" if node is None else short_name(node)) or str(value.name)
