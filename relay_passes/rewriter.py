"""What the pattern-free rewriting passes share: bindings, uses, decisions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator

from tvm_iovt.types import Decision

OnDecision = Callable[[Decision], None]


class Rewriter(PyExprMutator):  # type: ignore[misc]  # tvm is untyped
    """Visits the calls of a module's Relax functions; subclasses decorate with `mutator`.

    Args:
        mod: The module to rewrite.
        transform: Name of the pass, for its decisions.
        on_decision: Called with every rewrite made or refused.
    """

    def __init__(self, mod: Any, transform: str, on_decision: OnDecision | None) -> None:
        super().__init__(mod)
        self.mod = mod
        self._transform = transform
        self._on_decision = on_decision
        self._uses: dict[Any, int] = {}
        self._unvisited: dict[Any, Any] = {}

    def rewrite_module(self) -> Any:
        """The module with every Relax function rewritten and dead code removed."""
        for global_var, function in self.mod.functions.items():
            if isinstance(function, relax.Function):
                self.enter(function)
                self.builder_.update_func(global_var, self.visit_expr(function))
        return relax.transform.DeadCodeElimination()(self.builder_.get())

    def enter(self, function: Any) -> None:
        """Look at a function before its bindings are visited."""
        self._uses = _count_uses(function)
        self._unvisited = {
            binding.var: binding.value
            for block in getattr(function.body, "blocks", ())
            for binding in block.bindings
            if isinstance(binding, relax.VarBinding)
        }

    def bound(self, value: Any) -> Any:
        """What a variable is bound to; any other expression is itself.

        None for a parameter of the function. Variables that are still to be visited are bound to
        what they were.
        """
        if not isinstance(value, relax.Var):
            return value
        found = self.lookup_binding(value)
        return self._unvisited.get(value) if found is None else found

    def bound_once(self, value: Any) -> Any:
        """What a variable is bound to if only one expression reads it, else None.

        Rewriting an operator that others read too would compute it twice.
        """
        return None if self.uses(value) > 1 else self.bound(value)

    def uses(self, value: Any) -> int:
        """How many expressions read a variable; being the function's result counts as one."""
        return self._uses.get(value, 1) if isinstance(value, relax.Var) else 1

    def constant_uses(self, constant: Any) -> int:
        """How many expressions read a constant."""
        return self._uses.get(constant, 1)

    def decide(self, subject: str, *, applied: bool, reason: str) -> None:
        """Report a rewrite made or refused."""
        if self._on_decision is not None:
            self._on_decision(
                Decision(transform=self._transform, subject=subject, applied=applied, reason=reason)
            )


def is_call(expr: Any, op: str) -> bool:
    """Whether an expression calls the Relax operator of that name, e.g. `relax.add`."""
    return isinstance(expr, relax.Call) and expr.op == tvm.ir.Op.get(op)


def _count_uses(function: Any) -> dict[Any, int]:
    uses: dict[Any, int] = {}

    def count(value: Any) -> None:
        if isinstance(value, (relax.Var, tvm.ir.GenericConst)):
            uses[value] = uses.get(value, 0) + 1

    def visit(expr: Any) -> None:
        if isinstance(expr, relax.TupleGetItem):
            count(expr.tuple_value)
        elif isinstance(expr, relax.SeqExpr):
            count(expr.body)
        else:
            for argument in expr.args if isinstance(expr, relax.Call) else _fields(expr):
                count(argument)

    relax.analysis.post_order_visit(function, visit)
    return uses


def _fields(expr: Any) -> Any:
    return expr.fields if isinstance(expr, relax.Tuple) else ()
