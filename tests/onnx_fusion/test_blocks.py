"""The published multi-branch blocks, as exporters write them: one convolution is left of each."""

import pytest

C = 4


def repvgg(n):
    branches = (n.conv_bn("x", C, C, 3), n.conv_bn("x", C, C, 1), n.bn("x", C))
    return n.add(*branches)


def repvgg_stride(n):
    return n.add(n.conv_bn("x", C, 6, 3, strides=[2, 2]), n.conv_bn("x", C, 6, 1, strides=[2, 2]))


def acnet(n):
    return n.add(
        n.conv_bn("x", C, C, 3), n.conv_bn("x", C, C, (1, 3)), n.conv_bn("x", C, C, (3, 1))
    )


def acnet_cropped(n):
    """The square kernel does not pad, so its branches read a cropped image."""
    square = n.conv_bn("x", C, C, 3, pads=[0] * 4)
    int64 = [n.constant(v) for v in ([1], [-1], [2])]
    rows = n.conv_bn(n.node("Slice", "x", *int64), C, C, (1, 3), pads=[0] * 4)
    int64 = [n.constant(v) for v in ([1], [2**63 - 1], [3])]
    narrow = n.node("Slice", "x", *int64)
    int64 = [n.constant(v) for v in ([0], [-1], [3])]
    columns = n.conv_bn(n.node("Slice", narrow, *int64), C, C, (3, 1), pads=[0] * 4)
    return n.add(square, rows, columns)


def dbb(n):
    """3x3, 1x1, 1x1 then 3x3, 1x1 then average, where the padding comes first."""
    padded = n.node("Pad", "x", n.constant([0, 0, 1, 1, 0, 0, 1, 1]))
    sequence = n.conv_bn(n.conv_bn(padded, C, C, 1), C, C, 3, pads=[0] * 4)
    pooled = n.node("AveragePool", n.conv_bn(padded, C, C, 1), kernel_shape=[3, 3])
    return n.add(
        n.conv_bn("x", C, C, 3), n.conv_bn("x", C, C, 1), n.bn(sequence, C), n.bn(pooled, C)
    )


def mobileone(n):
    branches = [n.conv_bn("x", C, C, 3, group=C) for _ in range(4)]
    return n.add(*branches, n.conv_bn("x", C, C, 1, group=C), n.bn("x", C))


def repvit(n):
    inner = n.add(n.conv_bn("x", C, C, 3, group=C), n.conv("x", C, C, 1, group=C, bias=True), "x")
    return n.bn(inner, C)


def unirep(n):
    large = n.conv_bn("x", C, C, 7, group=C)
    small = [
        n.conv_bn("x", C, C, k, group=C, dilations=[r, r], pads=[r * (k // 2)] * 4)
        for k, r in ((5, 1), (3, 2), (3, 3))
    ]
    return n.add(large, *small)


def qarepvgg(n):
    return n.bn(n.add(n.conv_bn("x", C, C, 3), n.conv("x", C, C, 1), "x"), C)


def orepa(n):
    """Branches scaled by a number a channel; one batch norm behind."""
    branches = [
        n.node("Mul", n.conv("x", C, C, 3), n.constant(n.numbers(C, 1, 1))) for _ in range(2)
    ]
    return n.bn(n.add(*branches, n.node("Mul", "x", n.constant(n.numbers(1, C, 1, 1)))), C)


def sum_of_many(n):
    return n.node("Sum", n.conv_bn("x", C, C, 3), n.conv_bn("x", C, C, 1), n.bn("x", C), "x")


@pytest.mark.parametrize(
    "block",
    [
        repvgg,
        repvgg_stride,
        acnet,
        acnet_cropped,
        dbb,
        mobileone,
        repvit,
        unirep,
        qarepvgg,
        orepa,
        sum_of_many,
    ],
)
def test_one_convolution_is_left(net, fuse, block):
    n = net()
    outcome = fuse(n.model(n.node("Relu", block(n))))
    assert outcome.counts == {"Conv": 1, "Relu": 1}
    assert len(outcome.model.graph.initializer) == 2
    assert {d.transform for d in outcome.decisions} <= {
        "FuseParallelConvs",
        "FuseBatchNorm",
        "FuseSequentialConvs",
    }


def test_a_chain_of_blocks(net, fuse):
    n = net()
    x = n.node("Relu", repvgg(n))
    y = n.add(n.conv_bn(x, C, C, 3), n.conv_bn(x, C, C, 1), n.bn(x, C))
    outcome = fuse(n.model(n.node("Relu", y)))
    assert [node.op_type for node in outcome.model.graph.node] == ["Conv", "Relu"] * 2


def test_a_residual_stays_a_sum(net, fuse):
    n = net()
    other = n.node("Relu", "x")
    inner = n.add(n.conv_bn("x", C, C, 3), other, n.conv_bn("x", C, C, 1))
    outcome = fuse(n.model(inner))
    assert outcome.counts == {"Relu": 1, "Conv": 1, "Add": 1}


def test_a_subtracted_residual_stays_subtracted(net, fuse):
    n = net()
    other = n.node("Relu", "x")
    inner = n.node("Sub", n.add(n.conv("x", C, C, 3), n.conv("x", C, C, 1)), other)
    outcome = fuse(n.model(inner))
    assert outcome.counts == {"Relu": 1, "Conv": 1, "Sub": 1}


def test_several_residuals(net, fuse):
    n = net()
    one, two = n.node("Relu", "x"), n.node("Tanh", "x")
    inner = n.add(one, n.conv("x", C, C, 3), two, n.conv("x", C, C, 1))
    outcome = fuse(n.model(inner))
    assert outcome.counts == {"Relu": 1, "Tanh": 1, "Conv": 1, "Add": 2}


def test_the_shipped_digits_network(fuse):
    from importlib import resources

    import onnx

    path = resources.files("tvm_iovt.zoo") / "digits.onnx"
    outcome = fuse(onnx.load_from_string(path.read_bytes()))
    assert outcome.counts["Conv"] == 5
    assert not {"BatchNormalization", "Add"} & set(outcome.counts)
