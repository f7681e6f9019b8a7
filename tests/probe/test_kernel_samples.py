from __future__ import annotations

import pytest

from tvm_iovt.cost_graph import Unit
from tvm_iovt.probe.kernel_samples import samples_of
from tvm_iovt.stages.kernel_clock import TimedKernel


def unit(index: int, kind: str, channels: int) -> Unit:
    return Unit(
        index=index,
        name=f"{kind}{index}",
        operators=(),
        kind=kind,
        flops=1,
        bytes_in=1,
        bytes_out=1,
        bytes_weights=0,
        shape_in=(1, 8, 4, 4),
        shape_out=(1, channels, 4, 4),
    )


def units(*pairs: tuple[str, int]) -> list[Unit]:
    return [unit(i, kind, channels) for i, (kind, channels) in enumerate(pairs)]


def found(chain: list[Unit], *kernels: tuple[str, int, float]) -> dict[str, float]:
    timed = [TimedKernel(name=n, shape=(c,), seconds=s) for n, c, s in kernels]
    return {sample.unit.name: sample.seconds for sample in samples_of(chain, timed)}


def test_kernels_are_the_units_in_order() -> None:
    chain = units(("conv", 8), ("depthwise", 8), ("pointwise", 8), ("pool", 8), ("matmul", 10))
    assert found(
        chain,
        ("fused_conv2d_winograd_add_relu", 8, 1.0),
        ("fused_depthwise_conv2d_add_relu", 8, 2.0),
        ("fused_conv2d1_add1_relu1", 8, 3.0),
        ("max_pool2d", 8, 4.0),
        ("fused_matmul_add2", 10, 5.0),
    ) == {"conv0": 1.0, "depthwise1": 2.0, "pointwise2": 3.0, "pool3": 4.0, "matmul4": 5.0}


def test_a_border_counts_for_the_next_unit_and_a_reshape_for_the_last_one() -> None:
    chain = units(("transposed", 4), ("conv", 8))
    assert found(
        chain,
        ("conv2d12", 4, 1.0),
        ("fused_reshape_transpose2_reshape1_relu", 4, 0.5),
        ("pad_nhwc", 4, 0.25),
        ("fused_conv2d13", 8, 2.0),
        ("transpose3", 4, 9.0),
    ) == {"transposed0": 1.5, "conv1": 2.25}


def test_units_inside_of_other_kernels_give_no_sample() -> None:
    chain = units(
        ("reduce", 8), ("pointwise", 2), ("pointwise", 8), ("elementwise", 8), ("pointwise", 4),
        ("move", 8), ("move", 16),
    )  # fmt: skip
    assert found(
        chain,
        ("mean", 8, 1.0),
        ("fused_conv2d_add_relu", 2, 2.0),
        ("fused_conv2d1_add_sigmoid_multiply3", 8, 3.0),
        ("fused_conv2d2_add", 4, 4.0),
        ("fused_resize2d_concatenate", 16, 5.0),
    ) == {"reduce0": 1.0, "pointwise1": 2.0, "elementwise3": 3.0, "pointwise4": 4.0, "move6": 5.0}


@pytest.mark.parametrize("channels", [8, 16])
def test_a_kernel_of_another_width_is_no_sample(channels: int) -> None:
    assert found(units(("conv", 8)), ("fused_conv2d", channels, 1.0)) == (
        {"conv0": 1.0} if channels == 8 else {}
    )


def test_conversions_are_kernels_of_images_as_they_come() -> None:
    chain = [
        unit(index, *pair)
        for index, pair in enumerate(
            [("elementwise", 3), ("conv", 8), ("depthwise", 8), ("pool", 8), ("elementwise", 8)]
        )
    ]
    timed = [
        TimedKernel(name="quantize", shape=(1, 3, 4, 4), seconds=1.0),  # channels first
        TimedKernel(name="fused_int8_conv2d_add_multiply_quantize1", shape=(1, 4, 4, 8), seconds=2),
        TimedKernel(name="fused_int8_depthwise_conv2d_quantize2", shape=(1, 4, 4, 8), seconds=3.0),
        TimedKernel(name="dequantize4", shape=(1, 4, 4, 8), seconds=0.5),  # for what pools it
        TimedKernel(name="fused_max_pool2d_quantize3", shape=(1, 4, 4, 8), seconds=4.0),
        TimedKernel(
            name="fused_dequantize4_dequantize_add_quantize", shape=(1, 4, 4, 8), seconds=5.0
        ),
    ]
    found = samples_of(chain, timed)
    assert [(sample.unit.kind, sample.seconds) for sample in found] == [
        ("elementwise", 1.0), ("conv", 2.0), ("depthwise", 3.0), ("pool", 4.5),
        ("elementwise", 5.0),
    ]  # fmt: skip
