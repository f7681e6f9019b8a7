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

    def rewrite_module(self) -> Any:
        """The module with every Relax function rewritten and dead code removed."""
        for global_var, function in self.mod.functions.items():
            if isinstance(function, relax.Function):
                self._uses = _count_uses(function)
                self.builder_.update_func(global_var, self.visit_expr(function))
        return relax.transform.DeadCodeElimination()(self.builder_.get())

    def bound(self, value: Any) -> Any:
        """What a variable is bound to; any other expression is itself."""
        return self.lookup_binding(value) if isinstance(value, relax.Var) else value

    def bound_once(self, value: Any) -> Any:
        """What a variable is bound to if only one expression reads it, else None.

        Rewriting an operator that others read too would compute it twice.
        """
        if isinstance(value, relax.Var) and self._uses.get(value, 0) > 1:
            return None
        return self.bound(value)

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

    def visit(expr: Any) -> None:
        arguments = expr.args if isinstance(expr, relax.Call) else getattr(expr, "fields", ())
        for argument in arguments:
            if isinstance(argument, relax.Var):
                uses[argument] = uses.get(argument, 0) + 1

    relax.analysis.post_order_visit(function, visit)
    return uses
