from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from tvm import relax
from tvm.relax.backend.cpu_generic import pipeline
from tvm.relax.frontend.onnx import from_onnx

from tvm_iovt.schedules.cpu import lower_for_cpu
from tvm_iovt.schedules.selection import Selector
from tvm_iovt.types import CpuSpec, Decision

AVX512 = CpuSpec(
    arch="x86_64",
    triple="x86_64-linux-gnu",
    mcpu="skylake-avx512",
    cores=2,
    vector_bits=512,
    vector_registers=32,
    l1d_bytes=32 << 10,
    l2_bytes=1 << 20,
)
AVX2 = dataclasses.replace(AVX512, mcpu="haswell", vector_bits=256, vector_registers=16)
SSE = dataclasses.replace(AVX512, mcpu="x86-64-v2", vector_bits=128, vector_registers=16)
NEON64 = CpuSpec(
    arch="aarch64",
    triple="aarch64-linux-gnu",
    mcpu="cortex-a72",
    mattr=("+neon",),
    cores=4,
    vector_bits=128,
    vector_registers=32,
    l1d_bytes=32 << 10,
    l2_bytes=1 << 20,
)
NEON32 = CpuSpec(
    arch="armv7l",
    triple="armv7l-linux-gnueabihf",
    mcpu="cortex-a53",
    mattr=("+neon",),
    cores=4,
    vector_bits=128,
    vector_registers=16,
    l1d_bytes=32 << 10,
    l2_bytes=512 << 10,
)


CPUS = {"avx512": AVX512, "avx2": AVX2, "sse": SSE, "neon64": NEON64, "neon32": NEON32}


def target_of(cpu: CpuSpec) -> Any:
    fields: dict[str, Any] = {"kind": "llvm", "mtriple": cpu.triple, "mcpu": cpu.mcpu}
    if cpu.mattr:
        fields["mattr"] = list(cpu.mattr)
    if cpu.arch == "armv7l":
        fields["mfloat-abi"] = "hard"
    return tvm.target.Target({**fields, "num-cores": cpu.cores})


def host_target() -> Any:
    name = tvm.get_global_func("target.llvm_get_system_cpu")()
    return tvm.target.Target({"kind": "llvm", "mcpu": str(name), "num-cores": 2})


def quick_target() -> Any:
    """This machine, for kernels that are run once: most of the time LLVM optimises them."""
    name = tvm.get_global_func("target.llvm_get_system_cpu")()
    return tvm.target.Target({"kind": "llvm", "mcpu": str(name), "num-cores": 2, "opt-level": 0})


def imported(model: onnx.ModelProto) -> Any:
    return from_onnx(model, keep_params_in_input=False)


def build(mod: Any, target: Any) -> Any:
    passes = pipeline.dataflow_lower_passes(target) + pipeline.finalize_passes(target)
    with target:
        return relax.build(mod, target=target, relax_pipeline=tvm.transform.Sequential(passes))


@dataclass
class Result:
    module: Any
    decisions: tuple[Decision, ...]
    outputs: list[np.ndarray]
    reference: list[np.ndarray]

    @property
    def kernels(self) -> list[str]:
        return sorted(
            v.name_hint
            for v, f in self.module.functions.items()
            if isinstance(f, tvm.tirx.PrimFunc)
        )

    @property
    def templates(self) -> list[str]:
        return sorted(d.reason.split(":")[0] for d in self.decisions)


def _check(
    model: onnx.ModelProto,
    cpu: str = "avx512",
    rtol: float = 1e-4,
    atol: float = 1e-5,
    select: Selector | None = None,
    native: bool = False,
) -> Result:
    rng = np.random.default_rng(0)
    feeds = {
        v.name: rng.standard_normal(
            [d.dim_value for d in v.type.tensor_type.shape.dim], dtype=np.float32
        )
        for v in model.graph.input
    }
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    reference = session.run(None, feeds)
    target = target_of(CPUS[cpu]) if native else quick_target()
    lowered, decisions = lower_for_cpu(imported(model), CPUS[cpu], target, select=select)
    # The numbers are compared below: the kernels need not check shapes as well.
    with tvm.transform.PassContext(config={"tirx.disable_assert": not native}):
        machine = relax.VirtualMachine(build(lowered, target), tvm.cpu())
    result = machine["main"](*(tvm.runtime.tensor(v) for v in feeds.values()))
    outputs = [result] if hasattr(result, "numpy") else list(result)
    arrays = [out.numpy() for out in outputs]
    for ours, theirs in zip(arrays, reference, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)
    return Result(lowered, decisions, arrays, list(reference))


@pytest.fixture(scope="session")
def check() -> Callable[..., Result]:
    """Lower a model for a CPU, run it on the host, compare with ONNX Runtime.

    The instructions are those of the host, with `native` those of the CPU (which it must have).
    """
    return _check


@pytest.fixture(scope="session")
def lower() -> Callable[..., tuple[Any, tuple[Decision, ...]]]:
    """Lower a model for a CPU."""

    def lower(model: onnx.ModelProto, cpu: str) -> tuple[Any, tuple[Decision, ...]]:
        return lower_for_cpu(imported(model), CPUS[cpu], target_of(CPUS[cpu]))

    return lower


@pytest.fixture(scope="session")
def assembly() -> Callable[..., str]:
    """Assembly of a model compiled for a CPU that need not be the host."""

    def assembly(model: onnx.ModelProto, cpu: str) -> str:
        target = target_of(CPUS[cpu])
        lowered, _ = lower_for_cpu(imported(model), CPUS[cpu], target)
        return _llvm_source(build(lowered, target))

    return assembly


def _llvm_source(executable: Any) -> str:
    pending, seen = [executable.mod], ""
    while pending:
        module = pending.pop()
        pending += list(module.imports)
        if module.kind == "llvm":
            seen += str(module.inspect_source("asm"))
    return seen


@pytest.fixture(scope="session")
def host() -> Any:
    """Target of this machine."""
    return host_target()


@pytest.fixture(scope="session", name="build")
def build_fixture() -> Callable[[Any, Any], Any]:
    """Compile a lowered module for a target."""
    return build


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.fixture(scope="session")
def cpus() -> dict[str, CpuSpec]:
    return CPUS
