from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from tvm import relax

from tvm_iovt.schedules.precision_plans import Planner
from tvm_iovt.types import CpuSpec

Build = Any


def module(build: Build, *shape: int, dtype: str = "float32") -> Any:
    """A module whose `main` binds what `build` emits; its last result is the output."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, dtype))
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(build(builder.emit, x))
        builder.emit_func_output(out)
    return builder.get()


def weight(*shape: int, scale: float = 1.0) -> Any:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * scale
    return relax.const(values)


def whole(*shape: int) -> Any:
    return relax.const(np.random.default_rng(0).integers(-128, 128, shape).astype(np.float32))


def conv(x: Any, w: Any, groups: int = 1) -> Any:
    return relax.op.nn.conv2d(x, w, data_layout="NHWC", kernel_layout="OIHW", groups=groups)


@pytest.fixture(scope="session")
def zen4(cpus: dict[str, CpuSpec]) -> CpuSpec:
    return dataclasses.replace(cpus["avx512"], features=("avx512_bf16", "avx512_vnni"))


@pytest.fixture(scope="session")
def a76(cpus: dict[str, CpuSpec]) -> CpuSpec:
    return dataclasses.replace(cpus["neon64"], features=("asimddp", "asimdhp"))


def kinds(planner: Planner) -> list[str]:
    return [plan.kind for plan in planner.plans.values()]


def integers(emit: Any, x: Any, zero: float = 3.0) -> Any:
    wide = emit(relax.op.astype(x, "float32"))
    return emit(relax.op.subtract(wide, relax.const(np.float32(zero))))


def test_integers_with_whole_weights_are_planned_whatever_the_precision(zen4, cpus) -> None:
    def build(emit: Any, x: Any) -> Any:
        return conv(integers(emit, x), whole(16, 8, 3, 3))

    mod = module(build, 1, 6, 6, 8, dtype="int8")
    for precision in ("fp32", "bf16", "int8"):
        planner = Planner(mod["main"], zen4, precision)
        assert kinds(planner) == ["integer"]
        (plan,) = planner.plans.values()
        assert plan.zero_point == 3
        assert plan.data.name == "x"
    assert not Planner(mod["main"], cpus["avx512"], "int8").plans


@pytest.mark.parametrize(
    ("weights", "zero"),
    [
        (whole(16, 8, 3, 3), 3.5),
        (whole(16, 8, 3, 3), 128.0),
        (relax.const(np.full((16, 8, 3, 3), 128, np.float32)), 0.0),
        (relax.const(np.full((16, 8, 3, 3), 0.5, np.float32)), 0.0),
    ],
    ids=["broken zero point", "zero point beyond int8", "weights beyond int8", "broken weights"],
)
def test_what_is_no_8_bit_arithmetic_is_not_planned(weights: Any, zero: float, zen4) -> None:
    mod = module(lambda emit, x: conv(integers(emit, x, zero), weights), 1, 6, 6, 8, dtype="int8")
    assert not Planner(mod["main"], zen4, "fp32").plans


def test_sums_that_could_overflow_are_not_planned(zen4) -> None:
    depth = 2**31 // (256 * 128) + 1
    weights = relax.const(np.full((1, depth, 1, 1), -128, np.float32))
    mod = module(lambda emit, x: conv(integers(emit, x), weights), 1, 1, 1, depth, dtype="uint8")
    assert not Planner(mod["main"], zen4, "fp32").plans


def chain(emit: Any, x: Any) -> Any:
    first = emit(conv(x, weight(32, 8, 1, 1)))
    active = emit(relax.op.nn.relu(first))
    second = emit(conv(active, weight(32, 32, 1, 1)))
    total = emit(relax.op.add(second, active))
    return conv(total, weight(16, 32, 1, 1))


def test_tensors_between_rounded_convolutions_are_stored_narrow(zen4) -> None:
    planner = Planner(module(chain, 1, 6, 6, 8)["main"], zen4, "bf16")
    assert kinds(planner) == ["rounded"] * 3
    # The activated one and the sum; what only an addition reads stays in float32.
    assert len(planner.stored) == 2
    assert not Planner(module(chain, 1, 6, 6, 8)["main"], zen4, "fp32").plans


def test_a_reader_that_cannot_widen_keeps_float32(zen4) -> None:
    def build(emit: Any, x: Any) -> Any:
        first = emit(conv(x, weight(32, 8, 1, 1)))
        pooled = emit(relax.op.nn.max_pool2d(first, (1, 1), layout="NHWC"))
        second = emit(conv(first, weight(32, 32, 1, 1)))
        return relax.op.add(second, pooled)

    assert not Planner(module(build, 1, 6, 6, 8)["main"], zen4, "bf16").stored


def test_halves_are_for_weights_and_sums_that_fit(a76, zen4) -> None:
    def build(scale: float) -> Any:
        return module(lambda _, x: conv(x, weight(16, 8, 1, 1, scale=scale)), 1, 6, 6, 8)["main"]

    assert kinds(Planner(build(1.0), a76, "fp16")) == ["rounded"]
    assert not Planner(build(1e6), a76, "fp16").plans
    assert not Planner(build(1.0), zen4, "fp16").plans
    beyond_int8 = relax.const(np.full((16, 8, 1, 1), 200, np.float32))
    mod = module(lambda emit, x: conv(integers(emit, x), beyond_int8), 1, 6, 6, 8, dtype="int8")
    assert not Planner(mod["main"], a76, "fp16").plans


@pytest.mark.parametrize(("dtype", "shift"), [("int8", 128), ("uint8", 0)])
def test_quantized_numbers_move_to_what_the_instruction_reads(dtype, shift, zen4, a76) -> None:
    def build(emit: Any, x: Any) -> Any:
        scale, zero = relax.const(np.float32(0.1)), relax.const(np.asarray(4, dtype))
        q = emit(relax.op.quantize(x, scale, zero, axis=3, out_dtype=dtype))
        product = emit(conv(integers(emit, q, 4.0), whole(16, 8, 1, 1)))
        back = emit(relax.op.dequantize(q, scale, zero, axis=3))
        return relax.op.add(product, emit(conv(back, weight(16, 8, 1, 1))))

    mod = module(build, 1, 6, 6, 8)["main"]
    assert list(Planner(mod, zen4, "fp32").moved.values()) == ([shift] if shift else [])
    assert list(Planner(mod, a76, "fp32").moved.values()) == ([] if shift else [-128])


def test_depthwise_alone_stores_nothing_narrow(zen4) -> None:
    def build(emit: Any, x: Any) -> Any:
        active = emit(relax.op.nn.relu(x))
        return conv(active, weight(32, 1, 3, 3), groups=32)

    planner = Planner(module(build, 1, 6, 6, 32)["main"], zen4, "bf16")
    assert not planner.plans
    assert not planner.stored
