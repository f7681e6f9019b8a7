from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tvm import relax

from relay_passes.straight_line import straight_line
from relay_passes.unit_grouping import group_units, op_name_of
from tests.relay_passes.fusion_cases import canonical, relax_module
from tests.relay_passes.partition_cases import random_network

IMAGE = (1, 4, 6, 6)


def groups(body, *shapes) -> list[list[str]]:
    """The operators of each unit."""
    mod = canonical(relax_module(body, *(shapes or (IMAGE,))))
    found = group_units(straight_line(mod["main"]))
    return [
        [op_name_of(node).removeprefix("nn.") or "item" for node in group.nodes] for group in found
    ]


def conv(net: Any, x: Any) -> Any:
    return net.conv(x, 4, 4)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (lambda n, x: n.relu(n.conv(x, 4, 4, bias=True)), [["conv2d", "add", "relu"]]),
        # Two readers that meet again.
        (
            lambda n, x: (lambda c: n.call("multiply", c, n.call("sigmoid", c)))(conv(n, x)),
            [["conv2d", "sigmoid", "multiply"]],
        ),
        # Two readers that do not.
        (
            lambda n, x: (lambda c: [n.relu(c), n.call("sigmoid", c)])(conv(n, x)),
            [["conv2d"], ["relu"], ["sigmoid"]],
        ),
        # A result of the network is there for others.
        (lambda n, x: (lambda c: [c, n.relu(c)])(conv(n, x)), [["conv2d"], ["relu"]]),
        # A residual of an earlier tensor.
        (lambda n, x: n.relu(n.add(conv(n, x), x)), [["conv2d", "add", "relu"]]),
        # The later one of two takes the sum, whichever operand it is.
        (lambda n, x: n.add(conv(n, x), conv(n, x)), [["conv2d"], ["conv2d", "add"]]),
        (
            lambda n, x: (lambda a, b: n.add(b, n.relu(a)))(conv(n, x), conv(n, x)),
            [["conv2d", "relu"], ["conv2d", "add"]],
        ),
        # A gate is multiplied with a larger tensor where it is computed; an average is not.
        (
            lambda n, x: n.call(
                "multiply", x, n.call("sigmoid", conv(n, n.call("mean", x, [2, 3], True)))
            ),
            [["mean"], ["conv2d", "sigmoid", "multiply"]],
        ),
        (
            lambda n, x: n.call("multiply", x, n.call("mean", x, [2, 3], True)),
            [["mean"], ["multiply"]],
        ),
        # Before an operator that sums products nothing is computed, before a copy or a sum it is.
        (lambda n, x: conv(n, n.relu(x)), [["relu"], ["conv2d"]]),
        (lambda n, x: n.call("mean", n.relu(x), [2, 3]), [["relu", "mean"]]),
        (lambda n, x: n.call("concat", [n.relu(x), x], axis=1), [["relu", "concat"]]),
        (lambda n, x: n.relu(n.call("exp", n.relu(x))), [["relu", "exp", "relu"]]),
        # The tensors of a tuple stay with it.
        (
            lambda n, x: (lambda s: n.call("concat", [s[1], s[0]], axis=1))(
                n.call("split", x, 2, 1)
            ),
            [["split", "item", "item"], ["concat"]],
        ),
        (lambda n, x: n.relu(n.conv_bn(x, 4, 4)), [["conv2d", "batch_norm", "item", "relu"]]),
        # Views.
        (
            lambda n, x: n.call("nn.softmax", n.call("reshape", conv(n, x), (4, 36))),
            [["conv2d", "reshape"], ["softmax"]],
        ),
        (
            lambda n, x: (
                lambda c: [conv(n, c), n.call("nn.softmax", n.call("reshape", c, (4, 36)))]
            )(conv(n, x)),
            [["conv2d"], ["conv2d"], ["reshape", "softmax"]],
        ),
        (
            lambda n, x: n.call("reshape", n.call("mean", x, [2, 3], True), (1, 4)),
            [["mean", "reshape"]],
        ),
        (
            lambda n, x: n.call("permute_dims", n.call("mean", x, [2, 3], True), [0, 2, 3, 1]),
            [["mean", "permute_dims"]],
        ),
        (lambda n, x: n.call("nn.softmax", n.call("reshape", x, (4, 36))), [["softmax"]]),
        # Constant subexpressions belong to nobody.
        (
            lambda n, x: n.add(conv(n, x), n.call("reshape", n.const(np.ones(4)), (1, 4, 1, 1))),
            [["conv2d", "add"]],
        ),
    ],
)  # fmt: skip
def test_units(body, expected: list[list[str]]) -> None:
    assert groups(body) == expected


def test_a_cut_lies_at_the_integers() -> None:
    scale, zero = relax.const(np.float32(0.1)), relax.const(np.int8(0))

    def quantize(net, x):
        return net.call("quantize", x, scale, zero, 1, "int8")

    def dequantize(net, x):
        return net.call("dequantize", x, scale, zero, 1, "float32")

    def body(net, x):
        q = quantize(net, x)
        c = quantize(net, net.relu(conv(net, dequantize(net, q))))
        d = quantize(net, conv(net, dequantize(net, c)))
        total = quantize(net, net.add(dequantize(net, d), dequantize(net, q)))
        return dequantize(net, total)

    assert groups(body) == [
        ["quantize"],
        ["dequantize", "conv2d", "relu", "quantize"],
        ["dequantize", "conv2d", "quantize", "dequantize", "dequantize", "add", "quantize"],
        ["dequantize"],
    ]


def test_the_anchor_of_elementwise_operators_is_no_conversion() -> None:
    def body(net, x):
        return net.relu(net.call("astype", x, "float16"))

    (group,) = group_units(straight_line(relax_module(body, IMAGE)["main"]))
    assert op_name_of(group.anchor) == "nn.relu"


@pytest.mark.parametrize("seed", range(20))
def test_groups_are_a_topologically_ordered_partition(seed: int) -> None:
    line = straight_line(random_network(seed, blocks=12)["main"])
    found = group_units(line)
    owner = {node.var: index for index, group in enumerate(found) for node in group.nodes}
    assert sum(len(group.nodes) for group in found) == len(owner)
    assert set(owner) == {node.var for node in line.nodes if not node.replicated}
    for node in line.nodes:
        for read in node.reads:
            for source in line.sources(read):
                if node.var in owner and source in owner:
                    assert owner[source] <= owner[node.var]
    for group in found:
        assert group.anchor in group.nodes
