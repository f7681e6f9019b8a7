"""Walking over TIR expressions, which TVM offers in C++ only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_FIELDS = ("a", "b", "value", "condition", "true_value", "false_value", "body")
_LISTS = ("args", "indices")


def subexpressions(expr: Any) -> Iterator[Any]:
    """Every expression inside a store or expression, itself included, shared ones once."""
    pending, seen = [expr], set()
    while pending:
        node = pending.pop()
        if hash(node) in seen:
            continue
        seen.add(hash(node))
        yield node
        pending += [getattr(node, f) for f in _FIELDS if getattr(node, f, None) is not None]
        for name in _LISTS:
            pending += list(getattr(node, name, None) or ())


def _operator(expr: Any) -> str:
    return str(getattr(getattr(expr, "op", None), "name", "")).rpartition(".")[2]


def is_chosen(expr: Any) -> bool:
    """Whether an expression is `if_then_else`, which evaluates one of its operands."""
    return _operator(expr) == "if_then_else"


def is_likely(expr: Any) -> bool:
    """Whether an expression is a condition that loops are to be cut at."""
    return _operator(expr) == "likely"
