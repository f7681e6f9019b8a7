"""The rewriter behind the fusion passes: asks a rule at every operator and writes what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tvm import relax
from tvm.relax.expr_functor import mutator

from relay_passes.relax_graph import LAYOUTS, RelaxGraph
from relay_passes.rewriter import OnDecision, Rewriter, is_call
from relay_passes.write_fusion import write_fusion
from tvm_iovt.fusion.convolution import InexactError
from tvm_iovt.fusion.linear_graph import LinearGraph
from tvm_iovt.fusion.rules import Fusion, OperatorTime, Outcome, Refusal

Found = Outcome | Iterable[Fusion | Refusal]
Rule = Callable[[LinearGraph, Any, OperatorTime | None], Found]


def fuse(
    mod: Any,
    transform: str,
    rule: Rule,
    time: OperatorTime | None,
    on_decision: OnDecision | None,
) -> Any:
    """Apply a rule at every operator of the Relax functions of a module.

    Args:
        mod: The module; it is returned as it is when the rule fuses nothing.
        transform: Name of the pass, for its decisions.
        rule: Called with the graph, each value in the order of execution, and `time`.
        time: Estimates an operator's seconds from its FLOPs and bytes.
        on_decision: Called with every fusion made or refused.
    """
    for layout in _layouts(mod):
        rewriter = _FusionRewriter(mod, transform, on_decision, layout, rule, time)
        fused = rewriter.rewrite_module()
        mod = fused if rewriter.fused else mod
    return mod


@mutator
class _FusionRewriter(Rewriter):
    def __init__(
        self,
        mod: Any,
        transform: str,
        on_decision: OnDecision | None,
        layout: str,
        rule: Rule,
        time: OperatorTime | None,
    ) -> None:
        super().__init__(mod, transform, on_decision)
        self._graph = RelaxGraph(layout, self.bound, self.uses, self.constant_uses)
        self._rule = rule
        self._time = time
        self._variable: Any = None
        self.fused = 0

    def enter(self, function: Any) -> None:
        super().enter(function)
        self._graph.enter(function)

    def visit_var_binding_(self, binding: Any) -> None:
        self._variable = binding.var
        super().visit_var_binding_(binding)

    def visit_call_(self, call: Any) -> Any:
        return self._ask(super().visit_call_(call))

    def visit_tuple_getitem_(self, item: Any) -> Any:
        return self._ask(super().visit_tuple_getitem_(item))

    def _ask(self, expr: Any) -> Any:
        expr = self.builder_.normalize(expr)
        self._graph.visit(expr, self._variable)
        outcome = self._rule(self._graph, expr, self._time)
        found = (outcome,) if isinstance(outcome, (Fusion, Refusal)) else outcome or ()
        for one in found:
            if isinstance(one, Refusal):
                self.decide(one.subject, applied=False, reason=one.reason)
                continue
            try:
                expr = write_fusion(self._graph, one, self._emit_as(one.carrier.name))
            except InexactError as error:
                self.decide(one.subject, applied=False, reason=str(error))
                continue
            self.fused += 1
            self.decide(one.subject, applied=True, reason=one.reason)
        return expr

    def _emit_as(self, name: str) -> Callable[[Any], Any]:
        """Binds expressions under an operator's name as it is, so that later messages have it."""

        def emit(expr: Any) -> Any:
            value = self.builder_.normalize(expr)
            inside = self.builder_.current_block_is_dataflow()
            variable = (relax.DataflowVar if inside else relax.Var)(name, value.ty)
            self.builder_.emit_normalized(relax.VarBinding(variable, value))
            return variable

        return emit


def _layouts(mod: Any) -> tuple[str, ...]:
    """The image layouts of a module's convolutions."""
    found: set[str] = set()

    def visit(expr: Any) -> None:
        if is_call(expr, "relax.nn.conv2d"):
            found.add(str(expr.attrs.data_layout))

    for function in mod.functions.values():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, visit)
    return tuple(layout for layout in LAYOUTS if layout in found) or LAYOUTS[:1]
