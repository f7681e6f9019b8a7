"""The ARM code of the templates, run under qemu-user: what x86 hosts cannot see of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tvm_iovt import targets
from tvm_iovt.build.elf import elf_machine
from tvm_iovt.build.link import find_linker
from tvm_iovt.compiler import CompileOptions, compile_model
from tvm_iovt.errors import ToolchainError
from tvm_iovt.runtime.emulate import find_emulator


@pytest.fixture
def network(make_model: Callable[..., onnx.ModelProto], tmp_path: Path) -> Path:
    """File of a network with one convolution of each kind, channels that no vector divides."""
    rng = np.random.default_rng(12)

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    weights = {
        "stem": weight(24, 3, 3, 3),
        "dense": weight(42, 24, 3, 3),
        "deep": weight(42, 1, 3, 3),
        "point": weight(30, 42, 1, 1),
        "grouped": weight(30, 6, 3, 3),
        "bias": weight(42, 1).reshape(-1),
        "fc": weight(30, 10),
    }
    padded = {"pads": [1] * 4}
    nodes = [
        helper.make_node("Conv", ["x", "stem"], ["a"], **padded, strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "dense", "bias"], ["c"], **padded),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "deep", "bias"], ["e"], **padded, group=42),
        helper.make_node("Relu", ["e"], ["f"]),
        helper.make_node("Conv", ["f", "point"], ["g"]),
        helper.make_node("HardSwish", ["g"], ["h"]),
        helper.make_node("Conv", ["h", "grouped"], ["i"], **padded, group=5),
        helper.make_node("Add", ["i", "h"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["j"]),
        helper.make_node("Flatten", ["j"], ["k"]),
        helper.make_node("MatMul", ["k", "fc"], ["y"]),
    ]
    path = tmp_path / "kinds.onnx"
    model = make_model(nodes, {"x": [1, 3, 54, 38]}, {"y": None, "r": None}, weights)
    onnx.save(model, str(path))
    return path


def _needs_linker(target: str) -> None:
    try:
        find_linker(targets.load(target).cpu)
    except ToolchainError as error:
        pytest.skip(f"{error.what}; {error.do}")


@pytest.mark.arm
def test_every_kind_of_convolution_is_right_on_arm(network: Path, tmp_path: Path) -> None:
    _needs_linker("arm")
    options = CompileOptions(targets="arm", output=tmp_path / "arm.iovt", emulate=True)
    try:
        find_emulator("aarch64")
        done = compile_model(network, options)
    except ToolchainError as error:
        if "Linking" in error.what:
            raise
        pytest.skip(f"{error.what}; {error.do}")
    (deployment,) = done.manifest.deployments
    assert deployment.verified.startswith("under qemu-aarch64")
    assert deployment.discrepancy is not None and deployment.discrepancy.passed
    kernels = [d for d in done.manifest.decisions if d.transform == "ScheduleForCpu"]
    kinds = [kernel.reason.partition(":")[0] for kernel in kernels]
    assert "winograd" in kinds and "window" in kinds and kinds.count("contraction") >= 3
    # The first convolution pads for the Winograd one, and that for the depthwise one.
    assert sum("bordered" in kernel.subject for kernel in kernels) == 2


def test_every_kind_of_convolution_links_for_32_bit_arm(network: Path, tmp_path: Path) -> None:
    _needs_linker("armv7")
    done = compile_model(network, CompileOptions(targets="armv7", output=tmp_path / "arm.iovt"))
    (library,) = done.path.glob("*.so")
    assert elf_machine(library) == "armv7l"
