from __future__ import annotations

import dataclasses

import pytest

from tvm_iovt import targets
from tvm_iovt.errors import TargetError, UsageError
from tvm_iovt.precision import PRECISIONS, check_model, check_targets
from tvm_iovt.types import TargetSpec


def x86(*features: str, vector_bits: int = 512) -> TargetSpec:
    spec = targets.load("host:x86-64-v4") if targets.load("host").cpu.arch == "x86_64" else None
    if spec is None:
        pytest.skip("psABI levels are for x86-64 hosts")
    cpu = dataclasses.replace(
        spec.cpu, features=(*spec.cpu.features, *features), vector_bits=vector_bits
    )
    return dataclasses.replace(spec, cpu=cpu)


def test_fp32_fits_every_target() -> None:
    check_targets("fp32", [targets.load(name) for name in ("host", "arm", "cuda", "armv7")])


def test_features_decide() -> None:
    check_targets("bf16", [x86("avx512_bf16")])
    check_targets("int8", [x86("avx512_vnni"), targets.load("raspberry-pi-5")])
    check_targets("int8", [x86("avx_vnni", vector_bits=256)])
    check_targets("fp16", [targets.load("raspberry-pi-5")])


@pytest.mark.parametrize(
    ("precision", "flag", "meaning"),
    [("bf16", "avx512_bf16", "AVX512-BF16"), ("int8", "avx512_vnni", "VNNI")],
)
def test_a_missing_feature_is_named(precision: str, flag: str, meaning: str) -> None:
    with pytest.raises(TargetError, match=f"needs a CPU with {meaning}") as error:
        check_targets(precision, [x86()])
    assert flag in error.value.seen
    assert "avx512f" in error.value.seen
    assert flag in error.value.do
    with pytest.raises(TargetError, match=meaning):
        check_targets(precision, [x86(flag, vector_bits=256)])


def test_the_generic_arm_board_has_neither_dot_products_nor_halves() -> None:
    arm = targets.load("arm")
    with pytest.raises(TargetError, match=r"dot products .ARMv8.2 dotprod., which arm has not"):
        check_targets("int8", [arm])
    with pytest.raises(TargetError, match="half-precision arithmetic"):
        check_targets("fp16", [arm])


def test_an_architecture_without_kernels_is_named() -> None:
    with pytest.raises(TargetError) as error:
        check_targets("fp16", [x86()])
    assert "x86_64" in error.value.seen
    assert "aarch64" in error.value.seen
    with pytest.raises(TargetError, match="cannot be built for armv7"):
        check_targets("fp16", [targets.load("armv7")])


def test_one_unfit_target_of_several_is_refused() -> None:
    with pytest.raises(TargetError, match="arm"):
        check_targets("int8", [targets.load("raspberry-pi-5"), targets.load("arm")])


def test_gpus_are_refused() -> None:
    with pytest.raises(TargetError, match="--precision bf16 is for CPUs, and cuda is a GPU"):
        check_targets("bf16", [targets.load("cuda")])


def test_an_unknown_precision_names_the_known_ones() -> None:
    with pytest.raises(UsageError) as error:
        check_targets("fp8", [])
    assert all(name in error.value.do for name in PRECISIONS)


def test_int8_of_a_float_model_says_how_to_quantize() -> None:
    with pytest.raises(UsageError, match=r"needs a quantized model, and net\.onnx computes") as e:
        check_model("int8", "float32", "net.onnx")
    assert "python -m onnxruntime.quantization.static_quantize_runner -i ./net.onnx" in e.value.do
    check_model("int8", "quantized", "net.onnx")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_models_are_left_as_they_are(precision: str) -> None:
    with pytest.raises(UsageError, match="is for float32 models"):
        check_model(precision, "float16", "net.onnx")
    check_model(precision, "float32", "net.onnx")
    check_model("fp32", "float16", "net.onnx")
