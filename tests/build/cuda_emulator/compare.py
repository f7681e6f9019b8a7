"""Run a network's CUDA kernels on the emulated GPU and compare with TVM's CPU code.

usage: python compare.py FOLDER     FOLDER gets the compiled emulator and kernels
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FOLDER = Path(sys.argv[1])
sys.path.insert(0, str(HERE.parents[2]))

from tvm_iovt.build import cuda_driver  # noqa: E402
from tvm_iovt.build.elf import imported_symbols  # noqa: E402


def compile_library(sources: list[Path], output: Path, *options: str) -> Path:
    command = ["g++" if sources[0].suffix == ".cc" else "gcc", "-w", "-O1", "-shared", "-fPIC"]
    subprocess.run([*command, *options, "-o", output, *sources], check=True)
    return output


def load_emulated_gpu() -> None:
    symbols = imported_symbols(cuda_driver._runtime_library())
    runtime = next(s.library for s in symbols if s.name == "cudaMalloc")
    script = FOLDER / "versions.map"
    script.write_text(f"{runtime} {{ global: *; }};\n")
    for source, soname, options in (
        ("runtime.c", runtime, [f"-Wl,--version-script={script}"]),
        ("driver.c", cuda_driver.DRIVER, []),
    ):
        flags = [f"-Wl,-soname,{soname}", *options]
        ctypes.CDLL(str(compile_library([HERE / source], FOLDER / soname, *flags)))


def compile_kernels(source: str) -> bytearray:
    body = source[source.index('extern "C" __global__') :]
    body = re.sub(r"__shared__ (alignas\(\d+\))", r"\1 static", body)
    declaration = r'extern "C" __global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(([^)]*)\);'
    entries = []
    for name, parameters in re.findall(declaration, body):
        types = [
            p.replace("__restrict__", "").strip().rsplit(" ", 1)[0] for p in parameters.split(",")
        ]
        values = ", ".join(f"*({kind}*)values[{i}]" for i, kind in enumerate(types))
        entries.append(f'extern "C" void {name}__emulated(void** values) {{ {name}({values}); }}')
    written = FOLDER / "kernels.cc"
    written.write_text("\n".join([f'#include "{HERE / "device.h"}"', body, *entries]))
    library = compile_library([written], FOLDER / "kernels.so", "-std=c++17", "-ffp-contract=off")
    return bytearray(b"\x7fEMU" + str(library).encode() + b"\0")


load_emulated_gpu()

import numpy as np  # noqa: E402
import tvm  # noqa: E402
import tvm_ffi  # noqa: E402
from tvm import relax  # noqa: E402
from tvm.relax.backend.cuda import pipeline as stock  # noqa: E402

from tvm_iovt.build.cuda_pipeline import lower_for_cuda  # noqa: E402

SHAPE = (1, 11, 13, 3)


def network() -> Any:
    random = np.random.default_rng(0)

    def constant(*shape: int) -> Any:
        return relax.const(random.normal(size=shape).astype("float32"), "float32")

    op = relax.op
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(SHAPE, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit(op.permute_dims(x, [0, 3, 1, 2]))
            y = builder.emit(op.nn.conv2d(y, constant(20, 3, 3, 3), padding=1, strides=2))
            y = builder.emit(op.clip(op.add(y, constant(1, 20, 1, 1)), 0, 6))
            z = builder.emit(op.nn.conv2d(y, constant(20, 1, 3, 3), padding=1, groups=20))
            z = builder.emit(op.nn.conv2d(z, constant(20, 20, 1, 1)))
            y = builder.emit(op.nn.max_pool2d(op.add(y, z), (3, 3), padding=1))
            y = builder.emit(op.concat([y, op.nn.relu(y)], axis=1))
            image = builder.emit(op.image.resize2d(y, (9, 8), layout="NCHW"))
            y = builder.emit(op.mean(op.sigmoid(y), [2, 3]))
            y = builder.emit(op.nn.softmax(op.matmul(y, constant(40, 7))))
            outputs = builder.emit_output(relax.Tuple([y, image]))
        builder.emit_func_output(outputs)
    return builder.get()


def run(executable: Any, device: Any, x: Any) -> list[Any]:
    machine = relax.VirtualMachine(executable, device)
    return [y.numpy() for y in machine["main"](tvm.runtime.tensor(x, device))]


def main() -> None:
    assert tvm.cuda(0).exist
    tvm_ffi.register_global_func("tvm_callback_cuda_compile", compile_kernels, override=True)
    target = tvm.target.Target(
        {
            "kind": "cuda",
            "arch": "sm_87",
            "max_threads_per_block": 1024,
            "max_shared_memory_per_block": 49152,
            "thread_warp_size": 32,
            "host": {"kind": "llvm"},
        }
    )
    vm_passes = tvm.transform.Sequential(
        [*stock.dataflow_lower_passes(target), *stock.finalize_passes(target)]
    )
    with target:
        executable = relax.build(
            lower_for_cuda(network(), target)[0], target, relax_pipeline=vm_passes
        )
    x = np.random.default_rng(1).normal(size=SHAPE).astype("float32")
    found = run(executable, tvm.cuda(0), x)
    expected = run(tvm.compile(network(), tvm.target.Target("llvm")), tvm.cpu(), x)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    main()
