"""What the frontend hands on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_iovt.types import Decision, OpCost, Preprocess, TensorSpec

Arrays = dict[str, npt.NDArray[Any]]
Reference = Callable[[Mapping[str, npt.NDArray[Any]]], Arrays]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A model, imported: static shapes, parameters inside, names as in the model file.

    Attributes:
        name: Name of the model, from its file.
        sha256: Digest of the model file.
        module: Relax `IRModule` with one function `main`, NCHW as imported.
        inputs: What `main` takes, in order.
        outputs: What `main` returns, in order.
        operators: Cost of every operator, empty when the format does not tell shapes.
        decisions: What the frontend changed, and what it left alone.
        reference: Runs the *original* model (shapes fixed, nothing simplified).
        reference_name: The runtime behind `reference`, with its version.
        arithmetic: What limits the precision of the outputs: `float32`, `float16` (half or
            bfloat16 tensors inside) or `quantized` (activations rounded to integers).
        preprocess: How the model wants images, when its file says so.
        labels: Class names, when its file has them.
    """

    name: str
    sha256: str
    module: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: tuple[OpCost, ...]
    decisions: tuple[Decision, ...]
    reference: Reference
    reference_name: str
    arithmetic: str = "float32"
    preprocess: Preprocess | None = None
    labels: tuple[str, ...] = ()


def sample_inputs(inputs: tuple[TensorSpec, ...], *, seed: int = 0) -> Arrays:
    """Reproducible inputs for a check: standard normal floats, the full range of 8-bit integers.

    Wider integers are usually indices, so they stay at 0 and 1, which any table has.
    """
    generator = np.random.default_rng(seed)
    arrays: Arrays = {}
    for spec in inputs:
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            arrays[spec.name] = generator.standard_normal(spec.shape).astype(dtype)
        elif dtype.itemsize == 1 and dtype.kind in "iu":
            limits = np.iinfo(dtype)
            arrays[spec.name] = generator.integers(
                limits.min, limits.max, spec.shape, dtype=dtype, endpoint=True
            )
        else:
            arrays[spec.name] = generator.integers(0, 2, spec.shape).astype(dtype)
    return arrays
