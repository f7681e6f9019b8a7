"""Reduced precision: what it can be called, and what it needs of a model and of a target."""

from __future__ import annotations

from collections.abc import Iterable

from tvm_iovt.errors import TargetError, UsageError
from tvm_iovt.types import TargetSpec

PRECISIONS = ("fp32", "bf16", "fp16", "int8")

# For each precision and architecture: flags of /proc/cpuinfo, each with the width in bits of the
# vectors it is for, and what to call them.
_NEEDED: dict[str, dict[str, tuple[dict[str, int], str]]] = {
    "bf16": {
        "x86_64": (
            {"avx512_bf16": 512},
            "AVX512-BF16 (Intel Cooper Lake and Sapphire Rapids, AMD Zen 4)",
        ),
        "aarch64": ({"bf16": 128}, "bfloat16 dot products (ARMv8.6 bf16)"),
    },
    "fp16": {"aarch64": ({"asimdhp": 128}, "half-precision arithmetic (ARMv8.2 fullfp16)")},
    "int8": {
        "x86_64": (
            {"avx512_vnni": 512, "avx_vnni": 256},
            "VNNI (AVX512-VNNI of Intel Cascade Lake and AMD Zen 4, AVX-VNNI of Intel Alder Lake)",
        ),
        "aarch64": ({"asimddp": 128}, "dot products (ARMv8.2 dotprod)"),
    },
}


def check_targets(precision: str, specs: Iterable[TargetSpec]) -> None:
    """Refuse a precision that one of the targets has no instructions for.

    Raises:
        UsageError: There is no such precision.
        TargetError: A target is a GPU, or its CPU lacks the instructions.
    """
    if precision not in PRECISIONS:
        raise UsageError(
            f"There is no precision {precision!r}", do=f"use one of: {', '.join(PRECISIONS)}"
        )
    if precision == "fp32":
        return
    for spec in specs:
        if spec.gpu is not None:
            raise TargetError(
                f"--precision {precision} is for CPUs, and {spec.name} is a GPU",
                do=f"compile {spec.name} on its own, with --precision fp32",
            )
        needed = _NEEDED[precision].get(spec.cpu.arch)
        if needed is None:
            others = ", ".join(_NEEDED[precision])
            raise TargetError(
                f"--precision {precision} cannot be built for {spec.name}",
                seen=f"its CPU is {spec.cpu.arch}; the kernels of {precision} are for {others}",
                do=f"leave --precision out, or leave {spec.name} out of --targets",
            )
        flags, meaning = needed
        has = spec.cpu.features
        if any(flag in has and spec.cpu.vector_bits >= bits for flag, bits in flags.items()):
            continue
        named = " or ".join(flags)
        raise TargetError(
            f"--precision {precision} needs a CPU with {meaning}, which {spec.name} has not",
            seen=f"no {named} of sufficient width: {', '.join(has) or 'no features'}, "
            f"{spec.cpu.vector_bits}-bit vectors",
            do="leave --precision out; or, if the device has it, describe the device in a target "
            f"file whose [cpu] features name {named} (targets/README.md)",
        )


def check_model(precision: str, arithmetic: str, name: str) -> None:
    """Refuse a precision that a model cannot be computed in.

    Args:
        precision: One of `PRECISIONS`.
        arithmetic: `float32`, `float16` or `quantized`, see `frontend.network.Network`.
        name: Of the model, for the message.

    Raises:
        UsageError: The two do not go together.
    """
    if precision == "int8" and arithmetic != "quantized":
        raise UsageError(
            f"--precision int8 needs a quantized model, and {name} computes in {arithmetic}",
            seen="no QuantizeLinear operator: the ranges of its activations are not known",
            do="quantize it with sample inputs beside it in test_data_set_0/input_0.pb and so on, "
            f"`python -m onnxruntime.quantization.static_quantize_runner -i ./{name} -o "
            "quantized.onnx --per_channel`, then compile quantized.onnx",
        )
    if precision in ("bf16", "fp16") and arithmetic == "float16":
        raise UsageError(
            f"--precision {precision} is for float32 models, and {name} is not one",
            seen="half-precision tensors in the model",
            do="leave --precision out to compute as the model says, or export it in float32",
        )
