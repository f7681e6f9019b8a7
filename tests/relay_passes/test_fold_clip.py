from __future__ import annotations

import math

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from relay_passes import FoldClip
from tests.relay_passes.fusion_cases import virtual_machine
from tvm_iovt.types import Decision

X = np.linspace(-9, 9, 37).astype(np.float32)


def operators(mod: tvm.IRModule) -> list[str]:
    found: list[str] = []
    relax.analysis.post_order_visit(
        mod["main"],
        lambda expr: found.append(expr.op.name) if isinstance(expr, relax.Call) else None,
    )
    return found


def run(mod: tvm.IRModule, *arrays: np.ndarray) -> np.ndarray:
    machine = virtual_machine(mod)
    return machine["main"](*[tvm.runtime.tensor(a) for a in arrays]).numpy()


def canonical(mod: tvm.IRModule) -> tvm.IRModule:
    sequence = [relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination()]
    return tvm.transform.Sequential(sequence)(mod)


def chain(*bounds: tuple[float, float]) -> tvm.IRModule:
    """Clamps one after another; an infinite bound is left out."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([X.size], "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            value = x
            for low, high in bounds:
                if (low, high) == (0, math.inf):
                    value = builder.emit(relax.op.nn.relu(value))
                elif math.isinf(high):
                    value = builder.emit(relax.op.maximum(value, relax.const(low, "float32")))
                elif math.isinf(low):
                    value = builder.emit(relax.op.minimum(value, relax.const(high, "float32")))
                else:
                    ends = (tvm.tirx.const(end, "float32") for end in (low, high))
                    value = builder.emit(relax.op.clip(value, *ends))
            result = builder.emit_output(value)
        builder.emit_func_output(result)
    return builder.get()


def test_relu_clip_relu_becomes_one_clip() -> None:
    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((37,), "float32")) -> R.Tensor((37,), "float32"):
            with R.dataflow():
                gv = R.clip(x, T.float32(0), T.float32(6))
                R.output(gv)
            return gv

    before = chain((0, math.inf), (0, 6), (0, math.inf))
    after = FoldClip()(before)
    tvm.ir.assert_structural_equal(canonical(after), canonical(Expected))
    np.testing.assert_array_equal(run(after, X), run(before, X))


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (((0, math.inf), (0, math.inf)), ["relax.nn.relu"]),
        (((-2, math.inf), (-math.inf, 3)), ["relax.clip"]),
        (((-math.inf, 3), (-math.inf, 5)), ["relax.minimum"]),
        (((0, 6), (-1, 7)), ["relax.clip"]),
        (((0, 1), (4, 5)), ["relax.clip"]),  # disjoint: everything becomes 4
        (((0, 6),), ["relax.clip"]),
    ],
)
def test_operators_and_numerics(bounds, expected) -> None:
    before = chain(*bounds)
    after = FoldClip()(before)
    assert operators(after) == expected
    np.testing.assert_array_equal(run(after, X), run(before, X))


ENDS = st.sampled_from([-math.inf, -4.0, -1.5, 0.0, 2.0, 5.5, math.inf])


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(ENDS, ENDS).filter(lambda b: b[0] <= b[1]), min_size=2, max_size=4))
def test_any_chain_keeps_its_values(bounds) -> None:
    bounds = [b for b in bounds if not (math.isinf(b[0]) and math.isinf(b[1]))]
    if not bounds:
        return
    expected = X
    for low, high in bounds:
        expected = np.minimum(np.maximum(expected, np.float32(low)), np.float32(high))
    after = FoldClip()(chain(*bounds))
    assert len(operators(after)) == 1
    np.testing.assert_array_equal(run(after, X), expected)


def test_inner_clip_with_another_consumer_is_refused() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((37,), "float32")) -> R.Tensor((37,), "float32"):
            with R.dataflow():
                a = R.nn.relu(x)
                b = R.clip(a, T.float32(0), T.float32(6))
                gv = R.add(a, b)
                R.output(gv)
            return gv

    decisions: list[Decision] = []
    after = FoldClip(decisions.append)(Before)
    tvm.ir.assert_structural_equal(canonical(after), canonical(Before))
    assert [(d.applied, d.reason) for d in decisions] == [
        (False, "the inner clip has another consumer")
    ]


def test_bounds_in_the_wrong_order_are_refused() -> None:
    decisions: list[Decision] = []
    before = chain((0, math.inf), (5, 1))
    after = FoldClip(decisions.append)(before)
    tvm.ir.assert_structural_equal(canonical(after), canonical(before))
    assert [d.applied for d in decisions] == [False]


def test_idempotent() -> None:
    once = FoldClip()(chain((0, math.inf), (0, 6), (1, 3)))
    tvm.ir.assert_structural_equal(FoldClip()(once), once)
