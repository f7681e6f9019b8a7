"""What every contestant gets: one ONNX file of static shapes, and one set of inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvm_iovt.frontend.network import sample_inputs
from tvm_iovt.frontend.onnx_model import graph_inputs, load_onnx, tensor_spec
from tvm_iovt.frontend.shapes import fix_shapes
from tvm_iovt.types import TensorSpec

NETWORKS_CACHE = "networks"
"""Folder of the user's cache for networks to measure when none are named."""


@dataclass(frozen=True)
class Problem:
    """A network to measure.

    Attributes:
        name: File name of the network without its ending.
        folder: For everything that is made of it.
        model: ONNX file of static shapes.
        inputs_file: Arrays in the order of `inputs`, as `.npz`.
        inputs: What the network takes.
        output_names: What it returns, in order.
    """

    name: str
    folder: Path
    model: Path
    inputs_file: Path
    inputs: tuple[TensorSpec, ...]
    output_names: tuple[str, ...]


def prepare(path: Path, shapes: Mapping[str, tuple[int, ...]], work: Path) -> Problem:
    """Write the network with fixed shapes, and its inputs, into a folder named by their content.

    Raises:
        ModelError: The model cannot be read, or an input has no static shape.
    """
    model = fix_shapes(load_onnx(path), shapes)
    content = model.SerializeToString()
    folder = work / f"{path.stem}-{hashlib.sha256(content).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    inputs = tuple(map(tensor_spec, graph_inputs(model)))
    problem = Problem(
        name=path.stem,
        folder=folder,
        model=folder / f"{path.stem}.onnx",
        inputs_file=folder / "inputs.npz",
        inputs=inputs,
        output_names=tuple(output.name for output in model.graph.output),
    )
    problem.model.write_bytes(content)
    np.savez(problem.inputs_file, *sample_inputs(inputs).values())
    return problem
