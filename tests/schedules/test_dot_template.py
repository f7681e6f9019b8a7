from __future__ import annotations

import dataclasses
import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tvm
from tvm import te

from tvm_iovt import host_cpu
from tvm_iovt.schedules.convolution import Conv2d
from tvm_iovt.schedules.cpu import schedule_function
from tvm_iovt.schedules.dot_instructions import (
    AVX_VNNI,
    BF16,
    BFDOT,
    SDOT,
    VNNI,
    DotInstruction,
    round_to_bf16,
)
from tvm_iovt.schedules.dot_product import conv2d_dot, matmul_dot, pack_dot_weights
from tvm_iovt.schedules.tiles import contraction_tile
from tvm_iovt.types import CpuSpec


def needs(dot: DotInstruction) -> pytest.MarkDecorator:
    missing = dot.feature not in host_cpu.flags()
    return pytest.mark.skipif(missing, reason=f"this CPU has no {dot.feature}")


def convolution(
    in_channels: int, out_channels: int, size: int, kernel: int, **geometry: Any
) -> Conv2d:
    fields: dict[str, Any] = {
        "batch": 1,
        "in_size": (size, size + 2),
        "kernel": (kernel, kernel),
        "strides": (1, 1),
        "padding": (kernel // 2,) * 4,
        "dilation": (1, 1),
        "groups": 1,
        **geometry,
    }
    return Conv2d(in_channels=in_channels, out_channels=out_channels, **fields)


def reference(x: np.ndarray, w: np.ndarray, conv: Conv2d, pad: float = 0) -> np.ndarray:
    """NHWC convolution, tap by tap, in the type of the operands."""
    top, left, bottom, right = conv.padding
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=pad)
    rows, cols = conv.out_size
    groups, inputs = conv.groups, conv.in_channels // conv.groups
    outputs = conv.out_channels // groups
    y = np.zeros((conv.batch, rows, cols, conv.out_channels), x.dtype)
    for i in range(conv.kernel[0]):
        for j in range(conv.kernel[1]):
            top, left = i * conv.dilation[0], j * conv.dilation[1]
            taken = x[
                :,
                top : top + (rows - 1) * conv.strides[0] + 1 : conv.strides[0],
                left : left + (cols - 1) * conv.strides[1] + 1 : conv.strides[1],
            ]
            for g in range(groups):
                own = slice(g * outputs, (g + 1) * outputs)
                y[..., own] += taken[..., g * inputs : (g + 1) * inputs] @ w[own, :, i, j].T
    return y


CONVOLUTIONS = {
    "3x3": convolution(32, 64, 14, 3),
    "1x1": convolution(64, 48, 9, 1),
    "1x1, one output channel": convolution(64, 1, 9, 1),
    "odd channels": convolution(5, 19, 11, 3),
    "three inputs, stride 2": convolution(3, 24, 17, 7, strides=(2, 2)),
    "uneven padding and strides": convolution(6, 33, 12, 3, padding=(0, 2, 1, 0), strides=(1, 2)),
    "dilated": convolution(8, 16, 13, 3, padding=(2, 2, 2, 2), dilation=(2, 2)),
    "batch": convolution(16, 16, 7, 3, batch=2),
    "groups": convolution(32, 64, 8, 3, groups=2),
    "groups of odd channels": convolution(15, 60, 8, 3, groups=3),
    "groups, 1x1": convolution(32, 64, 8, 1, groups=2),
    "weights beyond L2": convolution(512, 512, 4, 3),
    "one pixel": convolution(16, 40, 1, 1),
}


def compiled(function: Any, cpu: CpuSpec, target: Any) -> Any:
    scheduled, decision = schedule_function(function, cpu, "main")
    assert decision.reason.startswith("dot_product"), decision.reason
    assert "failed" not in decision.reason or "unfused" in decision.reason
    return tvm.compile(tvm.IRModule({"main": scheduled}), target=target)


