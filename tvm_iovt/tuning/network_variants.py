"""One network several times in one module, each time with other schedules of its kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm_iovt._tvm import relax, tirx, tvm
from tvm_iovt.schedules.tvm_api import PyExprMutator, mutator

Variant = Mapping[str, Any]
"""From the name of a function of the network to its scheduled PrimFunc."""


def entry(index: int) -> str:
    """Name of the function of the `index`-th variant."""
    return f"main{index}"


def kernel_of(symbol: str) -> str:
    """The network's function behind a kernel of `with_variants`."""
    return symbol.partition(_SEPARATOR)[0]


def with_variants(network: Any, variants: Sequence[Variant]) -> Any:
    """A module with functions `main0`, `main1`, ... that compute the same.

    Args:
        network: Module whose `main` calls scheduled PrimFuncs.
        variants: What to replace in each; what a variant does not name stays.

    Returns:
        A module. Kernels that several variants share are in it once.
    """
    builder = relax.BlockBuilder()
    functions = {
        str(var.name_hint): function
        for var, function in network.functions.items()
        if isinstance(function, tirx.PrimFunc)
    }
    shared = {name: builder.add_func(function, name) for name, function in functions.items()}
    made: dict[tuple[str, int], Any] = {}
    for index, variant in enumerate(variants):
        callees = dict(shared)
        for name, function in variant.items():
            same = (name, hash(function))
            if same not in made:
                symbol = f"{name}{_SEPARATOR}{len(made)}"
                made[same] = builder.add_func(_named(function, symbol), symbol)
            callees[name] = made[same]
        main = _WithCallees(callees).visit_expr(relax.utils.copy_with_new_vars(network["main"]))
        main = main.with_attr("global_symbol", entry(index))
        builder.add_func(main, entry(index))
    module = builder.get()
    return tvm.IRModule(module.functions, attrs=network.attrs, global_infos=network.global_infos)


_SEPARATOR = "__tuned"


def _named(function: Any, symbol: str) -> Any:
    return function.with_attr("global_symbol", symbol)


@mutator
class _WithCallees(PyExprMutator):  # type: ignore[misc]
    """Replaces the kernels that `call_tir` names."""

    def __init__(self, callees: Mapping[str, Any]) -> None:
        super().__init__()
        self._callees = callees
        self._call_tir = tvm.ir.Op.get("relax.call_tir")

    def visit_call_(self, call: Any) -> Any:
        """A call of the same arguments to another kernel."""
        if call.op != self._call_tir:
            return super().visit_call_(call)
        callee = self._callees[str(call.args[0].name_hint)]
        return relax.Call(call.op, [callee, *call.args[1:]], call.attrs, call.ty_args, call.span)
