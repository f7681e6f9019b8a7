from __future__ import annotations

import importlib.util
import json
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper

from tvm_iovt.tuning import events

ModelFactory = Callable[..., onnx.ModelProto]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run tests marked slow, too")


# The same examples every time, however long one takes on a busy machine.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    # Shells start what runs in the background with interrupts ignored, and its children inherit
    # that: tests of interrupts would wait for ever.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


def _model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str] | None],
    constants: dict[str, np.ndarray] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    return model


@pytest.fixture(scope="session")
def make_model() -> ModelFactory:
    """Nodes, input and output shapes and constants as an ONNX model, float32."""
    return _model


def small_network() -> onnx.ModelProto:
    """Convolution, batch norm, ReLU6, depthwise, residual, pooling, dense: 1x3x16x16 -> 1x10."""
    random = np.random.default_rng(7)

    def weight(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    constants = {
        "w0": weight(24, 3, 3, 3),
        "scale": random.uniform(0.5, 1.5, 24).astype(np.float32),
        "bias": weight(24, 1).reshape(-1),
        "mean": weight(24, 1).reshape(-1) * 0.1,
        "var": random.uniform(0.5, 1.5, 24).astype(np.float32),
        "lo": np.float32(0.0),
        "hi": np.float32(6.0),
        "w1": weight(24, 1, 3, 3),
        "b1": weight(24, 1).reshape(-1),
        "w2": weight(10, 24),
        "b2": weight(10, 1).reshape(-1),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["c0"], "conv0", pads=[1] * 4, strides=[2, 2]),
        helper.make_node(
            "BatchNormalization", ["c0", "scale", "bias", "mean", "var"], ["n0"], "bn"
        ),
        helper.make_node("Clip", ["n0", "lo", "hi"], ["r0"], "clip"),
        helper.make_node("Conv", ["r0", "w1", "b1"], ["c1"], "depthwise", pads=[1] * 4, group=24),
        helper.make_node("Add", ["c1", "r0"], ["a"], "residual"),
        helper.make_node("GlobalAveragePool", ["a"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["scores"], "dense", transB=1),
    ]
    return _model(nodes, {"image": [1, 3, 16, 16]}, {"scores": [1, 10]}, constants)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of a small network with the usual operators."""
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    onnx.save(small_network(), str(path))
    return path


def _tune_run(
    *,
    trials: int = 120,
    resumed: int = 0,
    gained: bool = True,
    failing: float = 0.05,
    bound: bool = True,
    names: tuple[str, ...] = ("conv0", "depthwise", "dense"),
    runners: tuple[str, ...] = ("local",),
    records: str = "records",
) -> list[events.Event]:
    """The events of a tuning run, made up but consistent with each other."""
    random = np.random.default_rng(3)
    weights = [1 + i % 2 for i in range(len(names))]
    templates = [4e-4 / (1 + i) for i in range(len(names))]
    tasks = tuple(
        events.TaskSummary(
            workload=f"{i:016x}",
            name=name,
            weight=weights[i],
            flops=10_000_000,
            moved_bytes=400_000,
            bound_s=templates[i] * 0.6 if bound else 0.0,
        )
        for i, name in enumerate(names)
    )
    told: list[events.Event] = [
        events.RunStarted(
            run="run-1",
            model="small.onnx",
            target="host",
            device="znver4, 8 cores",
            tasks=tasks,
            fixed=2,
            trials_asked=resumed + trials,
            time_asked_s=0.0,
            resumed_trials=resumed,
            runners=runners,
            peak_flops=1e11 if bound else 0.0,
            peak_bytes_per_s=2e10 if bound else 0.0,
        )
    ]
    best: list[float | None] = list(templates) if resumed else [None] * len(names)
    made, valid = [0] * len(names), [0] * len(names)
    for number in range(1, trials + 1):
        task = (number - 1) % len(names)
        first = not resumed and number <= len(names)
        broken = not first and random.random() < failing
        factor = 1.0 if first else random.uniform(0.85 if gained else 1.01, 2.0)
        median_s = None if broken else templates[task] * factor
        made[task] += 1
        valid[task] += not broken
        if median_s is not None:
            best[task] = min(median_s, best[task] or median_s)
        known = [s for s in best if s is not None]
        pairs = list(zip(weights, known, strict=False))
        everything = len(known) == len(names)
        told.append(
            events.TrialDone(
                elapsed_s=number / 6,
                task=names[task],
                number=resumed + number,
                valid=sum(valid),
                source="template" if first else "search",
                median_s=median_s,
                failed="build" if broken else "",
                error=f"LLVM gave up after {number} s" if broken else "",
                runner=runners[number % len(runners)],
                best_s=best[task],
                template_s=templates[task],
                network_s=sum(w * s for w, s in pairs) if everything else None,
                template_network_s=sum(w * s for w, s in zip(weights, templates, strict=True))
                if everything
                else None,
                trials_per_s=6.0,
                eta_s=(trials - number) / 6,
            )
        )
    told.append(events.TaskEnded(task=names[-1], reason="close to the roofline", trials=made[-1]))
    before_s = sum(w * s for w, s in zip(weights, templates, strict=True))
    after_s = sum(w * (s or 0) for w, s in zip(weights, best, strict=True))
    told.append(
        events.TuneOutcome(
            run="run-1",
            records=records,
            tasks=tuple(
                events.TaskOutcome(
                    task=name,
                    weight=weights[i],
                    trials=made[i],
                    valid=valid[i],
                    template_s=templates[i],
                    best_s=best[i],
                    template_network_s=weights[i] * templates[i],
                    chosen_network_s=weights[i] * (best[i] or 0) if gained else None,
                    chosen="search" if gained else "template",
                    reason="faster in the network" if gained else "nothing was faster",
                )
                for i, name in enumerate(names)
            ),
            fixed=2,
            trials_asked=resumed + trials,
            trials_done=resumed + trials,
            trials_valid=resumed + sum(valid),
            complete=True,
            template_network_s=before_s,
            tuned_network_s=after_s if gained else before_s * 1.001,
            noise=0.01,
            elapsed_s=trials / 6 + 4,
            share_search=0.1,
            share_build=0.15,
            share_measure=0.7,
            errors=("LLVM gave up",) if failing else (),
        )
    )
    return told


@pytest.fixture(scope="session")
def tune_run() -> Callable[..., list[events.Event]]:
    """The events of a made-up tuning run."""
    return _tune_run


@pytest.fixture(scope="session")
def arm_root() -> dict[str, str]:
    """Parts of the root that tests/arm_root.py makes: root, python, site, wheels."""
    if not shutil.which("qemu-aarch64-static") and not shutil.which("qemu-aarch64"):
        pytest.skip("needs qemu-user (apt-get install qemu-user-static)")
    if platform.machine() == "aarch64":
        pytest.skip("needs a machine that is not 64-bit ARM itself")
    script = Path(__file__).resolve().parent / "arm_root.py"
    done = subprocess.run(
        [sys.executable, str(script), "--show"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"needs the arm64 root: {done.stderr.strip()}")
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="session")
def staged_bundle() -> ModuleType:
    """The functions of tests/staged_bundle.py: tests cannot import each other's modules."""
    path = Path(__file__).resolve().parent / "staged_bundle.py"
    spec = importlib.util.spec_from_file_location("staged_bundle", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_MACHINE = """
description = "a machine of tests"
machine = "{name}"
memory_bytes = {memory_bytes}

[cpu]
arch = "aarch64"
triple = "aarch64-linux-gnu"
mcpu = "cortex-a53"
mattr = ["+neon"]
features = ["asimd"]
cores = {cores}
vector_bits = 128
vector_registers = 32
l1d_bytes = 32768
l2_bytes = 1048576

[datasheet]
launch_s = 1e-6
"""

_ROOF = """
[[datasheet.roof]]
threads = {threads}
peak_flops = {{ float32 = {flops} }}
bandwidth_bytes_per_s = {bandwidth}
"""


@pytest.fixture
def edge_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets `edge` (one slow core, 1 MB) and `server` (4 cores, each 20 times as fast)."""
    folder = tmp_path / "share" / "targets"
    folder.mkdir(parents=True)
    edge = _MACHINE.format(name="edge", memory_bytes=1_000_000, cores=1)
    edge += _ROOF.format(threads=1, flops=1e9, bandwidth=1e9)
    server = _MACHINE.format(name="server", memory_bytes=0, cores=4)
    for threads in (1, 4):
        server += _ROOF.format(threads=threads, flops=20e9 * threads, bandwidth=20e9)
    (folder / "edge.toml").write_text(edge)
    (folder / "server.toml").write_text(server)
    monkeypatch.setenv("TVM_IOVT_PATH", str(folder.parent))


def funnel_network() -> onnx.ModelProto:
    """Convolutions whose tensors get smaller, 1x3x64x64 -> 1x10; names `a`, `b`, `c`, `dense`."""
    random = np.random.default_rng(11)
    shapes = {"wa": (16, 3, 3, 3), "wb": (32, 16, 3, 3), "wc": (32, 32, 3, 3), "wd": (10, 512)}
    constants = {
        name: (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        for name, shape in shapes.items()
    }
    halved = {"pads": [1] * 4, "strides": [2, 2]}
    nodes = [
        helper.make_node("Conv", ["image", "wa"], ["ya"], "a", pads=[1] * 4, strides=[4, 4]),
        helper.make_node("Relu", ["ya"], ["ra"], "relu_a"),
        helper.make_node("Conv", ["ra", "wb"], ["yb"], "b", **halved),
        helper.make_node("Relu", ["yb"], ["rb"], "relu_b"),
        helper.make_node("Conv", ["rb", "wc"], ["yc"], "c", **halved),
        helper.make_node("Relu", ["yc"], ["rc"], "relu_c"),
        helper.make_node("Flatten", ["rc"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "wd"], ["scores"], "dense", transB=1),
    ]
    return _model(nodes, {"image": [1, 3, 64, 64]}, {"scores": [1, 10]}, constants)


@pytest.fixture(scope="session")
def funnel_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of a small network that may be cut behind any of its convolutions."""
    path = tmp_path_factory.mktemp("funnel") / "funnel.onnx"
    onnx.save(funnel_network(), str(path))
    return path
