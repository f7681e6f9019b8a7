"""A small network that is cut into three stages by hand, for tests of pipelines.

The last stage takes what both others make: a tensor passes the stage in the middle.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tvm_iovt import bundle
from tvm_iovt.build.link import find_linker
from tvm_iovt.discrepancy import compare
from tvm_iovt.types import (
    CpuSpec,
    Deployment,
    Library,
    Manifest,
    PartitionPlan,
    Prediction,
    Preprocess,
    Stage,
    StagePrediction,
    TargetSpec,
    TensorSpec,
    Tolerance,
)

HOST = platform.machine()
SIDE = 16
IMAGE = TensorSpec(name="image", shape=(1, 3, SIDE, SIDE), dtype="float32")
EARLY = TensorSpec(name="early", shape=(1, 8, SIDE, SIDE), dtype="float32")
LATE = TensorSpec(name="late", shape=(1, 8, SIDE, SIDE), dtype="float32")
SUMS = TensorSpec(name="sums", shape=(1, 8), dtype="float32")
_random = np.random.default_rng(0)
FIRST = _random.standard_normal((8, 3, 3, 3)).astype(np.float32)
SECOND = _random.standard_normal((8, 8, 3, 3)).astype(np.float32)
REFERENCE = "NumPy, float64"
TOLERANCE = Tolerance(rtol=1e-4, atol=1e-3)


def reference(image: np.ndarray) -> np.ndarray:
    """The network in float64: two convolutions with ReLU, added and summed over the pixels."""
    early = _convolved(image.astype(np.float64), FIRST)
    late = _convolved(early, SECOND)
    return (early + late).sum(axis=(2, 3)).astype(np.float32)


def _convolved(image: np.ndarray, weight: np.ndarray) -> np.ndarray:
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.maximum(np.einsum("nchwij,ocij->nohw", windows, weight.astype(np.float64)), 0)


Places = Sequence[tuple[str, str]]
"""Name of the target and architecture of each of the three stages."""


def write(
    destination: Path,
    places: Places,
    others: Mapping[str, Places] | None = None,
    predicted_s: Mapping[str, float] | None = None,
) -> Path:
    """Compile the stages and write the bundle.

    Args:
        destination: Where to.
        places: Of the deployment `cut`.
        others: Of further deployments, by their names.
        predicted_s: Seconds of a stage that the plans of deployments predict; none by default.
    """
    random = np.random.default_rng(1)
    image = random.standard_normal(IMAGE.shape).astype(np.float32)
    outputs = {"sums": reference(image)}
    with bundle.staging(destination, overwrite=True) as folder:
        deployments = tuple(
            _deployment(folder, name, chosen, (predicted_s or {}).get(name), outputs)
            for name, chosen in {"cut": places, **(others or {})}.items()
        )
        sample = bundle.save_sample(folder, {"image": image}, outputs)
        (folder / "report.html").write_text("<!doctype html><title>report</title>\n")
        manifest = Manifest(
            tool_version="0.0.0",
            tvm_version=version("apache-tvm"),
            tvm_ffi_version=version("apache-tvm-ffi"),
            created="2026-01-01T00:00:00Z",
            model_name="staged",
            model_sha256="0" * 64,
            inputs=(IMAGE,),
            outputs=(SUMS,),
            deployments=deployments,
            sample=sample,
            reference=REFERENCE,
            tolerance=TOLERANCE,
            report=bundle.record(folder, "report.html"),
            operators=(),
            decisions=(),
            preprocess=Preprocess(
                name="scale", resize=0, mean=(0.0,), std=(255.0,), channels="RGB"
            ),
        )
        bundle.save_manifest(folder, manifest)
    return destination


def _deployment(
    folder: Path, name: str, places: Places, stage_s: float | None, outputs: dict[str, np.ndarray]
) -> Deployment:
    ends = ((IMAGE,), (EARLY,)), ((EARLY,), (LATE,)), ((EARLY, LATE), (SUMS,))
    libraries = []
    for index, (_, arch) in enumerate(places):
        file = f"stage{index}.{name}.so"
        _compile(index, arch, folder / file)
        record = bundle.record(folder, file)
        libraries.append(Library(stage=index, file=record, device="cpu", parameters_bytes=0))
    prediction = None
    if stage_s is not None:
        stages = (StagePrediction(receive_s=0.0, compute_s=stage_s),) * len(places)
        prediction = Prediction(
            latency_s=len(places) * stage_s, period_s=stage_s, stages=stages, source="assumed"
        )
    return Deployment(
        name=name,
        targets=tuple(
            TargetSpec(name=target, description="generic", cpu=_cpu(arch))
            for target, arch in dict(places).items()
        ),
        plan=PartitionPlan(
            stages=tuple(
                Stage(index=i, target=target, inputs=ends[i][0], outputs=ends[i][1], threads=1)
                for i, (target, _) in enumerate(places)
            ),
            objective="cuts",
            reason="cut by hand",
            prediction=prediction,
        ),
        libraries=tuple(libraries),
        verified="on the device",
        discrepancy=compare(outputs, outputs, tolerance=TOLERANCE, reference=REFERENCE),
    )


def _cpu(arch: str) -> CpuSpec:
    return CpuSpec(
        arch=arch,
        triple=f"{arch}-linux-gnu",
        mcpu="generic" if arch == "aarch64" else "x86-64",
        cores=2,
        vector_bits=128,
        vector_registers=16,
        l1d_bytes=32768,
        l2_bytes=262144,
    )


def _compile(index: int, arch: str, out: Path) -> None:
    import tvm
    from tvm import relax

    def convolution(weight: np.ndarray) -> Callable[[Any], Any]:
        return lambda x: relax.op.nn.relu(relax.op.nn.conv2d(x, relax.const(weight), padding=1))

    bodies: tuple[tuple[tuple[TensorSpec, ...], Callable[..., Any]], ...] = (
        ((IMAGE,), convolution(FIRST)),
        ((EARLY,), convolution(SECOND)),
        ((EARLY, LATE), lambda a, b: relax.op.sum(relax.op.add(a, b), axis=[2, 3])),
    )
    specs, body = bodies[index]
    arguments = [relax.Var(s.name, relax.TensorType(s.shape, s.dtype)) for s in specs]
    builder = relax.BlockBuilder()
    with builder.function("main", arguments):
        with builder.dataflow():
            result = builder.emit_output(body(*arguments))
        builder.emit_func_output(result)
    spec = _cpu(arch)
    options = {"kind": "llvm", "mtriple": spec.triple, "mcpu": spec.mcpu}
    executable = relax.build(builder.get(), tvm.target.Target(options))
    executable.export_library(str(out), fcompile=find_linker(spec).fcompile())


def compile_heavy(out: Path, rows: int, columns: int) -> None:
    """A stage `product = vector @ weights` for this machine."""
    import tvm
    from tvm import relax

    weights = np.random.default_rng(2).standard_normal((rows, columns)).astype(np.float32)
    argument = relax.Var("vector", relax.TensorType((1, rows), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [argument]):
        with builder.dataflow():
            result = builder.emit_output(relax.op.matmul(argument, relax.const(weights)))
        builder.emit_func_output(result)
    executable = relax.build(builder.get(), tvm.target.Target("llvm"))
    executable.export_library(str(out), fcompile=find_linker(_cpu(HOST)).fcompile())
