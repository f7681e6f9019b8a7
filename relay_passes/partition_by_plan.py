"""A network as a sequence of stages.

    Given:                                  # annotated: unit conv1, and conv2 with the sum
        def main(%x): return add(conv2(conv1(%x)), conv1(%x))
    Result:                                 # of PartitionByPlan([["conv1"], ["conv2"]])
        def stage0(%x): return conv1(%x)
        def stage1(%c): return add(conv2(%c), %c)
        def main(%x): return stage1(stage0(%x))

Several tensors may cross a cut, a stage may read tensors of any stage before it and any input of
the network, and a stage that makes several tensors returns a tuple.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax

from relay_passes.annotate_cost import COSTS, OUTPUTS, attached, read_costs
from relay_passes.module_pass import module_pass
from relay_passes.outline import outline
from relay_passes.stages import STAGE, StageInterface
from relay_passes.unit_costs import Units, main_of, units_of
from tvm_iovt.cost_graph import INPUT, CostGraph, Edge
from tvm_iovt.errors import ModelError, UsageError
from tvm_iovt.json_codec import to_json
from tvm_iovt.types import PartitionPlan, TensorSpec


@module_pass("PartitionByPlan")
class PartitionByPlan:
    r"""Splits an annotated `main` into functions `stage0`, `stage1`, ..., and calls of them.

    **The stages compute what the whole computes.** Let :math:`v_1, \ldots, v_n` be the bindings of
    `main` in order, :math:`v_i = f_i(v_j : j \in R_i)` with :math:`R_i \subset \{1, \ldots, i-1\}`,
    and :math:`S_0, \ldots, S_{k-1}` the stages, a partition of the bindings such that no stage
    reads from a later one. Sorting the bindings by stage, and within a stage as they were, is then
    another topological order of the same graph. As the :math:`f_i` are pure, the value of each
    :math:`v_i` depends on the values of :math:`R_i` alone, so by induction along either order every
    :math:`v_i` is the same. Stage :math:`s` as a function :math:`F_s` takes the tensors that
    :math:`S_s` reads from outside, and returns those that are read outside; all of its inputs are
    inputs of the network or results of earlier stages, hence

    .. math:: main = F_{k-1} \circ \cdots \circ F_1 \circ F_0,

    where each stage passes on what later ones read. Nothing was assumed of the arithmetic: if the
    stages are compiled to the same kernels as the whole, the results are the same bit for bit.
    What is copied into several stages (constant subexpressions, views) is computed from the same
    values by the same operators, and crosses no cut.

    **If the kernels differ**, so do the roundings. Let :math:`\hat F_s` be the compiled stage, with
    :math:`|\hat F_s(x) - F_s(x)| \le \varepsilon_s` on the values that occur, and :math:`L_s` a
    Lipschitz constant of :math:`F_s` in the same norm, what it passes on included
    (:math:`L_s \ge 1`). With :math:`\hat x_{s+1} = \hat F_s(\hat x_s)` the error :math:`e_s =
    |\hat x_s - x_s|` obeys

    .. math:: e_{s+1} \le |\hat F_s(\hat x_s) - F_s(\hat x_s)| + |F_s(\hat x_s) - F_s(x_s)|
              \le \varepsilon_s + L_s e_s, \qquad e_0 = 0,

    so that :math:`e_k \le \sum_s \varepsilon_s \prod_{t > s} L_t`. The same recursion holds for the
    operators of an unpartitioned network that is compiled with other schedules, so a cut adds no
    error of its own.

    A sum of :math:`m` products in float32 is off by at most :math:`\gamma_m = m u / (1 - m u)`,
    :math:`u = 2^{-24}`, times the sum of their magnitudes. A layer with the weights :math:`W` so
    adds :math:`\varepsilon \le \gamma_m \, \||W|\| \, |x|`: relative to the largest result that its
    Lipschitz bound :math:`\||W|\|` allows, :math:`\gamma_m` at worst, and about :math:`u \sqrt m`
    as roundings are independent. With :math:`m = 10^3` and 50 layers whose results stay of one
    size, that sums to :math:`50 \cdot 32 u \approx 10^{-4}` of the largest activation. Wrong code
    is off by 1e-2 and more, so a tolerance between the two tells them apart. Where a network rounds
    to integers, :math:`F_s` has no Lipschitz constant (a last bit moves a value by a whole step)
    and the bound does not hold; there the kernels have to be exact, or the comparison statistical.

    Args:
        stages: Names of the units of each stage, see `CostGraph.units`; or a plan, whose only stage
            may leave them out.
    """

    def __init__(self, stages: Sequence[Sequence[str]] | PartitionPlan) -> None:
        if isinstance(stages, PartitionPlan):
            stages = [stage.units for stage in stages.stages]
        self._stages = tuple(tuple(names) for names in stages)

    def transform_module(self, mod: Any, _ctx: Any) -> Any:
        """Split `main` of `mod`.

        Raises:
            UsageError: The stages do not have every unit exactly once, or cannot run in this order.
            ModelError: `main` is not annotated, or was changed since.
        """
        units = _annotated_units(mod)
        stages = self._stages
        if stages == ((),):
            stages = (tuple(unit.name for unit in units.graph.units),)
        stage_of = _stage_of(units.graph, stages)
        interfaces = [_interface(units, stage_of, stage) for stage in range(len(stages))]
        return _partitioned(mod, units, stage_of, interfaces)


def _annotated_units(mod: Any) -> Units:
    graph = read_costs(mod)
    names = json.loads(attached(mod, OUTPUTS))
    main = main_of(mod)
    ins = [edge.spec for edge in graph.edges if edge.producer == INPUT]
    by_name = {edge.spec.name: edge.spec for edge in graph.edges}
    changed = len(ins) != len(main.params) or any(name not in by_name for name in names)
    units = None if changed else _units_as_named(mod, ins, [by_name[name] for name in names])
    if units is None or units.graph != graph:
        raise ModelError(
            "The module is not the one that its costs are of",
            seen="`main` was changed after AnnotateCost",
            do="run AnnotateCost() again, as the last pass before",
        )
    return units


def _units_as_named(
    mod: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Units | None:
    try:
        return units_of(mod, inputs, outputs)
    except ModelError:  # it has other inputs or outputs, say
        return None


def _stage_of(graph: CostGraph, stages: Sequence[Sequence[str]]) -> list[int]:
    """The stage of each unit; refuses what is no partition, or cannot run in this order."""
    known = {unit.name: unit.index for unit in graph.units}
    found: dict[int, int] = {}
    for stage, names in enumerate(stages):
        if not names:
            raise UsageError(f"Stage {stage} of the plan has no units", do="leave it out")
        for name in names:
            if name not in known:
                raise UsageError(
                    f"The plan names a unit that the network does not have: {name!r}",
                    seen=f"in stage {stage}; the network has {_few(known)}",
                    do="the model or its passes have changed: plan it again",
                )
            if known[name] in found:
                raise UsageError(
                    f"The plan names a unit twice: {name!r}",
                    seen=f"in stage {found[known[name]]} and in stage {stage}",
                    do="name each unit in one stage",
                )
            found[known[name]] = stage
    missing = [name for name, index in known.items() if index not in found]
    if missing:
        raise UsageError(
            f"The plan leaves out {len(missing)} of the network's {len(known)} units",
            seen=_few(missing),
            do="name each unit in one stage",
        )
    for edge in graph.edges:
        for consumer in edge.consumers:
            if edge.producer != INPUT and found[edge.producer] > found[consumer]:
                reader, maker = graph.units[consumer], graph.units[edge.producer]
                raise UsageError(
                    "The stages of the plan cannot run in this order",
                    seen=f"stage {found[consumer]} needs {edge.spec.name}, as {reader.name} reads "
                    f"it, but {maker.name} makes it in stage {found[edge.producer]}",
                    do="put a unit in the same stage as what it reads, or in a later one",
                )
    return [found[index] for index in range(len(graph.units))]


def _few(names: Any) -> str:
    listed = list(names)
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")


def _interface(units: Units, stage_of: Sequence[int], stage: int) -> StageInterface:
    graph = units.graph
    made = {edge.spec.name for edge in graph.edges if _maker(edge, stage_of) == stage}
    inputs = [
        edge.spec
        for edge in graph.edges
        if edge.spec.name not in made and any(stage_of[c] == stage for c in edge.consumers)
    ]
    # The network's outputs in its order, then what only later stages read.
    outputs = [spec for spec in units.outputs if spec.name in made]
    outputs += [
        edge.spec
        for edge in graph.edges
        if edge.spec.name in made
        and not edge.is_output
        and any(stage_of[c] != stage for c in edge.consumers)
    ]
    if not outputs:
        raise ModelError(
            f"Nothing reads what stage {stage} computes",
            seen=_few(unit.name for unit in graph.units if stage_of[unit.index] == stage),
            do="run relax.transform.DeadCodeElimination() before AnnotateCost()",
        )
    return StageInterface(
        index=stage,
        units=tuple(unit.name for unit in graph.units if stage_of[unit.index] == stage),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
    )


def _maker(edge: Edge, stage_of: Sequence[int]) -> int:
    return INPUT if edge.producer == INPUT else stage_of[edge.producer]


def _partitioned(
    mod: Any, units: Units, stage_of: Sequence[int], interfaces: Sequence[StageInterface]
) -> Any:
    main = main_of(mod)
    others = {var: f for var, f in mod.functions.items() if var.name_hint != "main"}
    builder = relax.BlockBuilder(
        tvm.IRModule(others, attrs=mod.attrs, global_infos=mod.global_infos)
    )
    tensor = {e.spec.name: t for e, t in zip(units.graph.edges, units.tensors, strict=True)}
    stages = []
    for interface in interfaces:
        nodes = [
            node
            for index, group in enumerate(units.groups)
            if stage_of[index] == interface.index
            for node in group.nodes
        ]
        variable = outline(
            builder,
            f"stage{interface.index}",
            units.line,
            nodes,
            [(spec.name, tensor[spec.name]) for spec in interface.inputs],
            [(spec.name, tensor[spec.name]) for spec in interface.outputs],
            {STAGE: json.dumps(to_json(interface))},
        )
        stages.append((interface, variable))
    attrs = {
        key: value
        for key, value in (main.attrs or {}).items()
        if key not in (COSTS, OUTPUTS, "global_symbol")
    }
    params = [
        relax.Var(spec.name, param.ty)
        for spec, param in zip(units.inputs, main.params, strict=True)
    ]
    here = {spec.name: param for spec, param in zip(units.inputs, params, strict=True)}
    with builder.function("main", params, attrs=attrs):
        with builder.dataflow():
            for interface, variable in stages:
                result = builder.emit(
                    relax.Call(variable, [here[spec.name] for spec in interface.inputs])
                )
                single = len(interface.outputs) == 1
                for position, spec in enumerate(interface.outputs):
                    item = result if single else builder.emit(result[position])
                    here[spec.name] = item
            kept = {}
            for spec in units.outputs:
                kept[spec.name] = builder.emit_output(here[spec.name])
        results = [kept[spec.name] for spec in units.outputs]
        builder.emit_func_output(relax.Tuple(results) if units.line.returns_tuple else results[0])
    return relax.transform.CanonicalizeBindings()(builder.finalize())
