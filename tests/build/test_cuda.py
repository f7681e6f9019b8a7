from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tvm_iovt.build import cuda, cuda_compiler, cuda_driver
from tvm_iovt.build.cuda import check_embedded, compiling_for, embedded_archs, find_compiler
from tvm_iovt.build.cuda_compiler import CudaCompiler
from tvm_iovt.build.elf import ImportedSymbol, imported_symbols
from tvm_iovt.build.link import elf_machine, find_linker, host_arch
from tvm_iovt.errors import TargetError, ToolchainError, UsageError
from tvm_iovt.types import CpuSpec

tvm = pytest.importorskip("tvm")

KERNEL = 'extern "C" __global__ void twice(float* x) { x[threadIdx.x] *= 2.0f; }\n'
ROOT = Path(__file__).parents[2]


def installed(kind: str) -> CudaCompiler:
    for compiler in cuda.compilers():
        if compiler.kind == kind:
            return compiler
    state = cuda_compiler.nvrtc_state() if kind == "nvrtc" else "no nvcc"
    pytest.skip(f"{kind} is not installed ({state})")


@pytest.fixture(scope="module")
def stub_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def cuda_target(arch: str, host: CpuSpec) -> Any:
    return tvm.target.Target(
        {
            "kind": "cuda",
            "arch": arch,
            "max_threads_per_block": 1024,
            "max_shared_memory_per_block": 49152,
            "thread_warp_size": 32,
            "host": {"kind": "llvm", "mtriple": host.triple},
        }
    )


def host_cpu() -> CpuSpec:
    """The first of aarch64 and this machine that can be linked for."""
    for arch in ("aarch64", host_arch()):
        cpu = CpuSpec(
            arch=arch,
            triple=f"{arch}-linux-gnu",
            mcpu="generic",
            cores=1,
            vector_bits=128,
            vector_registers=32,
            l1d_bytes=32768,
            l2_bytes=262144,
        )
        try:
            find_linker(cpu)
        except ToolchainError:
            continue
        return cpu
    pytest.skip("no linker")


def tiny_network() -> Any:
    """A transpose and, after it, operators for each of the schedule rules."""
    import numpy as np
    from tvm import relax

    random = np.random.default_rng(0)

    def constant(*shape: int) -> Any:
        return relax.const(random.normal(size=shape).astype("float32"), "float32")

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 12, 12, 3), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit(relax.op.permute_dims(x, [0, 3, 1, 2]))
            y = builder.emit(relax.op.nn.conv2d(y, constant(8, 3, 3, 3), padding=1))
            y = builder.emit(relax.op.add(y, constant(1, 8, 1, 1)))
            y = builder.emit(relax.op.clip(y, 0, 6))
            y = builder.emit(relax.op.nn.conv2d(y, constant(8, 1, 3, 3), groups=8))
            y = builder.emit(relax.op.mean(y, [2, 3]))
            y = builder.emit(relax.op.matmul(y, constant(8, 5)))
            y = builder.emit(relax.op.nn.softmax(y))
            result = builder.emit_output(y)
        builder.emit_func_output(result)
    return builder.get()


def build(arch: str, kind: str, output: Path) -> Path:
    from tvm import relax
    from tvm.relax.backend.cuda import pipeline as stock

    from tvm_iovt.build.cuda_pipeline import lower_for_cuda

    cpu = host_cpu()
    target = cuda_target(arch, cpu)
    with compiling_for(arch, prefer=kind), target:
        lowered, _ = lower_for_cuda(tiny_network(), target)
        vm_passes = tvm.transform.Sequential(
            [*stock.dataflow_lower_passes(target), *stock.finalize_passes(target)]
        )
        executable = relax.build(lowered, target=target, relax_pipeline=vm_passes)
    executable.export_library(str(output), fcompile=find_linker(cpu).fcompile())
    assert elf_machine(output) == cpu.arch
    return output


@pytest.mark.parametrize("kind", ["nvcc", "nvrtc"])
def test_library_carries_machine_code_for_the_named_architecture(kind: str, tmp_path: Path) -> None:
    installed(kind)
    library = build("sm_87", kind, tmp_path / "net.so")
    check_embedded(library, "sm_87")
    assert embedded_archs(library.read_bytes()) == ("sm_87",)
    with pytest.raises(ToolchainError, match="sm_87 instead of sm_90"):
        check_embedded(library, "sm_90")


