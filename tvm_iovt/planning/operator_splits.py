"""`plan --split`: which convolutions two devices together would compute faster than either."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tvm_iovt import targets, unit_times
from tvm_iovt.cost_graph import Unit
from tvm_iovt.errors import UsageError
from tvm_iovt.partition.findings import OperatorSplit, OperatorSplits
from tvm_iovt.partition.operator_split import AXES, Seconds, SplitCosts, SplitPlan, best_split
from tvm_iovt.planning.links import parse_links
from tvm_iovt.planning.model_plan import PlanOptions, Progress, read_model
from tvm_iovt.planning.places import routes_of
from tvm_iovt.planning.unit_rows import worst_source
from tvm_iovt.types import Decision, TargetSpec

_CONVOLUTIONS = ("conv", "pointwise", "depthwise", "grouped", "transposed")


def plan_splits(
    model: Path, options: PlanOptions, *, progress: Progress = lambda message: None
) -> OperatorSplits:
    """Whether splitting a convolution between two devices pays, for each one.

    Each is looked at by itself: its input is on the first device, and its output is wanted there.
    Tensors travel as between two stages of a plan; starting the second device is a part of that.

    Args:
        model: ONNX file or torch.export program.
        options: Two targets; no objective or cuts.
        progress: Called with a line for each step.

    Raises:
        IovtError: One of its subclasses, each with its exit code.
    """
    specs = targets.load_devices(options.targets)
    if len(specs) != 2:
        raise UsageError(
            "A convolution is split between two targets",
            seen=f"{len(specs)}: {', '.join(spec.name for spec in specs)}",
            do="name two, such as --targets host,cuda or --targets host/1,host/1",
        )
    stated = parse_links(options.links, [spec.name for spec in specs])
    found = read_model(model, options, specs, progress)
    rows = [found.rows.of(spec) for spec in specs]
    routes = routes_of(specs, stated)
    margin = max(row.noise for row in rows)
    convolutions = [unit for unit in found.graph.units if unit.kind in _CONVOLUTIONS]
    progress(f"splitting {len(convolutions)} convolutions")
    splits: list[OperatorSplit] = []
    refused: list[Decision] = []
    for unit in convolutions:
        costs = {}
        for axis in AXES:
            first_s, second_s = (
                _seconds(unit, axis, spec, row.unit_s[unit.index])
                for spec, row in zip(specs, rows, strict=True)
            )
            costs[axis] = SplitCosts(
                first_s=first_s,
                second_s=second_s,
                there=routes[0][1],
                back=routes[1][0],
                granule=_lanes(specs) if axis == "channels" else 1,
                margin=margin,
            )
        plan = best_split(unit, costs)
        if isinstance(plan, SplitPlan):
            splits.append(_split(unit, plan))
        else:
            refused.append(plan)
    splits.sort(key=lambda split: split.split_s - split.alone_s)
    return OperatorSplits(
        model_name=found.name,
        first=specs[0].name,
        second=specs[1].name,
        network_s=sum(rows[0].unit_s),
        splits=tuple(splits),
        refused=tuple(refused),
        margin=margin,
        source=worst_source(rows),
    )


def part_of(unit: Unit, axis: str, share: float) -> Unit:
    """The unit that computes a share of another one's output.

    Args:
        unit: With NCHW shapes.
        axis: One of `operator_split.AXES`.
        share: Above 0, up to 1.
    """
    if share == 1.0 or len(unit.shape_out) != 4 or len(unit.shape_in) != 4:
        return unit
    place = 2 if axis == "rows" else 1
    flops, bytes_out = (round(share * whole) for whole in (unit.flops, unit.bytes_out))
    shape_out = _scaled(unit.shape_out, place, share)
    if axis == "channels":
        return dataclasses.replace(
            unit,
            flops=flops,
            bytes_out=bytes_out,
            bytes_weights=round(share * unit.bytes_weights),
            shape_out=shape_out,
        )
    return dataclasses.replace(
        unit,
        flops=flops,
        bytes_out=bytes_out,
        bytes_in=round(share * unit.bytes_in),
        shape_in=_scaled(unit.shape_in, place, share),
        shape_out=shape_out,
    )


def _seconds(unit: Unit, axis: str, spec: TargetSpec, whole_s: float) -> Seconds:
    """Times of shares: of the known time, as much as is predicted of the predicted time."""
    predicted_s = unit_times.unit_time_s(unit, spec)

    def seconds(share: float) -> float:
        part_s = unit_times.unit_time_s(part_of(unit, axis, share), spec)
        return whole_s * part_s / predicted_s if predicted_s else 0.0

    return seconds


def _split(unit: Unit, plan: SplitPlan) -> OperatorSplit:
    return OperatorSplit(
        unit=plan.unit,
        kind=unit.kind,
        axis=plan.axis,
        parts=plan.parts,
        split_s=plan.predicted_s,
        alone_s=plan.alone_s,
        gain=plan.gain,
        halo_rows=plan.halo_rows,
    )


def _lanes(specs: Sequence[TargetSpec]) -> int:
    """Channels of a block: kernels compute whole vectors of them, the wider device's."""
    return max(
        spec.gpu.thread_warp_size if spec.gpu is not None else spec.cpu.vector_bits // 32
        for spec in specs
    )


def _scaled(shape: tuple[int, ...], place: int, share: float) -> tuple[int, ...]:
    size = max(round(share * shape[place]), 1)
    return (*shape[:place], size, *shape[place + 1 :])
