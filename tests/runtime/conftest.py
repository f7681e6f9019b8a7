"""Small real bundles: a convolution with two outputs, compiled by plain TVM for each CPU."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tvm_iovt import bundle, resources
from tvm_iovt.discrepancy import compare
from tvm_iovt.runtime import libtvm
from tvm_iovt.types import (
    CpuSpec,
    Deployment,
    FileRecord,
    Library,
    Manifest,
    PartitionPlan,
    Stage,
    TargetSpec,
    TensorSpec,
)

INPUT = TensorSpec(name="image", shape=(1, 3, 16, 16), dtype="float32")
OUTPUTS = (
    TensorSpec(name="features", shape=(1, 8, 16, 16), dtype="float32"),
    TensorSpec(name="class", shape=(1, 16, 16), dtype="int64"),
)
WEIGHT = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)
ARM = "aarch64"


def reference(image: np.ndarray) -> dict[str, np.ndarray]:
    """A 3x3 convolution, ReLU and arg-max over the channels, in float64."""
    padded = np.pad(image.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    features = np.maximum(np.einsum("nchwij,ocij->nohw", windows, WEIGHT), 0)
    return {"features": features.astype(np.float32), "class": features.argmax(axis=1)}


def cpu(arch: str, features: tuple[str, ...] = ()) -> CpuSpec:
    return CpuSpec(
        arch=arch,
        triple=f"{arch}-linux-gnu",
        mcpu="generic" if arch == ARM else "x86-64",
        features=features,
        cores=2,
        vector_bits=128,
        vector_registers=16,
        l1d_bytes=32768,
        l2_bytes=262144,
    )


def target(name: str, arch: str) -> TargetSpec:
    return TargetSpec(name=name, description=f"{arch}, generic", cpu=cpu(arch))


def _compile(spec: TargetSpec, out: Path) -> None:
    import tvm
    from tvm import relax
    from tvm.support import cc

    image = relax.Var("image", relax.TensorType(INPUT.shape, INPUT.dtype))
    builder = relax.BlockBuilder()
    with builder.function("main", [image]):
        with builder.dataflow():
            conv = builder.emit(relax.op.nn.conv2d(image, relax.const(WEIGHT), padding=1))
            features = builder.emit(relax.op.nn.relu(conv))
            label = builder.emit(relax.op.argmax(features, axis=1))
            result = builder.emit_output(relax.Tuple([features, label]))
        builder.emit_func_output(result)
    options = {"kind": "llvm", "mtriple": spec.cpu.triple, "mcpu": spec.cpu.mcpu}
    executable = relax.build(builder.get(), tvm.target.Target(options))
    linker = "g++" if spec.cpu.arch == platform.machine() else f"{spec.cpu.triple}-g++"
    executable.export_library(str(out), fcompile=cc.cross_compiler(linker))


def write_bundle(destination: Path, libraries: dict[str, Path]) -> Path:
    """A bundle with a deployment for each library, named after its architecture."""
    image = np.random.default_rng(1).standard_normal(INPUT.shape).astype(np.float32)
    outputs = reference(image)
    with bundle.staging(destination, overwrite=True) as folder:
        deployments = []
        for arch, library in libraries.items():
            file = f"stage0.{arch}.so"
            shutil.copyfile(library, folder / file)
            stage = Stage(index=0, target=arch, first=0, last=2, inputs=(INPUT,), outputs=OUTPUTS)
            deployments.append(
                Deployment(
                    name=arch,
                    targets=(target(arch, arch),),
                    plan=PartitionPlan(stages=(stage,), objective="latency", reason="one target"),
                    libraries=(
                        Library(
                            stage=0,
                            file=bundle.record(folder, file),
                            device="cpu",
                            parameters_bytes=WEIGHT.nbytes,
                        ),
                    ),
                    verified="on the device",
                    discrepancy=compare(
                        outputs, outputs, rtol=1e-4, atol=1e-5, reference="NumPy, float64"
                    ),
                )
            )
        sample = bundle.save_sample(folder, {"image": image}, outputs)
        (folder / "report.html").write_text("<!doctype html><title>report</title>\n")
        bundle.save_manifest(folder, manifest(folder, tuple(deployments), sample))
    return destination


def manifest(folder: Path, deployments: tuple[Deployment, ...], sample: FileRecord) -> Manifest:
    from importlib.metadata import version

    return Manifest(
        tool_version="0.0.0",
        tvm_version=version("apache-tvm"),
        tvm_ffi_version=version("apache-tvm-ffi"),
        created="2026-01-01T00:00:00Z",
        model_name="tiny",
        model_sha256="0" * 64,
        inputs=(INPUT,),
        outputs=OUTPUTS,
        deployments=deployments,
        sample=sample,
        report=bundle.record(folder, "report.html"),
        operators=(),
        decisions=(),
    )
