"""Small real bundles: a convolution with two outputs, compiled by plain TVM for each CPU."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_iovt import bundle
from tvm_iovt.build.link import find_linker
from tvm_iovt.discrepancy import compare
from tvm_iovt.errors import ToolchainError
from tvm_iovt.json_codec import to_json
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
    Tolerance,
)

INPUT = TensorSpec(name="image", shape=(1, 3, 16, 16), dtype="float32")
OUTPUTS = (
    TensorSpec(name="features", shape=(1, 8, 16, 16), dtype="float32"),
    TensorSpec(name="class", shape=(1, 16, 16), dtype="int64"),
)
WEIGHT = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)
ARM = "aarch64"
REFERENCE = "NumPy, float64"
TOLERANCE = Tolerance(rtol=1e-4, atol=1e-5)


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


def compile_network(arch: str, out: Path, *, sorted_output: bool = False) -> None:
    """Compile the network; `sorted_output` adds an operator outside of TVM's core library."""
    from tvm import relax

    image = relax.Var("image", relax.TensorType(INPUT.shape, INPUT.dtype))
    builder = relax.BlockBuilder()
    with builder.function("main", [image]):
        with builder.dataflow():
            conv = builder.emit(relax.op.nn.conv2d(image, relax.const(WEIGHT), padding=1))
            features = builder.emit(relax.op.nn.relu(conv))
            if sorted_output:
                features = builder.emit(relax.op.sort(features, axis=1, descending=False))
            label = builder.emit(relax.op.argmax(features, axis=1))
            result = builder.emit_output(relax.Tuple([features, label]))
        builder.emit_func_output(result)
    _export(builder.get(), arch, out)


def compile_halves(arch: str, first: Path, second: Path) -> None:
    """Compile the convolution and the arg-max into two libraries of a stage each."""
    from tvm import relax

    def network(spec: TensorSpec, emit: Callable[[Any], Any]) -> Any:
        argument = relax.Var(spec.name, relax.TensorType(spec.shape, spec.dtype))
        builder = relax.BlockBuilder()
        with builder.function("main", [argument]):
            with builder.dataflow():
                result = builder.emit_output(emit(argument))
            builder.emit_func_output(result)
        return builder.get()

    def convolution(image: Any) -> Any:
        return relax.op.nn.relu(relax.op.nn.conv2d(image, relax.const(WEIGHT), padding=1))

    _export(network(INPUT, convolution), arch, first)
    _export(network(OUTPUTS[0], lambda features: relax.op.argmax(features, axis=1)), arch, second)


def _export(module: Any, arch: str, out: Path) -> None:
    import tvm
    from tvm import relax

    spec = cpu(arch)
    options = {"kind": "llvm", "mtriple": spec.triple, "mcpu": spec.mcpu}
    executable = relax.build(module, tvm.target.Target(options))
    executable.export_library(str(out), fcompile=find_linker(spec).fcompile())


def write_bundle(destination: Path, libraries: dict[str, Path]) -> Path:
    """A bundle with a deployment for each library, named after its architecture."""
    image = np.random.default_rng(1).standard_normal(INPUT.shape).astype(np.float32)
    outputs = reference(image)
    with bundle.staging(destination, overwrite=True) as folder:
        deployments = []
        for arch, library in libraries.items():
            file = f"stage0.{arch}.so"
            shutil.copyfile(library, folder / file)
            stage = Stage(index=0, target=arch, inputs=(INPUT,), outputs=OUTPUTS)
            deployments.append(
                Deployment(
                    name=arch,
                    targets=(TargetSpec(name=arch, description="generic", cpu=cpu(arch)),),
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
                    discrepancy=compare(outputs, outputs, tolerance=TOLERANCE, reference=REFERENCE),
                )
            )
        sample = bundle.save_sample(folder, {"image": image}, outputs)
        (folder / "report.html").write_text("<!doctype html><title>report</title>\n")
        bundle.save_manifest(folder, manifest(folder, tuple(deployments), sample))
    return destination


def manifest(folder: Path, deployments: tuple[Deployment, ...], sample: FileRecord) -> Manifest:
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
        reference=REFERENCE,
        tolerance=TOLERANCE,
        report=bundle.record(folder, "report.html"),
        operators=(),
        decisions=(),
    )


def edit_manifest(path: Path, edit: Callable[[dict], object]) -> None:
    """Change the manifest's JSON in place."""
    file = path / bundle.MANIFEST
    data = json.loads(file.read_text())
    edit(data)
    file.write_text(json.dumps(data))