def conv_function(conv: Conv2d, dot: DotInstruction, cpu: CpuSpec, dtype: str, pad: int) -> Any:
    tile = contraction_tile(*conv.out_size, conv.out_channels // conv.groups, cpu, dot.lanes)
    shape = (conv.out_channels, conv.in_channels // conv.groups, *conv.kernel)
    packed = pack_dot_weights(np.zeros(shape, dot.weight), conv.groups, tile.channels, dot.group)
    data = te.placeholder((conv.batch, *conv.in_size, conv.in_channels), dtype, "data")
    weight = te.placeholder(packed.shape, dot.weight, "weight")
    if dot.accumulator == "float32":
        return te.create_prim_func([data, weight, conv2d_dot(data, weight, conv, tile, dot)]), tile
    offsets = te.placeholder((conv.out_channels,), "int32", "offsets")
    out = conv2d_dot(data, weight, conv, tile, dot, padding=pad, offsets=offsets)
    return te.create_prim_func([data, weight, offsets, out]), tile


def run(module: Any, shape: tuple[int, ...], *arrays: np.ndarray) -> np.ndarray:
    out = tvm.runtime.tensor(np.full(shape, np.nan, np.float32))
    module["main"](*(tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arrays), out)
    return out.numpy()


def out_shape(conv: Conv2d) -> tuple[int, ...]:
    return (conv.batch, *conv.out_size, conv.out_channels)


@pytest.fixture(scope="session")
def avx512(cpus: dict[str, CpuSpec]) -> CpuSpec:
    return dataclasses.replace(cpus["avx512"], features=(BF16.feature, VNNI.feature))


def spills(asm: str, instruction: str) -> list[str]:
    """Vector moves from or to the stack between the first and the last of an instruction."""
    lines = asm.splitlines()
    hits = [i for i, line in enumerate(lines) if instruction in line]
    assert hits, f"no {instruction}"
    body = lines[hits[0] : hits[-1]]
    return [line for line in body if re.search(r"[yz]mm\d+.*\(%rsp|\(%rsp.*[yz]mm\d+", line)]


@needs(BF16)
@pytest.mark.parametrize(
    ("name", "stored"),
    [*((name, "uint16") for name in CONVOLUTIONS), ("1x1", "float32"), ("groups", "float32")],
)
def test_bf16_convolution(name: str, stored: str, avx512, host, rng) -> None:
    conv = CONVOLUTIONS[name]
    function, tile = conv_function(conv, BF16, avx512, stored, 0)
    x = rng.standard_normal((conv.batch, *conv.in_size, conv.in_channels)).astype(np.float32)
    w = rng.standard_normal(
        (conv.out_channels, conv.in_channels // conv.groups, *conv.kernel)
    ).astype(np.float32)
    packed = pack_dot_weights(round_to_bf16(w), conv.groups, tile.channels, 2)
    data = round_to_bf16(x) if stored == "uint16" else x
    found = run(compiled(function, avx512, host), out_shape(conv), data, packed)
    x64 = x.astype(ml_dtypes.bfloat16).astype(np.float64)
    w64 = w.astype(ml_dtypes.bfloat16).astype(np.float64)
    # Products of two 8-bit significands are exact in float32; each of the additions rounds once.
    terms = conv.in_channels // conv.groups * conv.kernel[0] * conv.kernel[1]
    bound = terms * 2.0**-24 * reference(np.abs(x64), np.abs(w64), conv)
    assert (np.abs(found - reference(x64, w64, conv)) <= bound).all()


@needs(VNNI)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, "uint8") for name in CONVOLUTIONS), ("1x1", "int8"), ("groups", "int8")],
)
def test_integer_convolution_is_exact(name: str, dtype: str, avx512, host, rng) -> None:
    conv = CONVOLUTIONS[name]
    limits = np.iinfo(dtype)
    zero = int(rng.integers(limits.min, limits.max + 1))
    moved = zero - limits.min  # what the unsigned operand has for zero
    function, tile = conv_function(conv, VNNI, avx512, dtype, moved)
    x = rng.integers(
        limits.min, limits.max + 1, (conv.batch, *conv.in_size, conv.in_channels)
    ).astype(dtype)
    w = rng.integers(
        -128, 128, (conv.out_channels, conv.in_channels // conv.groups, *conv.kernel)
    ).astype(np.int8)
    packed = pack_dot_weights(w, conv.groups, tile.channels, 4)
    offsets = moved * w.astype(np.int32).reshape(len(w), -1).sum(axis=1, dtype=np.int32)
    found = run(compiled(function, avx512, host), out_shape(conv), x, packed, offsets)
    expected = reference(x.astype(np.int64) - zero, w.astype(np.int64), conv)
    assert np.abs(expected).max() < 2**24
    np.testing.assert_array_equal(found, expected)


@needs(VNNI)
@pytest.mark.parametrize(("activation", "weight"), [(255, 127), (255, -128), (0, -128)])
def test_extremes_do_not_saturate(activation: int, weight: int, avx512, host) -> None:
    """Pairs of the largest products pass 2^15, where instructions with 16-bit sums saturate."""
    conv = convolution(64, 16, 4, 1)
    function, tile = conv_function(conv, VNNI, avx512, "uint8", 0)
    x = np.full((1, *conv.in_size, 64), activation, np.uint8)
    w = np.full((16, 64, 1, 1), weight, np.int8)
    packed = pack_dot_weights(w, 1, tile.channels, 4)
    found = run(
        compiled(function, avx512, host), out_shape(conv), x, packed, np.zeros(16, np.int32)
    )
    assert (found == 64 * activation * weight).all()


@needs(BF16)
@pytest.mark.parametrize(
    ("lead", "depth", "features"), [((1,), 64, 100), ((5,), 33, 16), ((2, 17), 48, 70)]
)
def test_bf16_matrix_product(lead, depth, features, avx512, host, rng) -> None:
    tile = contraction_tile(1, lead[-1], features, avx512, BF16.lanes)
    x = rng.standard_normal((*lead, depth)).astype(np.float32)
    w = rng.standard_normal((depth, features)).astype(np.float32)
    packed = pack_dot_weights(
        round_to_bf16(w).T.reshape(features, depth, 1, 1), 1, tile.channels, 2
    )[:, 0, 0]
    data = te.placeholder(x.shape, "float32", "data")
    weight = te.placeholder(packed.shape, "uint16", "weight")
    function = te.create_prim_func([data, weight, matmul_dot(data, weight, features, tile, BF16)])
    found = run(compiled(function, avx512, host), (*lead, features), x, packed)
    x64, w64 = (v.astype(ml_dtypes.bfloat16).astype(np.float64) for v in (x, w))
    bound = depth * 2.0**-24 * (np.abs(x64) @ np.abs(w64))
    assert (np.abs(found - x64 @ w64) <= bound).all()


@pytest.mark.parametrize(
    ("dot", "dtype", "mcpu", "instruction"),
    [
        (BF16, "uint16", "cooperlake", "vdpbf16ps"),
        (VNNI, "uint8", "cascadelake", "vpdpbusd"),
        (AVX_VNNI, "uint8", "alderlake", "vpdpbusd"),
    ],
    ids=["bf16", "vnni", "avx_vnni"],
)
@pytest.mark.parametrize("name", ["3x3", "1x1", "weights beyond L2"])
def test_the_inner_loop_is_the_instruction(
    name: str, dot: DotInstruction, dtype: str, mcpu: str, instruction: str, avx512, cpus
) -> None:
    cpu = avx512 if dot.vector_bits == 512 else cpus["avx2"]
    function, tile = conv_function(CONVOLUTIONS[name], dot, cpu, dtype, 0)
    target = tvm.target.Target({"kind": "llvm", "mcpu": mcpu})
    asm = compiled(function, cpu, target).mod.inspect_source("asm")
    assert asm.count(instruction) >= tile.rows * tile.cols * tile.vectors
    assert not re.search(rf"call\w*\s+{dot.name}", asm)
    assert spills(asm, instruction) == []


@pytest.mark.parametrize(
    ("dot", "mattr", "instruction"), [(SDOT, "+dotprod", "sdot"), (BFDOT, "+bf16", "bfdot")]
)
def test_arm_dot_products(dot: DotInstruction, mattr: str, instruction: str, cpus) -> None:
    cpu = dataclasses.replace(cpus["neon64"], features=(dot.feature,))
    function, tile = conv_function(CONVOLUTIONS["3x3"], dot, cpu, dot.data, 0)
    target = tvm.target.Target(
        {"kind": "llvm", "mtriple": cpu.triple, "mcpu": "cortex-a76", "mattr": [mattr]}
    )
    asm = compiled(function, cpu, target).mod.inspect_source("asm")
    lines = asm.splitlines()
    hits = [i for i, line in enumerate(lines) if f"\t{instruction}\t" in line]
    assert len(hits) >= tile.rows * tile.cols * tile.vectors
    assert dot.name not in re.findall(r"\tbl\t(\w+)", asm)
    body = lines[hits[0] : hits[-1]]
    assert not [line for line in body if re.search(r"\t(str|stp|stur)\tq\d+, .*\[sp", line)]


@pytest.mark.skipif(
    not {VNNI.feature, "avx512vl"} <= host_cpu.flags(), reason="this CPU has no 256-bit vpdpbusd"
)
@pytest.mark.parametrize("name", ["3x3", "1x1", "odd channels", "groups"])
def test_256_bit_integers_are_exact(name: str, cpus, host, rng) -> None:
    conv = CONVOLUTIONS[name]
    cpu = dataclasses.replace(cpus["avx2"], features=(AVX_VNNI.feature,))
    function, tile = conv_function(conv, AVX_VNNI, cpu, "uint8", 7)
    x = rng.integers(0, 256, (conv.batch, *conv.in_size, conv.in_channels)).astype(np.uint8)
    w = rng.integers(
        -128, 128, (conv.out_channels, conv.in_channels // conv.groups, *conv.kernel)
    ).astype(np.int8)
    packed = pack_dot_weights(w, conv.groups, tile.channels, 4)
    offsets = 7 * w.astype(np.int32).reshape(len(w), -1).sum(axis=1, dtype=np.int32)
    found = run(compiled(function, cpu, host), out_shape(conv), x, packed, offsets)
    expected = reference(x.astype(np.int64) - 7, w.astype(np.int64), conv)
    np.testing.assert_array_equal(found, expected)