@pytest.mark.parametrize("arch", ["sm_87", "sm_90", "sm_90a"])
@pytest.mark.parametrize("kind", ["nvcc", "nvrtc"])
def test_compilers_write_cubins(kind: str, arch: str) -> None:
    cubin = installed(kind).compile(KERNEL, arch)
    assert embedded_archs(b"\0" * 5 + cubin + b"\0" * 5) == (arch,)
    assert b"twice" in cubin


@pytest.mark.parametrize("kind", ["nvcc", "nvrtc"])
def test_half_precision_infinity_and_sized_integers(kind: str) -> None:
    compiler = installed(kind)
    source = (
        "#ifdef __CUDACC_RTC__\n#include <cuda/std/cstdint>\nusing cuda::std::int64_t;\n"
        "#else\n#include <cstdint>\n#endif\n#include <cuda_fp16.h>\n"
        'extern "C" __global__ void f(half* x, int64_t n)'
        " { x[n] = __float2half(-INFINITY) + x[n] * x[n + 1]; }\n"
    )
    assert embedded_archs(compiler.compile(source, "sm_87")) == ("sm_87",)


@pytest.mark.parametrize("kind", ["nvcc", "nvrtc"])
def test_division_is_exact_because_fast_math_is_off(kind: str) -> None:
    compiler = installed(kind)
    source = 'extern "C" __global__ void f(float* x) { x[0] = x[1] / x[2]; }\n'
    # The slow path of an IEEE division is a subroutine, which fast math does away with.
    assert b"div_rn" in compiler.compile(source, "sm_87")


@pytest.mark.parametrize("kind", ["nvcc", "nvrtc"])
def test_compiler_messages_are_passed_on(kind: str) -> None:
    compiler = installed(kind)
    with pytest.raises(ToolchainError, match="no_such_function"):
        compiler.compile("__global__ void f() { no_such_function(); }", "sm_87")
    with pytest.raises(ToolchainError, match="87a"):
        compiler.compile(KERNEL, "sm_87a")


def test_unsupported_architecture_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    new = CudaCompiler("nvcc", (13, 0), ("sm_75", "sm_87"), "/opt/cuda/bin/nvcc")
    monkeypatch.setattr(cuda_compiler, "compilers", lambda: (new,))
    with pytest.raises(ToolchainError) as caught:
        find_compiler("sm_53")
    message = str(caught.value)
    assert "nvcc 13.0 (/opt/cuda/bin/nvcc) knows sm_75, sm_87" in message
    assert "CUDA 13 dropped" in message
    with pytest.raises(ToolchainError, match="cannot compile for sm_53"):
        new.compile(KERNEL, "sm_53")


def test_the_compiler_that_knows_the_architecture_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    new = CudaCompiler("nvcc", (13, 0), ("sm_75", "sm_87"), "/opt/cuda/bin/nvcc")
    old = CudaCompiler("nvrtc", (12, 9), ("sm_53", "sm_87"))
    monkeypatch.setattr(cuda_compiler, "compilers", lambda: (new, old))
    assert find_compiler("sm_87") is new
    assert find_compiler("sm_53") is old
    assert find_compiler("sm_87", prefer="nvrtc") is old
    assert find_compiler() is new


def test_no_compiler_names_both_ways_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(cuda_compiler, "_nvcc_path", lambda: "")
    monkeypatch.setattr(cuda_compiler, "_nvrtc_compiler", lambda: None)
    with pytest.raises(ToolchainError) as caught:
        find_compiler("sm_87")
    assert 'pip install "tvm-iovt[cuda]"' in str(caught.value)
    assert "CUDA toolkit" in str(caught.value)
    with pytest.raises(UsageError):
        find_compiler("sm_87", prefer="clang")


def test_nvcc_is_found_in_cuda_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert cuda_compiler._nvcc_path() == str(nvcc)


@pytest.mark.parametrize("body", ["echo broken; exit 1", "echo release 12.9"])
def test_nvcc_that_does_not_answer_is_none(body: str, tmp_path: Path) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(f"#!/bin/sh\n{body}\n")
    nvcc.chmod(0o755)
    assert cuda_compiler._nvcc_compiler(str(nvcc)) is None
    assert cuda_compiler._nvcc_compiler(str(tmp_path / "gone")) is None


@pytest.mark.parametrize("arch", ["", "87", "sm_", "sm_xx", "compute_87", "sm_87b", "native"])
def test_architecture_is_never_guessed(arch: str) -> None:
    with pytest.raises(TargetError, match="architecture of its GPU"), compiling_for(arch):
        pytest.fail("the context must not be entered")


