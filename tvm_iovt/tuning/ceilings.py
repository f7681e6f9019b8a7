"""What a device can do at best, measured like any trial: the roof that tuning stops under."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from tvm_iovt._tvm import tvm
from tvm_iovt.schedules.convolution import matmul_packed
from tvm_iovt.schedules.cpu import schedule_function
from tvm_iovt.schedules.tiles import contraction_tile
from tvm_iovt.schedules.tvm_api import te, tirx
from tvm_iovt.tuning.tasks import module_of, workload_key
from tvm_iovt.tuning.traces import trial_key
from tvm_iovt.tuning.trial import Measurer, Trial, TrialResult, Workload
from tvm_iovt.types import CpuSpec

_ROWS_A_CORE, _DEPTH, _COLUMNS = 96, 256, 128
"""Of a matrix product whose operands fit a level-2 cache: nothing limits it but the arithmetic."""

_WAIT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCeilings:
    """The roof over all cores of a device; zeros where nothing could be measured.

    Attributes:
        flops: Floating-point operations a second, a multiply-add counted as two.
        bytes_per_s: Read and written by a copy that is as large as a level-2 cache, whose data is
            not in it yet. Data that is there comes faster: what moves more than it computes has no
            roof by this number.
    """

    flops: float
    bytes_per_s: float

    def bound_s(self, flops: int, moved_bytes: int) -> float:
        """Least seconds of one call (roofline, doi 10.1145/1498765.1498785), by its arithmetic.

        Bytes count only where arithmetic is counted too, and never for more than half of the bound
        that they would give: operands may lie in a nearer cache than the copy's.
        """
        if not self.flops or not flops:
            return 0.0
        moving_s = moved_bytes / self.bytes_per_s / 2 if self.bytes_per_s else 0.0
        return max(flops / self.flops, moving_s)


NO_CEILINGS = MeasuredCeilings(flops=0.0, bytes_per_s=0.0)


def measure_ceilings(cpu: CpuSpec, measurer: Measurer) -> tuple[MeasuredCeilings, str]:
    """Measure the ceilings of a CPU.

    Args:
        cpu: Its description.
        measurer: With nothing else under way.

    Returns:
        The ceilings, and why there are none, empty if there are.
    """
    product, flops = _product(cpu)
    copy, moved_bytes = _copy(cpu)
    trials = [_trial(product, cpu, "peak"), _trial(copy, cpu, "bandwidth")]
    measurer.submit(trials)
    results: dict[str, TrialResult] = {}
    began_s = time.monotonic()
    while len(results) < len(trials) and time.monotonic() - began_s < _WAIT_S:
        for result in measurer.collect(1.0):
            results[result.key] = result
    done = [results.get(trial.key) for trial in trials]
    for found in done:
        if found is None or not found.valid:
            return NO_CEILINGS, "it took too long" if found is None else found.error
    # The fastest block: a roof that a passing disturbance has lowered would stop the search early.
    seconds = [min(result.run_s) for result in done if result is not None]
    ceilings = MeasuredCeilings(flops=flops / seconds[0], bytes_per_s=moved_bytes / seconds[1])
    return ceilings, ""


def _product(cpu: CpuSpec) -> tuple[Any, int]:
    rows = _ROWS_A_CORE * cpu.cores
    tile = contraction_tile(1, rows, _COLUMNS, cpu)
    panels = -(-_COLUMNS // tile.channels)
    matrix = te.placeholder((rows, _DEPTH), name="matrix")
    weight = te.placeholder((panels, _DEPTH, tile.channels), name="weight")
    product = matmul_packed(matrix, weight, _COLUMNS, tile)
    zero = tirx.const(0, "float32")
    result = te.compute(product.shape, lambda *i: tirx.max(product(*i), zero), name="relu")
    return te.create_prim_func([matrix, weight, result]), 2 * rows * _DEPTH * _COLUMNS


def _copy(cpu: CpuSpec) -> tuple[Any, int]:
    rows, columns = cpu.cores * 16, max(cpu.l2_bytes // 2 // 16 // 4, 1024)
    source = te.placeholder((rows, columns), name="source")
    one = tirx.const(1, "float32")
    result = te.compute(source.shape, lambda *i: source(*i) + one, name="copy")
    return te.create_prim_func([source, result]), 2 * rows * columns * 4


def _trial(function: Any, cpu: CpuSpec, name: str) -> Trial:
    module = module_of(function)
    key = workload_key(module)
    scheduled, _ = schedule_function(module["main"], cpu, name)
    workload = Workload(key=key, name=name, module=str(tvm.ir.save_json(module)))
    return Trial(
        key=trial_key(key, None),
        workload=workload,
        module=str(tvm.ir.save_json(tvm.IRModule({"main": scheduled}))),
    )
