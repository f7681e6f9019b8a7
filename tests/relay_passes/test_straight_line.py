from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from relay_passes.straight_line import straight_line
from tests.relay_passes.fusion_cases import relax_module
from tvm_iovt.errors import ModelError


def test_aliases_and_tuples_are_looked_through() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 4), "float32"), y: R.Tensor((1, 4), "float32")) -> R.Tuple(
            R.Tensor((1, 4), "float32"), R.Tensor((2, 4), "float32")
        ):
            with R.dataflow():
                same = x
                both = (same, y)
                second = both[1]
                a = R.nn.relu(second)
                joined = R.concat(both, axis=0)
                gv = (a, joined)
                R.output(gv)
            return gv

    line = straight_line(Before["main"])
    x, y = line.params
    relu, joined = line.nodes
    assert [relu.reads, joined.reads] == [(y,), (x, y)]
    assert line.outputs == (relu.var, joined.var)
    assert line.returns_tuple
    assert line.readers[y] == (relu, joined)


def test_what_costs_nothing_is_replicated() -> None:
    def body(net, x):
        bias = net.call("reshape", net.const(np.ones(4)), (1, 4))
        doubled = net.add(bias, bias)
        flat = net.call("reshape", x, (9, 4))
        tall = net.call("reshape", flat, (36, 1))
        return [net.add(flat, doubled), net.relu(tall), net.call("reshape", net.relu(x), (4, 9))]

    line = straight_line(relax_module(body, (1, 4, 3, 3))["main"])
    (x,) = line.params
    found = {node.value.op.name + str(node.index): node for node in line.nodes}
    assert [node.replicated for node in line.nodes] == [True] * 4 + [False] * 4
    total = found["relax.add4"]
    assert line.sources(total.reads[0]) == (x,)
    assert line.is_constant(total.reads[1])
    assert line.sources(total.reads[1]) == ()
    assert not line.is_constant(total.reads[0])
    assert not line.is_constant(x)
    assert not line.returns_tuple or len(line.outputs) == 3


def test_a_tuple_of_one_stays_a_tuple() -> None:
    mod = relax_module(lambda net, x: [net.relu(x)], (1, 4))
    line = straight_line(mod["main"])
    assert line.returns_tuple
    assert line.outputs == (line.nodes[0].var,)


def test_what_is_no_sequence_of_operators_on_tensors() -> None:
    @I.ir_module
    class Calls:
        @R.function
        def other(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            return R.nn.relu(x)

        @R.function
        def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            cls = Calls
            y = cls.other(x)
            return y

    with pytest.raises(ModelError, match="not a sequence") as caught:
        straight_line(Calls["main"])
    assert "other" in caught.value.seen

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(relax.op.shape_of(x)))
    with pytest.raises(ModelError, match="not a sequence") as caught:
        straight_line(builder.get()["main"])
    assert "it returns" in caught.value.seen

    builder = relax.BlockBuilder()
    n = tvm.tirx.Var("n", "int64")
    y = relax.Var("y", relax.TensorType((n, 3), "float32"))
    with builder.function("main", [y]):
        builder.emit_func_output(builder.match_cast(y, relax.TensorType((2, 3), "float32")))
    with pytest.raises(ModelError, match="not a sequence") as caught:
        straight_line(builder.get()["main"])
    assert "MatchCast" in caught.value.seen