def test_everything_is_put_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import tvm_ffi

    path = str(tmp_path / "bin" / "nvcc")
    compiler = CudaCompiler("nvcc", (12, 9), ("sm_87",), path)
    monkeypatch.setattr(cuda, "find_compiler", lambda arch, prefer="": compiler)
    monkeypatch.setattr(cuda, "enable_codegen", lambda: "stub")
    monkeypatch.setenv("TVM_CUDA_COMPILE_MODE", "mine")
    monkeypatch.delenv("TVM_CUDA_NVCC_NO_FAST_MATH", raising=False)
    callback = "tvm_callback_cuda_compile"
    calls: list[str] = []
    original = tvm_ffi.get_global_func(callback)
    tvm_ffi.register_global_func(callback, lambda code: calls.append(code), override=True)
    try:
        before = dict(os.environ)
        with pytest.raises(KeyError), compiling_for("sm_87") as chosen:
            assert chosen is compiler
            assert os.environ["TVM_CUDA_COMPILE_MODE"] == "nvcc"
            assert os.environ["TVM_CUDA_NVCC_NO_FAST_MATH"] == "1"
            assert os.environ["PATH"].startswith(str(tmp_path / "bin") + os.pathsep)
            raise KeyError
        assert dict(os.environ) == before
        tvm_ffi.get_global_func(callback)("seen by the old callback")
        assert calls == ["seen by the old callback"]
    finally:
        tvm_ffi.register_global_func(callback, original, override=True)


def test_compiler_failure_keeps_its_class_through_tvm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'ptxas fatal: out of luck' >&2\nexit 3\n")
    nvcc.chmod(0o755)
    broken = CudaCompiler("nvcc", (12, 9), ("sm_87",), str(nvcc))
    monkeypatch.setattr(cuda, "find_compiler", lambda arch, prefer="": broken)
    with pytest.raises(ToolchainError) as caught:
        build("sm_87", "nvcc", tmp_path / "net.so")
    assert "out of luck" in str(caught.value)
    assert f"command: {nvcc}" in str(caught.value)


def cubin(arch: int, abi: int, flags: int = 0) -> bytes:
    header = bytearray(64)
    header[:9] = b"\x7fELF\x02\x01\x01" + bytes([65 if abi >= 8 else 51, abi])
    struct.pack_into("<H", header, 18, 190)
    struct.pack_into("<I", header, 48, (arch << 8 | flags) if abi >= 8 else (arch | flags))
    return bytes(header)


def fatbin(entries: list[tuple[int, int, bytes]]) -> bytes:
    body = b""
    for kind, arch, code in entries:
        header = bytearray(64)
        struct.pack_into("<HHIQ", header, 0, kind, 0x101, 64, len(code))
        struct.pack_into("<I", header, 28, arch)
        body += bytes(header) + code
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


@pytest.mark.parametrize(
    ("data", "archs"),
    [
        (cubin(87, abi=7, flags=0x570500), ("sm_87",)),
        (cubin(87, abi=8, flags=0x6000004), ("sm_87",)),
        (cubin(90, abi=7, flags=0x5A0D00), ("sm_90a",)),
        (cubin(100, abi=8, flags=0x600000A), ("sm_100a",)),
        (cubin(87, abi=7) + bytes(7) + cubin(90, abi=8), ("sm_87", "sm_90")),
        (fatbin([(2, 87, b"(\xb5/\xfd compressed")]), ("sm_87",)),
        (fatbin([(2, 87, cubin(87, abi=7))]), ("sm_87",)),
        # PTX is not machine code.
        (fatbin([(1, 87, b".version 8.0")]), ()),
        (b"\x7fELF\x02\x01" + bytes(12) + b"\x3e\x00" + bytes(44), ()),
        # Cut short, or only the magic bytes by chance.
        (b"\x50\xed\x55\xba", ()),
        (fatbin([(2, 87, b"x" * 100)])[:40], ()),
        (b"\x7fELF", ()),
    ],
)
def test_embedded_archs(data: bytes, archs: tuple[str, ...]) -> None:
    assert embedded_archs(b"weights" + data + b"weights") == archs


def test_source_fallback_is_refused(tmp_path: Path) -> None:
    library = tmp_path / "net.so"
    library.write_bytes(cubin(87, abi=7) + b"#ifdef __CUDACC_RTC__\n")
    with pytest.raises(ToolchainError, match="source instead of machine code"):
        check_embedded(library, "sm_87")
    library.write_bytes(b"nothing at all")
    with pytest.raises(ToolchainError, match="no CUDA machine code"):
        check_embedded(library, "sm_87")