@pytest.fixture(scope="session")
def host_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("host") / "network.so"
    compile_network(platform.machine(), out)
    return out


@pytest.fixture(scope="session")
def arm_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        find_linker(cpu(ARM))
    except ToolchainError as error:
        pytest.skip(f"{error.what}: {error.do}")
    out = tmp_path_factory.mktemp("arm") / "network.so"
    compile_network(ARM, out)
    return out


@pytest.fixture
def host_bundle(tmp_path: Path, host_library: Path) -> Path:
    """A bundle for this machine."""
    return write_bundle(tmp_path / "host.iovt", {platform.machine(): host_library})


@pytest.fixture
def two_stage_bundle(host_bundle: Path, tmp_path: Path) -> Path:
    """A bundle for this machine whose network is cut after the convolution."""
    libraries = tmp_path / "stage0.half.so", tmp_path / "stage1.half.so"
    compile_halves(platform.machine(), *libraries)
    records = []
    for library in libraries:
        shutil.move(library, host_bundle / library.name)
        records.append(to_json(bundle.record(host_bundle, library.name)))

    def cut(data: dict) -> None:
        (deployment,) = data["deployments"]
        (stage,), (library,) = deployment["plan"]["stages"], deployment["libraries"]
        features, label = stage["outputs"]
        deployment["plan"]["stages"] = [
            {**stage, "outputs": [features]},
            {**stage, "index": 1, "inputs": [features], "outputs": [label]},
        ]
        # In another order than the stages, which is not what connects them.
        deployment["libraries"] = [
            {**library, "stage": 1, "file": records[1]},
            {**library, "stage": 0, "file": records[0]},
        ]

    edit_manifest(host_bundle, cut)
    return host_bundle


@pytest.fixture(scope="session")
def balanced_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two equal stages for this machine, of several milliseconds each."""
    x, t, y = (TensorSpec(name=name, shape=(192, 192), dtype="float32") for name in "xty")
    weight = np.random.default_rng(2).standard_normal((192, 192)).astype(np.float32) / 14

    def dense(argument: Any, relax: Any) -> Any:
        return relax.op.nn.relu(relax.op.matmul(argument, relax.const(weight)))

    destination = tmp_path_factory.mktemp("balanced") / "balanced.iovt"
    return write_chain(destination, [(x, dense, t), (t, dense, y)])


@pytest.fixture(scope="session")
def view_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for this machine whose network returns its input."""
    x, y = (TensorSpec(name=name, shape=(1, 6, 8), dtype="float32") for name in "xy")
    destination = tmp_path_factory.mktemp("view") / "view.iovt"
    return write_chain(destination, [(x, lambda argument, _: argument, y)])


def write_chain(
    destination: Path, stages: list[tuple[TensorSpec, Callable[[Any, Any], Any], TensorSpec]]
) -> Path:
    """A bundle for this machine of stages that take one tensor and make one."""
    from tvm import relax

    arch = platform.machine()
    with bundle.staging(destination, overwrite=True) as folder:
        libraries, planned = [], []
        for index, (taken, compute, made) in enumerate(stages):
            argument = relax.Var(taken.name, relax.TensorType(taken.shape, taken.dtype))
            builder = relax.BlockBuilder()
            with builder.function("main", [argument]):
                with builder.dataflow():
                    result = builder.emit_output(compute(argument, relax))
                builder.emit_func_output(result)
            file = f"stage{index}.{arch}.so"
            _export(builder.get(), arch, folder / file)
            record = bundle.record(folder, file)
            libraries.append(Library(stage=index, file=record, device="cpu", parameters_bytes=0))
            planned.append(Stage(index=index, target=arch, inputs=(taken,), outputs=(made,)))
        deployment = Deployment(
            name=arch,
            targets=(TargetSpec(name=arch, description="generic", cpu=cpu(arch)),),
            plan=PartitionPlan(stages=tuple(planned), objective="cuts", reason="stated"),
            libraries=tuple(libraries),
            verified="not verified",
        )
        inputs, outputs = (stages[0][0],), (stages[-1][2],)
        image = np.random.default_rng(3).random(inputs[0].shape, np.float32)
        sample = bundle.save_sample(folder, {inputs[0].name: image}, {})
        (folder / "report.html").write_text("<!doctype html><title>report</title>\n")
        found = manifest(folder, (deployment,), sample)
        bundle.save_manifest(folder, dataclasses.replace(found, inputs=inputs, outputs=outputs))
    return destination


