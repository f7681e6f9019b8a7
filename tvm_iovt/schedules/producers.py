"""Who makes a tensor, and for whom."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from tvm_iovt.schedules.layout_rules import BROADCAST, UNARY
from tvm_iovt.schedules.tensors import is_constant, op_name
from tvm_iovt.schedules.tvm_api import relax


class Producers:
    """The definitions and the uses of the variables of a function."""

    def __init__(self, function: Any) -> None:
        self._values: dict[Any, Any] = {}
        self._users: defaultdict[Any, list[Any]] = defaultdict(list)
        for block in function.body.blocks:
            for binding in block.bindings:
                self._values[binding.var] = binding.value
                for var in relax.analysis.all_vars(binding.value):
                    self._users[var].append(binding.var)
        for var in relax.analysis.all_vars(function.body.body):
            self._users[var].append(None)

    def made_for_one_consumer(self, var: Any) -> bool:
        """Whether a convolution, with element-wise operators after it, makes `var` for one use.

        Then that convolution can write `var` as its consumer likes. What is between the two must
        have no other use: then one kernel computes it all.
        """
        if len(self._users.get(var, ())) != 1:
            return False
        region = self._elementwise_before(var)
        leaving = {var}
        while leaving:
            kept = {v for v in region if v is var or all(user in region for user in self._users[v])}
            leaving, region = region - kept, kept
        return any(
            self._is_convolution(arg)
            and arg is not var
            and all(user in region for user in self._users[arg])
            for v in region
            for arg in self._values[v].args
        )

    def _elementwise_before(self, var: Any) -> set[Any]:
        """`var` and what leads to it through element-wise operators alone."""
        region: set[Any] = set()
        waiting = [var]
        while waiting:
            v = waiting.pop()
            value: Any = self._values.get(v)
            if v not in region and op_name(value) in UNARY | BROADCAST:
                region.add(v)
                waiting += [arg for arg in value.args if isinstance(arg, relax.Var)]
        return region

    def _is_convolution(self, expr: Any) -> bool:
        value: Any = self._values.get(expr) if isinstance(expr, relax.Var) else None
        return op_name(value) == "relax.nn.conv2d" and is_constant(value.args[1])
