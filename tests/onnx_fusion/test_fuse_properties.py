"""Random blocks: the outputs stay, and a second fusion finds nothing (both in `fuse`)."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tvm_iovt.roofline import assumed_ceilings
from tvm_iovt.targets import load

SETTINGS = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

TIME = assumed_ceilings(load("host")).time_s

kernels = st.tuples(st.integers(1, 4), st.integers(1, 4))


@SETTINGS
@given(data=st.data())
def test_parallel_branches(net, fuse, data):
    n = net(data.draw(st.integers(0, 999)))
    stride = data.draw(st.integers(1, 3))
    channels = data.draw(st.sampled_from([(4, 4), (4, 8), (8, 4)]))
    height, width = data.draw(st.integers(7, 11)), data.draw(st.integers(7, 11))
    top, left = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))
    out_h, out_w = (height - 3) // stride + 1, (width - 3) // stride + 1
    branches = []
    for _ in range(data.draw(st.integers(2, 4))):
        kh, kw = data.draw(kernels)
        dilation = data.draw(st.integers(1, 2))
        begin = (min(top, kh - 1), min(left, kw - 1))
        # Whatever gives the common size; sometimes the last padding is not even read.
        end = [
            (out - 1) * stride + (k - 1) * dilation + 1 - size - b
            for out, k, size, b in zip(
                (out_h, out_w), (kh, kw), (height, width), begin, strict=True
            )
        ]
        if min(end) < 0:
            begin, end = (
                (0, 0),
                [
                    max((out - 1) * stride + (k - 1) * dilation + 1 - size, 0)
                    for out, k, size in zip((out_h, out_w), (kh, kw), (height, width), strict=True)
                ],
            )
        sizes = [
            (size + b + e - ((k - 1) * dilation + 1)) // stride + 1
            for size, b, e, k in zip((height, width), begin, end, (kh, kw), strict=True)
        ]
        if sizes != [out_h, out_w]:
            continue
        y = n.conv(
            "x",
            *channels,
            (kh, kw),
            group=data.draw(st.sampled_from([1, 2, 4])),
            bias=data.draw(st.booleans()),
            pads=[*begin, *end],
            strides=[stride, stride],
            dilations=[dilation, dilation],
        )
        branches.append(n.bn(y, channels[1]) if data.draw(st.booleans()) else y)
    if not branches:
        return
    outcome = fuse(n.model(n.node("Relu", n.add(*branches)), (1, channels[0], height, width)))
    if stride == 1:
        assert outcome.counts == {"Conv": 1, "Relu": 1}


@SETTINGS
@given(data=st.data())
def test_chains(net, fuse, data):
    """Whatever stands one after another, with and without static sizes."""
    n = net(data.draw(st.integers(0, 999)))
    channels, value = 4, "x"
    for _ in range(data.draw(st.integers(1, 5))):
        op = data.draw(st.sampled_from(["conv", "bn", "mul", "add", "pool", "pad", "relu", "neg"]))
        if op == "conv":
            outputs = data.draw(st.sampled_from([4, 8]))
            value = n.conv(
                value,
                channels,
                outputs,
                data.draw(st.integers(1, 3)),
                group=data.draw(st.sampled_from([1, 2])),
                bias=data.draw(st.booleans()),
                pads=data.draw(st.sampled_from([[0] * 4, [1] * 4, [2, 1, 2, 1]])),
            )
            channels = outputs
        elif op == "bn":
            value = n.bn(value, channels)
        elif op in ("mul", "add"):
            constant = n.numbers(
                *data.draw(st.sampled_from([(channels, 1, 1), (1, 1, 1, 1), (1,), ()]))
            )
            operands = [value, n.constant(constant)]
            if data.draw(st.booleans()):
                operands.reverse()
            value = n.node(op.capitalize(), *operands)
        elif op == "pool":
            value = n.node(
                "AveragePool", value, kernel_shape=[2, 2], pads=[1] * 4, count_include_pad=1
            )
        elif op == "pad":
            value = n.node("Pad", value, n.constant([0, 0, 1, 0, 0, 0, 1, 2]))
        else:
            value = n.node(op.capitalize(), value)
    shape = (2, 4, 13, 12)
    dynamic = data.draw(st.booleans())
    model = n.model(n.node("Relu", value), ["N", 4, "H", "W"] if dynamic else shape)
    fuse(model, data.draw(st.sampled_from([None, TIME])), shape=shape)
