from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te

from tvm_iovt.schedules.convolution import Conv2d
from tvm_iovt.schedules.cpu import schedule_function
from tvm_iovt.schedules.precision_kernels import (
    FORMATS,
    Kernel,
    half_conv2d,
    half_matmul,
    widened_depthwise,
)
from tvm_iovt.types import CpuSpec

CONV = Conv2d(
    batch=1,
    in_size=(9, 10),
    in_channels=16,
    out_channels=40,
    kernel=(3, 3),
    strides=(1, 1),
    padding=(1, 1, 1, 1),
    dilation=(1, 1),
    groups=1,
)


@pytest.fixture(scope="session")
def half_cpu(cpus: dict[str, CpuSpec]) -> CpuSpec:
    features = ("asimd", "asimddp", "asimdhp")
    mattr = ("+neon", "+dotprod", "+fullfp16")
    return dataclasses.replace(cpus["neon64"], mcpu="cortex-a76", mattr=mattr, features=features)


def scheduled(kernel: Kernel, shape: tuple[int, ...], dtype: str, cpu: CpuSpec) -> Any:
    data = te.placeholder(shape, dtype, "data")
    constants = [te.placeholder(v.shape, t, f"k{i}") for i, (v, t) in enumerate(kernel.constants)]
    function = te.create_prim_func([data, *constants, kernel.build(data, *constants)])
    function, decision = schedule_function(function, cpu, "main")
    assert "failed" not in decision.reason, decision.reason
    return tvm.IRModule({"main": function})


def run(kernel: Kernel, data: np.ndarray, cpu: CpuSpec, host: Any) -> np.ndarray:
    """The kernel with the schedule for `cpu`, compiled for this machine."""
    module = scheduled(kernel, data.shape, str(data.dtype), cpu)
    shape = [int(n) for n in module["main"].params[-1].shape]
    out = tvm.runtime.tensor(np.full(shape, np.nan, np.float32))
    arrays = [data, *(value.astype(dtype) for value, dtype in kernel.constants)]
    tvm.compile(module, host)["main"](*map(tvm.runtime.tensor, arrays), out)
    return out.numpy()


def convolved(x: np.ndarray, w: np.ndarray, conv: Conv2d) -> np.ndarray:
    """NHWC, stride 1, padding 1, float64; depthwise if the weights have one input."""
    x = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, cols = conv.out_size
    w = w.astype(np.float64)
    y = np.zeros((conv.batch, rows, cols, conv.out_channels))
    for i in range(3):
        for j in range(3):
            taken = x[:, i : i + rows, j : j + cols]
            y += taken * w[:, 0, i, j] if conv.is_depthwise else taken @ w[:, :, i, j].T
    return y


@pytest.mark.parametrize("stored", [np.float32, np.float16])
def test_half_convolution(stored: type, half_cpu, host, rng) -> None:
    x = rng.standard_normal((1, 9, 10, 16)).astype(stored)
    w = rng.standard_normal((40, 16, 3, 3)).astype(np.float32)
    found = run(half_conv2d(w, CONV, half_cpu), x, half_cpu, host)
    halves = x.astype(np.float16), w.astype(np.float16)
    magnitude = convolved(np.abs(halves[0]), np.abs(halves[1]), CONV)
    # 144 products, each rounded once and added with one rounding to 11 bits.
    bound = 2 * 144 * 2.0**-11 * magnitude
    error = np.abs(found - convolved(*halves, CONV))
    assert (error <= bound).all()
    assert error.mean() < 0.002 * magnitude.mean()


def test_half_matrix_product(half_cpu, host, rng) -> None:
    x = rng.standard_normal((3, 5, 24)).astype(np.float32)
    w = rng.standard_normal((24, 33)).astype(np.float32)
    found = run(half_matmul(w, 5, half_cpu), x, half_cpu, host)
    expected = x.astype(np.float16).astype(np.float64) @ w.astype(np.float16).astype(np.float64)
    np.testing.assert_allclose(found, expected, atol=0.05)


def assembly(kernel: Kernel, shape: tuple[int, ...], cpu: CpuSpec) -> str:
    target = tvm.target.Target(
        {"kind": "llvm", "mtriple": cpu.triple, "mcpu": cpu.mcpu, "mattr": list(cpu.mattr)}
    )
    return str(
        tvm.compile(scheduled(kernel, shape, "float16", cpu), target).mod.inspect_source("asm")
    )


def test_halves_are_multiplied_eight_at_a_time(half_cpu, rng) -> None:
    w = rng.standard_normal((40, 16, 3, 3)).astype(np.float32)
    asm = assembly(half_conv2d(w, CONV, half_cpu), (1, 9, 10, 16), half_cpu)
    lines = asm.splitlines()
    products = [i for i, line in enumerate(lines) if re.search(r"\tfmla\tv\d+\.8h", line)]
    assert len(products) >= 16
    body = lines[products[0] : products[-1]]
    assert not [line for line in body if re.search(r"\t(str|stp|stur)\tq\d+, .*\[sp", line)]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_depthwise_of_narrow_numbers(precision: str, half_cpu, host, rng) -> None:
    conv = dataclasses.replace(CONV, in_channels=24, out_channels=24, groups=24)
    w = rng.standard_normal((24, 1, 3, 3)).astype(np.float32)
    if precision == "int8":
        x = rng.integers(-128, 128, (1, 9, 10, 24)).astype(np.int8)
        kernel = widened_depthwise(
            w,
            conv,
            half_cpu,
            lambda v: tvm.tirx.Cast("float32", v) - tvm.tirx.const(5.0, "float32"),
            "int8",
        )
        exact = x.astype(np.float64) - 5
    else:
        x = rng.standard_normal((1, 9, 10, 24)).astype(np.float16)
        kernel = widened_depthwise(w, conv, half_cpu, FORMATS["fp16"].widen, "fp16")
        exact = x.astype(np.float64)
    found = run(kernel, x, half_cpu, host)
    np.testing.assert_allclose(found, convolved(exact, w, conv), rtol=1e-4, atol=1e-3)
