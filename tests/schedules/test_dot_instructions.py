from __future__ import annotations

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tvm
from tvm import te
from tvm.s_tir import Schedule

from tvm_iovt import host_cpu
from tvm_iovt.schedules.dot_instructions import (
    AVX_VNNI,
    BF16,
    BFDOT,
    INSTRUCTIONS,
    SDOT,
    VNNI,
    bf16_instruction,
    integer_instruction,
    narrow,
    round_to_bf16,
    widen,
)

SPECIAL = (
    *(0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan, -np.nan, 3.4028235e38, -3.4028235e38),
    *(1e-40, -1e-45, 1.00390625, 1.01171875, 1.0039063, 65504.0),
    # NaN whose payloads a rounding addition would carry away.
    *np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], np.uint32).view(np.float32),
    *np.ones(13),
)


def elementwise(build: Any, x: np.ndarray, dtype: str, width: int) -> np.ndarray:
    """A vectorised loop over `x` (a multiple of `width`), with the LLVM functions imported."""
    data = te.placeholder(x.shape, str(x.dtype), "data")
    out = te.compute(x.shape, lambda i: build(data(i)), name="out")
    schedule = Schedule(te.create_prim_func([data, out]))
    outer, inner = schedule.split(schedule.get_loops(schedule.get_sblock("out"))[0], [None, width])
    schedule.vectorize(inner)
    schedule.annotate(outer, "pragma_import_llvm", BF16.llvm)
    name = str(tvm.get_global_func("target.llvm_get_system_cpu")())
    module = tvm.compile(schedule.mod, tvm.target.Target({"kind": "llvm", "mcpu": name}))
    result = tvm.runtime.tensor(np.zeros(x.shape, dtype))
    module["main"](tvm.runtime.tensor(x), result)
    return result.numpy()


@pytest.mark.skipif(BF16.feature not in host_cpu.flags(), reason=f"this CPU has no {BF16.feature}")
@pytest.mark.parametrize("width", [1, 4, 16, 32])
def test_narrow_rounds_to_nearest_even(width: int, rng) -> None:
    raw = rng.integers(0, 2**32, 4096, dtype=np.uint64).astype(np.uint32).view(np.float32)
    x = np.concatenate([np.array(SPECIAL, np.float32), raw])
    found = elementwise(narrow, x, "uint16", width).view(ml_dtypes.bfloat16)
    nan = np.isnan(x)
    assert np.isnan(found[nan].astype(np.float32)).all()
    # The instruction takes denormal numbers for zero, as those that multiply do.
    x = np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), x)
    with np.errstate(all="ignore"):
        expected = x.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(found[~nan].view(np.uint16), expected[~nan].view(np.uint16))


def test_widen_is_exact() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    expected = bits.view(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(
        elementwise(widen, bits, "float32", 8).view(np.uint32), expected.view(np.uint32)
    )


def test_round_to_bf16_gives_bit_patterns() -> None:
    np.testing.assert_array_equal(
        round_to_bf16(np.array([1.0, -2.0, 1.00390625], np.float32)), [0x3F80, 0xC000, 0x3F80]
    )


def test_instructions_follow_the_features(cpus) -> None:
    avx512, neon = cpus["avx512"], cpus["neon64"]
    assert bf16_instruction(avx512) is None
    assert integer_instruction(avx512) is None
    both = dataclasses.replace(avx512, features=("avx512_bf16", "avx512_vnni"))
    assert bf16_instruction(both) is BF16
    assert integer_instruction(both) is VNNI
    # A target that bounds the vectors to 256 bits cannot take the 512-bit form.
    narrow = dataclasses.replace(both, vector_bits=256)
    assert integer_instruction(narrow) is None
    narrow = dataclasses.replace(narrow, features=("avx512_vnni", "avx_vnni"))
    assert integer_instruction(narrow) is AVX_VNNI
    assert integer_instruction(dataclasses.replace(narrow, vector_bits=512)) is VNNI
    assert integer_instruction(neon) is None
    assert integer_instruction(dataclasses.replace(neon, features=("asimddp",))) is SDOT
    assert bf16_instruction(dataclasses.replace(neon, features=("avx512_bf16",))) is None
    assert bf16_instruction(dataclasses.replace(neon, features=("bf16",))) is BFDOT


@pytest.mark.parametrize("dot", INSTRUCTIONS.values(), ids=lambda dot: dot.name)
def test_a_register_holds_one_run_a_lane(dot) -> None:
    bits = int(dot.data.lstrip("uint"))
    assert dot.lanes * dot.group * bits == dot.vector_bits
    assert dot.name in dot.llvm
