"""Random small networks to cut, and what the tests of partitioning have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from relay_passes import AnnotateCost, read_costs, stage_interfaces, stage_module
from tests.relay_passes.fusion_cases import (
    RelaxNet,
    canonical,
    relax_module,
    run,
    virtual_machine,
)

IMAGE = (1, 4, 6, 6)


def random_network(seed: int, blocks: int = 6) -> tvm.IRModule:
    """Two inputs, several outputs; convolutions, residuals, branches, gates, splits, views."""
    random = np.random.default_rng(seed)

    def body(net: RelaxNet, first: Any, second: Any) -> list[Any]:
        values = [first, second]

        def pick() -> Any:
            # Preferably a late one, so that networks are deep as well as wide.
            return values[max(0, len(values) - 1 - int(random.geometric(0.5)) + 1)]

        def conv(x: Any, groups: int = 1, size: int = 3) -> Any:
            return net.conv(x, 4, 4, size, groups=groups, bias=True)

        for _ in range(blocks):
            kind = random.choice(
                ["conv", "depthwise", "residual", "concat", "gate", "split", "view"]
            )
            x, y = pick(), pick()
            if kind == "conv":
                made = net.relu(conv(x))
            elif kind == "depthwise":
                made = conv(x, groups=4)
            elif kind == "residual":
                made = net.relu(net.add(conv(x), conv(y, size=1)))
            elif kind == "concat":
                both = net.call("concat", [net.relu(x), y], axis=1)
                made = net.conv(both, 8, 4, 1)
            elif kind == "gate":
                gate = net.call("sigmoid", conv(net.call("mean", x, [2, 3], True), size=1))
                made = net.call("multiply", y, gate)
            elif kind == "split":
                halves = net.call("split", x, 2, 1)
                parts = [net.builder.emit(halves[i]) for i in range(2)]
                made = net.call("concat", [net.relu(parts[1]), parts[0]], axis=1)
            else:
                flat = net.call("reshape", x, (4, 36))
                made = net.call("reshape", net.call("nn.softmax", flat, 1), IMAGE)
            values.append(made)
        flat = net.call("reshape", net.call("mean", values[-1], [2, 3]), (1, 4))
        scores = net.call("matmul", flat, net.const(net.weight(3, 4).T))
        return [scores, values[-2], net.relu(values[2])]

    return canonical(relax_module(body, IMAGE, IMAGE, seed=seed))


def annotated(mod: tvm.IRModule) -> tuple[tvm.IRModule, list[str]]:
    """The module with costs, and the names of its units."""
    mod = AnnotateCost()(mod)
    return mod, [unit.name for unit in read_costs(mod).units]


def run_stages(mod: tvm.IRModule, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All tensors by name, after each stage of a partitioned module ran on its own."""
    values = dict(inputs)
    for interface in stage_interfaces(mod):
        part = stage_module(mod, interface.index)
        relax.analysis.well_formed(part.module)
        assert part.interface == interface
        made = run(part.module, *(values[spec.name] for spec in interface.inputs))
        assert [(a.shape, str(a.dtype)) for a in made] == [
            (spec.shape, spec.dtype) for spec in interface.outputs
        ]
        values |= {spec.name: a for spec, a in zip(interface.outputs, made, strict=True)}
    return values


def assert_identical(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def side_by_side(modules: list[tvm.IRModule]) -> tvm.IRModule:
    """The functions of all modules in one, `main` as `main_0` and so on: kernels are built once."""
    builder = relax.BlockBuilder()
    for index, mod in enumerate(modules):
        names: dict[Any, Any] = {}
        functions = sorted(mod.functions.items(), key=lambda item: item[0].name_hint == "main")
        for var, function in functions:
            copy = relax.utils.copy_with_new_vars(function)
            name = f"{var.name_hint}_{index}"
            renamed = _Renaming(names).visit_expr(copy).with_attr("global_symbol", name)
            names[var] = builder.add_func(renamed, name)
    return builder.finalize()


@mutator
class _Renaming(PyExprMutator):
    def __init__(self, names: dict[Any, Any]) -> None:
        super().__init__()
        self._names = names

    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        if call.op not in self._names:
            return call
        return relax.Call(self._names[call.op], call.args, call.attrs, call.ty_args)


def run_each(modules: list[tvm.IRModule], *arrays: np.ndarray) -> list[list[np.ndarray]]:
    """What `main` of each module returns."""
    machine = virtual_machine(side_by_side(modules))
    results = []
    for index in range(len(modules)):
        result = machine[f"main_{index}"](*[tvm.runtime.tensor(a) for a in arrays])
        tensors = [result] if hasattr(result, "numpy") else result
        results.append([tensor.numpy() for tensor in tensors])
    return results
