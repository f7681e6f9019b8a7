"""Latency of exported networks in our own host build; set TVM_NUM_THREADS before importing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tvm_iovt
from tvm_iovt.frontend.network import sample_inputs
from tvm_iovt.nn.export import export_onnx

Shape = tuple[int, ...]


def build(model: Any, input_shape: Shape, bundle: Path, *, fuse: str) -> Path:
    """Exports a torch model with its batch norms folded, compiles it and returns the bundle.

    `fuse="never"` leaves parallel branches apart; the build is verified against ONNX Runtime.
    """
    source = bundle.with_suffix(".onnx")
    export_onnx(model, source, input_shape, training_form=False)
    tvm_iovt.compile(source, output=bundle, overwrite=True, fuse=fuse)
    return bundle


def measure(
    bundles: Mapping[str, Path], *, rounds: int, repeat: int
) -> dict[str, dict[str, float]]:
    """Seconds that the device takes for one inference, inputs and outputs staying on it.

    The networks take turns, so that a slow moment of the machine hits all of them. Each number is
    over the medians of the rounds: their median, lowest and highest.
    """
    executors = {name: tvm_iovt.load(bundle) for name, bundle in bundles.items()}
    inputs = {name: sample_inputs(executor.inputs) for name, executor in executors.items()}
    medians_s: dict[str, list[float]] = {name: [] for name in bundles}
    for _ in range(rounds):
        for name, executor in executors.items():
            device, _ = executor.benchmark(inputs[name], warmup=5, repeat=repeat)
            medians_s[name].append(device.median_s)
    return {
        name: {"median_s": statistics.median(times), "least_s": min(times), "most_s": max(times)}
        for name, times in medians_s.items()
    }
