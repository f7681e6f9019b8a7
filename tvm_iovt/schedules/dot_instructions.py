"""Dot-product instructions of CPUs, and the bfloat16 numbers that some of them read.

A dot-product instruction multiplies short runs of narrow numbers and adds each run into one wide
lane: `acc[i] += sum_j a[i, j] * b[i, j]`.

TVM has no type for a vector of bfloat16 that reaches LLVM, so bfloat16 numbers travel as `uint16`,
and each instruction comes as a few lines of LLVM IR that LLVM inlines where it is called.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from tvm_iovt.schedules.tvm_api import (
    TensorIntrin,
    from_source,
    llvm_cpu_has_features,
    tirx,
    tvm,
)
from tvm_iovt.types import CpuSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class DotInstruction:
    """`acc[i] += sum_j a[i, j] * b[i, j]` on one SIMD register.

    Attributes:
        name: Of the tensor intrinsic and of the function in `llvm`.
        feature: Flag of `/proc/cpuinfo` that CPUs with the instruction show.
        llvm_feature: The same in LLVM's spelling, which `mcpu` or `mattr` must switch on.
        vector_bits: Width of the SIMD register.
        data: Type of the activations; `uint16` stands for bfloat16.
        weight: Type of the weights.
        accumulator: Type of the sums.
        group: Numbers added into one lane.
        llvm: LLVM IR of a function of (accumulators, activations, weights), the latter two as
            vectors of i32.
    """

    name: str
    feature: str
    llvm_feature: str
    vector_bits: int
    data: str
    weight: str
    accumulator: str
    group: int
    llvm: str

    @property
    def lanes(self) -> int:
        """Accumulators in a register: output channels computed at a time."""
        return self.vector_bits // 32


def _llvm(name: str, intrinsic: str, accumulator: str, operand: str, lanes: int) -> str:
    """A function around an LLVM intrinsic, its operands passed as vectors of 32-bit integers."""
    sums, raw = f"<{lanes} x {accumulator}>", f"<{lanes} x i32>"
    return f"""
declare {sums} @{intrinsic}({sums}, {operand}, {operand})
define {sums} @{name}({sums} %sums, {raw} %data, {raw} %weights) alwaysinline {{
  %a = bitcast {raw} %data to {operand}
  %b = bitcast {raw} %weights to {operand}
  %result = call {sums} @{intrinsic}({sums} %sums, {operand} %a, {operand} %b)
  ret {sums} %result
}}
"""


_NARROW_LANES = (1, 2, 4, 8, 16, 32)


def _llvm_narrow(lanes: int) -> str:
    """A function from float32 to the bits of bfloat16, for a vector or (1 lane) one number."""
    wide, narrow, bits = (
        ("float", "bfloat", "i16")
        if lanes == 1
        else (
            f"<{lanes} x float>",
            f"<{lanes} x bfloat>",
            f"<{lanes} x i16>",
        )
    )
    return f"""
