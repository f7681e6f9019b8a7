"""The terms of a sum, each as a branch that can be said to read any value on its way."""

from __future__ import annotations

from collections.abc import Iterable

from tvm_iovt.fusion.convolution import Convolution
from tvm_iovt.fusion.linear_graph import (
    SPATIAL,
    Blocked,
    Chain,
    LinearGraph,
    LinearOperator,
    Term,
    Value,
    walk,
)

MERGEABLE = frozenset({"conv2d", "dense"})
"""Kinds that merged branches can be written as."""


class Branch:
    """One term of a sum and the values that it can be said to read."""

    def __init__(self, term: Term, chain: Chain) -> None:
        self.term = term
        self.chain = chain
        self.convolution: Convolution | None = None

    @staticmethod
    def read(graph: LinearGraph, term: Term) -> Branch:
        """The branch that ends in a term of a sum."""
        chain = walk(graph, term.value)
        if graph.uses(term.value) > 1 and chain.operators:
            name = chain.operators[0].name
            blocked = Blocked(reason=f"the output of {name} has another consumer")
            chain = Chain(value=term.value, operators=(), blocked=blocked)
        return Branch(term, chain)

    def sources(self) -> list[Value]:
        """From the term itself backwards."""
        return [self.chain.source(depth) for depth in range(len(self.chain.operators) + 1)]

    def reaches(self, source: Value) -> bool:
        """Whether the branch can be said to read a value."""
        return source in self.sources()

    def operators(self, source: Value) -> tuple[LinearOperator, ...]:
        """From the term back to a value that it reads."""
        return self.chain.operators[: self.sources().index(source)]

    def has_conv(self, source: Value) -> bool:
        """Whether there is a convolution or dense layer on that way."""
        return any(operator.kind in MERGEABLE for operator in self.operators(source))

    @property
    def convolves(self) -> bool:
        """Whether the branch itself is a convolution, for all that can be said."""
        return any(operator.kind in MERGEABLE for operator in self.chain.operators)

    def name(self, source: Value) -> str:
        """The names of its convolutions, or what there is instead."""
        operators = self.operators(source)
        spatial = [o.name for o in reversed(operators) if o.kind in SPATIAL | MERGEABLE]
        return " > ".join(spatial) or (operators[0].name if operators else "identity")


def flatten(graph: LinearGraph, terms: Iterable[Term]) -> list[Term]:
    """The terms of a sum and of the sums that only it reads."""
    flat: list[Term] = []
    for term in terms:
        inner = graph.terms(term.value) if graph.uses(term.value) == 1 else None
        if isinstance(inner, tuple):
            flat += [Term(t.value, t.sign * term.sign) for t in flatten(graph, inner)]
        else:
            flat.append(term)
    return flat