@pytest.fixture
def arm_bundle(tmp_path: Path, arm_library: Path) -> Path:
    """A bundle for 64-bit ARM."""
    return write_bundle(tmp_path / "arm.iovt", {ARM: arm_library})


@pytest.fixture
def both_bundle(tmp_path: Path, host_library: Path, arm_library: Path) -> Path:
    """A bundle with a deployment for this machine and one for 64-bit ARM."""
    libraries = {platform.machine(): host_library, ARM: arm_library}
    if len(libraries) == 1:
        pytest.skip("needs a machine that is not 64-bit ARM itself")
    return write_bundle(tmp_path / "both.iovt", libraries)


@dataclass(frozen=True)
class Tiny:
    """The functions above, for tests: they cannot import a conftest."""

    reference = staticmethod(reference)
    compile_network = staticmethod(compile_network)
    compile_halves = staticmethod(compile_halves)
    write_bundle = staticmethod(write_bundle)
    edit_manifest = staticmethod(edit_manifest)
    host = platform.machine()

    @staticmethod
    def image(seed: int = 7) -> np.ndarray:
        return np.random.default_rng(seed).standard_normal(INPUT.shape).astype(np.float32)


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return Tiny()


class FakeDevice:
    """A stage without a device: adds its numbers up, in the time that a test chooses.

    `seconds(action, n)` is how long the n-th receive, compute or send takes; `fail` and `block`
    name an action (`open` and `close`, too) and which call of it; `release` ends the blocking.
    """

    def __init__(
        self,
        name: str,
        inputs: tuple[str, ...],
        output: str,
        *,
        lanes: int = 1,
        seconds: Callable[[str, int], float] = lambda action, n: 0.0,
        fail: tuple[str, int] | None = None,
        block: tuple[str, int] | None = None,
    ) -> None:
        self.name, self.inputs, self.output, self.lanes = name, inputs, output, lanes
        self.seconds, self.fail, self.block = seconds, fail, block
        self.release = threading.Event()
        self.open_lanes = 0
        self.computing = 0
        self.computed_together = 0
        self.calls: dict[str, int] = {}
        self._lock = threading.Lock()

    def act(self, action: str) -> None:
        with self._lock:
            n = self.calls.get(action, 0)
            self.calls[action] = n + 1
        if self.block == (action, n):
            self.release.wait()
        if self.fail == (action, n):
            raise RuntimeError(f"{self.name} broke")
        seconds = self.seconds(action, n)
        if seconds:
            time.sleep(seconds)

    def open_lane(self) -> FakeLane:
        self.act("open")
        self.open_lanes += 1
        return FakeLane(self)

    def stage(self) -> Any:
        from tvm_iovt.runtime.pipeline_stage import PipelineStage

        return PipelineStage(device=self, inputs=self.inputs, outputs=(self.output,))


class FakeLane:
    def __init__(self, device: FakeDevice) -> None:
        self.device = device
        self.thread = threading.get_ident()
        self.values: dict[str, Any] = {}

    def receive(self, values: Any) -> None:
        assert threading.get_ident() == self.thread
        assert set(values) == set(self.device.inputs)
        self.device.act("receive")
        self.values = dict(values)

    def compute(self) -> None:
        assert threading.get_ident() == self.thread
        device = self.device
        device.computing += 1
        device.computed_together = max(device.computed_together, device.computing)
        try:
            device.act("compute")
        finally:
            device.computing -= 1
        total = np.sum([np.asarray(value) for value in self.values.values()], axis=0)
        self.values = {device.output: total + 1}

    def send(self) -> dict[str, Any]:
        self.device.act("send")
        values, self.values = self.values, {}
        return values

    def close(self) -> None:
        assert threading.get_ident() == self.thread
        self.device.open_lanes -= 1
        self.device.act("close")


def fake_chain(*devices: dict[str, Any]) -> list[FakeDevice]:
    """Stages that pass `x` on as `t0`, `t1`, ...; each adds one."""
    names = ["x", *(f"t{i}" for i in range(len(devices)))]
    return [
        FakeDevice(f"stage {i} on fake{i}", (names[i],), names[i + 1], **options)
        for i, options in enumerate(devices)
    ]


@dataclass(frozen=True)
class Fakes:
    """The above, for tests."""

    Device = FakeDevice
    chain = staticmethod(fake_chain)


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()