define {bits} @tvm_iovt_narrow_{lanes}({wide} %x) alwaysinline {{
  %rounded = fptrunc {wide} %x to {narrow}
  %bits = bitcast {narrow} %rounded to {bits}
  ret {bits} %bits
}}
"""


_NARROW = "".join(map(_llvm_narrow, _NARROW_LANES))


def _bf16(
    name: str, feature: str, llvm_feature: str, intrinsic: str, vector_bits: int
) -> DotInstruction:
    lanes = vector_bits // 32
    return DotInstruction(
        name=name,
        feature=feature,
        llvm_feature=llvm_feature,
        vector_bits=vector_bits,
        data="uint16",
        weight="uint16",
        accumulator="float32",
        group=2,
        llvm=_llvm(name, intrinsic, "float", f"<{2 * lanes} x bfloat>", lanes) + _NARROW,
    )


def _int8(
    name: str, feature: str, llvm_feature: str, intrinsic: str, vector_bits: int, data: str
) -> DotInstruction:
    lanes = vector_bits // 32
    return DotInstruction(
        name=name,
        feature=feature,
        llvm_feature=llvm_feature,
        vector_bits=vector_bits,
        data=data,
        weight="int8",
        accumulator="int32",
        group=4,
        llvm=_llvm(name, intrinsic, "i32", f"<{4 * lanes} x i8>", lanes),
    )


BF16 = _bf16(
    *("tvm_iovt_vdpbf16ps_512", "avx512_bf16", "avx512bf16"),
    *("llvm.x86.avx512bf16.dpbf16ps.512", 512),
)
BFDOT = _bf16("tvm_iovt_bfdot_128", "bf16", "bf16", "llvm.aarch64.neon.bfdot.v4f32.v8bf16", 128)
VNNI = _int8(
    *("tvm_iovt_vpdpbusd_512", "avx512_vnni", "avx512vnni"),
    *("llvm.x86.avx512.vpdpbusd.512", 512, "uint8"),
)
AVX_VNNI = _int8(
    *("tvm_iovt_vpdpbusd_256", "avx_vnni", "avxvnni"),
    *("llvm.x86.avx512.vpdpbusd.256", 256, "uint8"),
)
SDOT = _int8(
    *("tvm_iovt_sdot_128", "asimddp", "dotprod"),
    *("llvm.aarch64.neon.sdot.v4i32.v16i8", 128, "int8"),
)
INSTRUCTIONS = {dot.name: dot for dot in (BF16, BFDOT, VNNI, AVX_VNNI, SDOT)}

# The widest first.
_ROUNDED = {"x86_64": (BF16,), "aarch64": (BFDOT,)}
_INTEGER = {"x86_64": (VNNI, AVX_VNNI), "aarch64": (SDOT,)}


def bf16_instruction(cpu: CpuSpec) -> DotInstruction | None:
    """The instruction for pairs of bfloat16 that a CPU has, or None."""
    return _first(_ROUNDED, cpu)


def integer_instruction(cpu: CpuSpec) -> DotInstruction | None:
    """The instruction for quadruples of 8-bit integers that a CPU has, or None."""
    return _first(_INTEGER, cpu)


def _first(
    instructions: Mapping[str, tuple[DotInstruction, ...]], cpu: CpuSpec
) -> DotInstruction | None:
    for dot in instructions.get(cpu.arch, ()):
        has = dot.feature in cpu.features and cpu.vector_bits >= dot.vector_bits
        if has and is_generated(dot.llvm_feature):
            return dot
    return None


def is_generated(llvm_feature: str) -> bool:
    """Whether LLVM may use an extension in code for the current target, if there is one.

    It ends the process when it meets an instruction that it may not.
    """
    target = tvm.target.Target.current(allow_none=True)
    return target is None or bool(llvm_cpu_has_features(llvm_feature, target))


def round_to_bf16(value: np.ndarray) -> np.ndarray:
    """float32 numbers rounded to the nearest bfloat16, ties to even, as uint16 bit patterns."""
    return np.asarray(value, np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)


def narrow(x: Any) -> Any:
    """A TIR float32 as the bits of the nearest bfloat16 (ties to even), a uint16.

    A vectorised loop of it is one instruction a vector; spelled in integer arithmetic it takes
    eight. Some kernel of the library must import `BF16.llvm`, as those with dot products do.
    """
    return tirx.call_intrin("uint16", _narrow_operator(), x)


@functools.cache
def _narrow_operator() -> Any:
    """An operator that TVM vectorises and then lowers to the function of as many lanes."""
    name = "tirx.tvm_iovt_narrow"
    for attribute, value in (
        ("TCallEffectKind", tirx.expr.CallEffectKind.Pure.value),
        ("TVectorizable", True),
        ("TScriptPrinterName", "tvm_iovt_narrow"),
        ("llvm.FLowerIntrinsic", _lower_narrow),
    ):
        tvm.ir.register_op_attr(name, attribute, value)
    return tvm.ir.Op.get(name)


def _lower_narrow(call: Any) -> Any:
    dtype = call.ty.dtype
    return tirx.call_extern(dtype, f"tvm_iovt_narrow_{dtype.lanes}", *call.args)


def widen(x: Any) -> Any:
    """The TIR float32 that the bits of a bfloat16 stand for; exact."""
    return tirx.reinterpret("float32", tirx.Cast("uint32", x) << tirx.const(16, "uint32"))


def tensor_intrinsic(dot: DotInstruction) -> str:
    """Register the tensor intrinsic of an instruction once; returns its name.

    It replaces `lanes x group` iterations of the expressions in `dot_product` by one call of the
    function in `dot.llvm`, which must be imported around it.
    """
    if TensorIntrin.get(dot.name, allow_missing=True) is None:
        lanes, group, sums = dot.lanes, dot.group, dot.accumulator
        if dot.data == "uint16":
            a, b = (
                f'T.reinterpret("float32", T.shift_left(T.Cast("uint32", {x}), T.uint32(16)))'
                for x in ("A[vk]", "B[vi, vk]")
            )
        else:
            a, b = (f'T.Cast("int32", {x})' for x in ("A[vk]", "B[vi, vk]"))
        head = f"""
@T.prim_func(s_tir=True)
def main(
    A: T.Buffer(({group},), "{dot.data}", offset_factor=1),
    B: T.Buffer(({lanes}, {group}), "{dot.weight}", offset_factor=1),
    C: T.Buffer(({lanes},), "{sums}", offset_factor=1, scope="local"),
):
    with T.sblock("root"):
        T.reads(C[0:{lanes}], A[0:{group}], B[0:{lanes}, 0:{group}])
        T.writes(C[0:{lanes}])
"""
        description = f"""{head}
        for i in T.serial(0, {lanes}):
            for k in T.serial(0, {group}):
                with T.sblock("update"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    C[vi] = C[vi] + {a} * {b}
"""
        implementation = f"""{head}
        C[T.ramp(T.int32(0), 1, {lanes})] = T.call_extern(
            "{sums}x{lanes}",
            "{dot.name}",
            C.vload([0], "{sums}x{lanes}"),
            T.broadcast(T.reinterpret("int32", A.vload([0], "{dot.data}x{group}")), {lanes}),
            T.reinterpret("int32x{lanes}", B.vload([0, 0], "{dot.weight}x{lanes * group}")),
        )
"""
        TensorIntrin.register(dot.name, from_source(description), from_source(implementation))
    return dot.name
