"""Variables of the imported module named after the model's nodes, so that messages can name them.

The importer numbers its variables. It converts the nodes in the order of the graph, each to its own
operators, so the calls of an operator that comes from one kind of node only stand in the order of
those nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tvm_iovt import _tvm

if TYPE_CHECKING:
    import onnx

# The Relax operator that a kind of node alone becomes.
_RELAX_OPERATORS = {
    "Conv": "relax.nn.conv2d",
    "ConvTranspose": "relax.nn.conv2d_transpose",
    "BatchNormalization": "relax.nn.batch_norm",
    "AveragePool": "relax.nn.avg_pool2d",
    "MaxPool": "relax.nn.max_pool2d",
}


def name_operators(module: Any, model: onnx.ModelProto) -> Any:
    """The module with the variables of convolutions, batch norms and pools named after their nodes.

    Kinds whose calls are not as many as the nodes keep the importer's names.
    """
    names: dict[Any, str] = {}
    bindings = list(_bindings(module["main"]))
    for kind, operator in _RELAX_OPERATORS.items():
        nodes = [node for node in model.graph.node if node.op_type == kind]
        made = [var for var, value in bindings if _calls(value, operator)]
        if len(nodes) == len(made):
            names |= dict(zip(made, _labels(nodes), strict=True))
    # A batch norm gives a tuple; the tensor that is read from it is what has the name.
    for var, value in bindings:
        if isinstance(value, _tvm.relax.TupleGetItem) and int(value.index) == 0:
            tuple_name = names.get(value.tuple_value)
            if tuple_name is not None:
                names[var] = tuple_name
    return _renamed(module, names)


def _bindings(function: Any) -> Iterator[tuple[Any, Any]]:
    for block in function.body.blocks:
        for binding in block.bindings:
            yield binding.var, binding.value


def _calls(value: Any, operator: str) -> bool:
    return isinstance(value, _tvm.relax.Call) and value.op == _tvm.tvm.ir.Op.get(operator)


def _labels(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    """Short names that tell the nodes apart."""
    short = [_label(node) for node in nodes]
    return [
        label if short.count(label) == 1 else node.name or node.output[0]
        for label, node in zip(short, nodes, strict=True)
    ]


def _label(node: onnx.NodeProto) -> str:
    """`/stages/stages.0/conv/Conv` as `stages.0.conv`."""
    parts: list[str] = []
    for part in filter(None, (node.name or node.output[0]).split("/")):
        # torch repeats the path so far in each scope's name.
        if parts and part.startswith(parts[-1] + "."):
            parts.pop()
        parts.append(part)
    if len(parts) > 1 and parts[-1].split("_")[0] == node.op_type:
        parts.pop()
    return ".".join(parts) or node.output[0]


def _renamed(module: Any, names: dict[Any, str]) -> Any:
    from tvm.relax.expr_functor import PyExprMutator, mutator

    relax = _tvm.relax

    @mutator
    class Renamer(PyExprMutator):  # type: ignore[misc]  # tvm is untyped
        def visit_dataflow_var_def_(self, var: Any) -> Any:
            if var not in names:
                return super().visit_dataflow_var_def_(var)
            renamed = relax.DataflowVar(names[var], var.ty)
            self.set_var_remap(var, renamed)
            return renamed

    (main,) = (v for v in module.functions if v.name_hint == "main")
    renamer = Renamer(module)
    renamer.builder_.update_func(main, renamer.visit_expr(module["main"]))
    return renamer.builder_.get()
