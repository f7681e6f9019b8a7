"""The machine code of the kernels: accumulators stay in registers, on every instruction set.

A tile that does not fit the registers, or a multiply-add that the code generator takes apart, costs
half of the speed and no test of numbers notices.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from tvm.relax.frontend.onnx import from_onnx

from tests.schedules.machine_code import Instruction, Loop, hot_loops
from tvm_iovt import targets
from tvm_iovt.build.link import find_linker
from tvm_iovt.build.stage import build_stage
from tvm_iovt.errors import ToolchainError
from tvm_iovt.schedules.convolution import Conv2d
from tvm_iovt.schedules.selection import predict
from tvm_iovt.schedules.tiles import Tile, ceil_div, contraction_tile, window_cols
from tvm_iovt.schedules.winograd import WinogradPlan
from tvm_iovt.schedules.winograd_plan import ranked_plans
from tvm_iovt.schedules.winograd_transform import axis
from tvm_iovt.types import CpuSpec, TargetSpec

MACHINES = ("arm", "armv7", "avx2", "avx512")
"""Two targets as shipped; two kinds of the x86 host."""

FULL_VECTORS = {4: r"v\d+\.4s,|q\d+,", 8: r"ymm\d+,", 16: r"zmm\d+,"}
"""How the destination of an instruction on that many lanes is written."""

Layer = Callable[[], onnx.ModelProto]


@pytest.fixture(scope="session")
def layer(make_model) -> Callable[..., onnx.ModelProto]:
    """A convolution with bias and ReLU."""

    def layer(
        in_channels: int, out_channels: int, size: int, kernel: int, **attributes: Any
    ) -> onnx.ModelProto:
        rng = np.random.default_rng(3)
        shape = (out_channels, in_channels // attributes.get("group", 1), kernel, kernel)
        weights = {
            "w": (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32),
            "b": rng.standard_normal(out_channels, dtype=np.float32),
        }
        nodes = [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[kernel // 2] * 4, **attributes),
            helper.make_node("Relu", ["c"], ["y"]),
        ]
        return make_model(nodes, {"x": [1, in_channels, size, size]}, {"y": None}, weights)

    return layer


@dataclasses.dataclass(frozen=True)
class Built:
    """The loops of a library, and the kernels that were chosen for its convolutions."""

    loops: tuple[Loop, ...]
    kernels: list[Tile | WinogradPlan]

    @property
    def text(self) -> str:
        return "\n\n".join(map(str, self.loops))


Select = Callable[[Conv2d, CpuSpec], Tile | WinogradPlan | None]


@pytest.fixture
def build_library(cpus, tmp_path: Path) -> Callable[..., Built]:
    """Compile and link a network as `tvm-iovt compile` does, and disassemble the result."""

    def build_library(
        model: onnx.ModelProto, machine: str, select: Select = lambda conv, cpu: None
    ) -> Built:
        spec = _machine(machine, cpus)
        kernels: list[Tile | WinogradPlan] = []

        def chosen(conv: Conv2d, weights: np.ndarray) -> Tile | WinogradPlan:
            kernel = select(conv, spec.cpu) or predict(conv, weights, spec.cpu, winograd=False)
            kernels.append(kernel)
            return kernel

        library = tmp_path / "library.so"
        try:
            linker = find_linker(spec.cpu)
        except ToolchainError as error:
            pytest.skip(f"{error.what}; {error.do}")
        module = from_onnx(model, keep_params_in_input=False)
        build_stage(module, spec, linker, library, select=chosen)
        return Built(hot_loops(library), kernels)

    return build_library


def _machine(name: str, cpus: dict[str, CpuSpec]) -> TargetSpec:
    if name in cpus:
        return dataclasses.replace(targets.load("host"), name=name, cpu=cpus[name])
    return targets.load(name)


def keeps(loop: Loop, pixels: int, vectors: int) -> bool:
    """Whether a loop is that of a tile: its accumulators, and the loads that the tile rule says."""
    steps, rest = divmod(loop.multiply_adds, pixels * vectors)
    return (
        rest == 0
        and len(loop.accumulators) % (pixels * vectors) == 0  # results may go to other registers
        and loop.loads <= steps * (pixels + vectors)
    )


def assert_in_registers(built: Built, tile: Tile, channels: int) -> None:
    """Every loop of products keeps a tile in registers; the last panel may have fewer vectors."""
    pixels = tile.rows * tile.cols
    last = ceil_div(channels % tile.channels, tile.lanes) or tile.vectors
    assert any(keeps(loop, pixels, tile.vectors) for loop in built.loops), built.text
    for loop in built.loops:
        assert keeps(loop, pixels, tile.vectors) or keeps(loop, pixels, last), loop
        assert not loop.spills and not loop.stores, loop
        assert not loop.apart, loop
        fused = [i for i in loop.body if i.is_multiply_add]
        assert all(re.match(FULL_VECTORS[tile.lanes], i.operands) for i in fused), loop


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((64, 64, 56, 3), id="3x3"),
        pytest.param((24, 40, 28, 3), id="3x3 of remainders"),
        pytest.param((96, 24, 28, 1), id="1x1 to 24"),
        pytest.param((100, 100, 14, 1), id="1x1 of 100"),
    ],
)
def test_convolutions_keep_their_tile_in_registers(build_library, layer, machine, shape):
    built = build_library(layer(*shape), machine)
    (tile,) = built.kernels
    assert built.loops and isinstance(tile, Tile)
    assert_in_registers(built, tile, shape[1])


@pytest.mark.parametrize("machine", MACHINES)
def test_dense_layers_keep_their_tile_in_registers(build_library, make_model, cpus, machine):
    weights = {"w": np.ones((256, 72), np.float32)}
    model = make_model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [49, 256]}, {"y": None}, weights
    )
    built = build_library(model, machine)
    assert built.loops
    assert_in_registers(built, contraction_tile(1, 49, 72, _machine(machine, cpus).cpu), 72)


@pytest.mark.parametrize("machine", ["arm", "avx2", "avx512"])
def test_the_first_layer_keeps_its_accumulators(build_library, layer, machine):
    """All taps of three channels are unrolled, so that LLVM has room to load ahead.

    Not on 32-bit ARM, where it loads ahead until the registers are full.
    """
    built = build_library(layer(3, 32, 64, 3, strides=[2, 2]), machine)
    (tile,) = built.kernels
    assert built.loops and isinstance(tile, Tile)
    pixels = tile.rows * tile.cols
    for loop in built.loops:
        assert len(loop.accumulators) == pixels * tile.vectors, loop
        steps = loop.multiply_adds // len(loop.accumulators)
        assert loop.loads <= steps * (pixels + tile.vectors), loop
        assert len(loop.spills) <= loop.multiply_adds / 8, loop


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("kernel", [3, 5])
def test_depthwise_loads_every_input_once(build_library, layer, cpus, machine, kernel):
    built = build_library(layer(96, 96, 28, kernel, group=96), machine)
    cols = window_cols(28, kernel**2, _machine(machine, cpus).cpu)
    inputs = kernel * (cols - 1 + kernel)
    (loop,) = built.loops
    windows, rest = divmod(loop.multiply_adds, cols * kernel**2)  # LLVM may unroll
    assert windows >= 1 and rest == 0, loop
    assert cols <= len(loop.accumulators) <= windows * cols, loop
    # The weights are loaded at most once a window, and the bias.
    assert loop.loads <= windows * (inputs + kernel**2 + 1), loop


@pytest.mark.parametrize("machine", MACHINES)
def test_winograd_products_stay_in_registers(build_library, layer, machine):
    def select(conv: Conv2d, cpu: CpuSpec) -> WinogradPlan:
        return ranked_plans(conv, cpu, 4)[0][1]

    built = build_library(layer(64, 64, 28, 3), machine, select)
    (plan,) = built.kernels
    assert isinstance(plan, WinogradPlan)
    products = [loop for loop in built.loops if loop.loads == _broadcasts(loop, plan.tile)]
    transforms = [loop for loop in built.loops if loop not in products]
    assert products and len(transforms) == 2, built.text
    assert_in_registers(Built(tuple(products), []), plan.tile, 64)
    # A transform has more values than there are registers. Writing and reading all of them
    # between its two passes would be that many memory accesses:
    transform = axis(plan.outputs[0], 3)
    through_memory = transform.inputs**2 + 3 * transform.products**2
    for loop in transforms:
        assert loop.loads + loop.stores <= 2 * through_memory, loop


def _broadcasts(loop: Loop, tile: Tile) -> int:
    """Loads of a loop of products with as many multiply-adds as `loop`."""
    return loop.multiply_adds // (tile.cols * tile.vectors) * (tile.cols + tile.vectors)


@pytest.mark.parametrize("machine", MACHINES)
def test_oversized_tiles_are_seen_to_spill(build_library, layer, machine):
    """The checks can fail: this tile needs half as many registers again as there are."""

    def select(conv: Conv2d, cpu: CpuSpec) -> Tile:
        registers = cpu.vector_registers
        tile = Tile(rows=1, cols=registers * 3 // 8, vectors=4, lanes=cpu.vector_bits // 32)
        assert tile.registers > 1.5 * registers
        return tile

    built = build_library(layer(32, 64, 24, 1), machine, select)
    (tile,) = built.kernels
    assert any(loop.spills and loop.stores for loop in built.loops), built.text
    with pytest.raises(AssertionError):
        assert_in_registers(built, tile, 64)


def test_separate_multiplications_and_additions_are_no_multiply_adds(build_library, layer):
    """The checks can fail: a CPU without the instruction has no loop with it."""
    assert not build_library(layer(16, 16, 8, 1), "sse").loops


@pytest.mark.parametrize(
    ("name", "operands", "loads", "stores", "stack"),
    [
        ("ldp", "q29, q30, [x6, #-0x20]", 2, 0, False),
        ("ld1r", "{v28.4s}, [x20], #4", 1, 0, False),
        ("ldr", "s28, [x23, #0x100]", 1, 0, False),
        ("ldr", "x8, [sp, #0x10]", 0, 0, True),
        ("str", "q0, [sp, #0x20]", 0, 1, True),
        ("stp", "q0, q1, [x17]", 0, 2, False),
        ("fmla", "v4.4s, v29.4s, v28.s[0]", 0, 0, False),
        ("vld1.32", "{d10[], d11[]}, [r6:0x20]!", 1, 0, False),
        ("vldmia", "lr, {d22, d23}", 1, 0, False),
        ("vst1.64", "{d2, d3}, [r0:0x80]", 0, 1, False),
        ("add", "lr, sp, #0x80", 0, 0, True),
        ("vmovaps", "ymm13, ymmword ptr [rcx - 0x60]", 1, 0, False),
        ("vmovups", "zmmword ptr [rsp + 0x2b0], zmm0", 0, 1, True),
        ("vfmadd231ps", "zmm1, zmm2, dword ptr [rax]{1to16}", 1, 0, False),
        ("mov", "rax, qword ptr [rsp + 8]", 0, 0, True),
    ],
)
def test_memory_accesses_of_instructions(name, operands, loads, stores, stack):
    instruction = Instruction(0, name, operands)
    assert (instruction.loads, instruction.stores) == (loads, stores)
    assert instruction.touches_stack == stack