def test_one_architecture_only(tmp_path: Path) -> None:
    library = tmp_path / "net.so"
    library.write_bytes(cubin(87, abi=7) + cubin(90, abi=7))
    with pytest.raises(ToolchainError, match="sm_87, sm_90 instead of sm_87"):
        check_embedded(library, "sm_87")


def test_stub_functions_answer_no_device(monkeypatch: pytest.MonkeyPatch, stub_cache: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(stub_cache))
    symbols = [ImportedSymbol("cuLaunchKernel"), ImportedSymbol("cuGetErrorName")]
    stub = cuda_driver.build_stub("libcuda.so.1", symbols)
    assert stub.name == "libcuda.so.1"
    assert elf_machine(stub) == host_arch()
    library = ctypes.CDLL(str(stub))
    assert library.cuLaunchKernel() == library.cuInit() == 100
    text = ctypes.c_char_p()
    assert library.cuGetErrorName(100, ctypes.byref(text)) == 0
    assert text.value and b"no CUDA device" in text.value
    written = stub.stat().st_mtime_ns
    assert cuda_driver.build_stub("libcuda.so.1", symbols) == stub
    assert stub.stat().st_mtime_ns == written
    assert [p.name for p in stub.parent.iterdir()] == ["libcuda.so.1"]


def test_stub_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ToolchainError, match="XDG_CACHE_HOME"):
        cuda_driver.build_stub("libcuda.so.1", [])


def test_imported_symbols_of_the_cuda_runtime_library() -> None:
    symbols = imported_symbols(cuda_driver._runtime_library())
    driver = {s.name for s in symbols if s.name.startswith("cu") and not s.library}
    assert "cuModuleLoadData" in driver
    assert not any(name.startswith("cuda") for name in driver)
    versions = {s.version for s in symbols if s.name == "cudaMalloc"}
    assert len(versions) == 1 and versions.pop().startswith("libcudart.so.")


@pytest.mark.parametrize("first", ["tvm", "codegen"])
def test_codegen_without_driver_in_a_fresh_process(first: str, stub_cache: Path) -> None:
    program = f"""
import ctypes
from tvm_iovt.build import cuda_driver
{"import tvm" if first == "tvm" else ""}
cuda_driver._loadable = cuda_driver._load_from_pip = lambda soname: False
assert cuda_driver.enable_codegen() == cuda_driver.enable_codegen() == "stub"
import tvm, tvm_ffi
assert tvm_ffi.get_global_func("device_api.cuda") is not None
assert not tvm.cuda(0).exist
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(stub_cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "version information" not in done.stderr


def test_real_driver_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "_loadable", lambda soname: True)
    monkeypatch.setattr(cuda_driver, "build_stub", lambda *_: pytest.fail("built a stub"))
    monkeypatch.setattr(cuda_driver, "_load", lambda path: None)
    import tvm_ffi

    monkeypatch.setattr(tvm_ffi, "get_global_func", lambda name, allow_missing: object())
    assert cuda_driver.enable_codegen.__wrapped__() == "driver"


def test_unbound_kernels_are_named() -> None:
    from tvm import te

    from tvm_iovt.build.cuda_pipeline import lower_for_cuda, unbound_kernels

    x = te.placeholder((16,), name="x")
    serial = te.create_prim_func([x, te.compute((16,), lambda i: x[i] + 1, name="y")])
    module = tvm.IRModule({"plus_one": serial})
    assert unbound_kernels(module) == ("plus_one",)
    target = cuda_target("sm_87", host_cpu())
    with target:
        lowered, _ = lower_for_cuda(tiny_network(), target)
    kernels = [f for f in lowered.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]
    assert len(kernels) >= 4
    assert unbound_kernels(lowered) == ()


def test_nvcc_on_path_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = installed("nvcc")
    found = shutil.which("nvcc")
    if found:
        assert compiler.path == found
    assert find_compiler("sm_87").kind == "nvcc"


def test_kernels_compute_what_cpu_code_computes(tmp_path: Path) -> None:
    # No GPU needed: the kernels run as C++ on an emulated one, under TVM's own CUDA runtime.
    if not (shutil.which("gcc") and shutil.which("g++")):
        pytest.skip("gcc and g++ are not installed")
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "cuda_emulator" / "compare.py", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
