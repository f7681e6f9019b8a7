"""Seconds of every unit on every device: predicted, or measured where the device can be reached."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvm_iovt import unit_times
from tvm_iovt.cost_graph import CostGraph
from tvm_iovt.planning.places import HERE, machine_of
from tvm_iovt.stages.kernels import KernelOptions
from tvm_iovt.types import TargetSpec

Progress = Callable[[str], None]

PREDICTION_NOISE = {"calibrated": 0.05, "datasheet": 0.1, "assumed": 0.1}
"""Least gain, relative, that a further stage must promise: predictions of two plans share most of
their errors, so it is far below the error of either."""

PREDICTION_BAND = {"measured": 0.05, "calibrated": 0.2, "datasheet": 0.5, "assumed": 0.5}
"""Relative half-width: within the first two were most networks that we measured; of a device that
nobody measured, nobody knows better."""

_WORST_FIRST = ("assumed", "datasheet", "calibrated", "measured")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRow:
    """One device.

    Attributes:
        unit_s: Seconds of each unit.
        source: `measured`, `calibrated`, `datasheet` or `assumed`.
        noise: Relative, of what is compared on the same device.
    """

    unit_s: tuple[float, ...]
    source: str
    noise: float

    @property
    def band(self) -> float:
        """Relative half-width of the band in which measured times are expected."""
        return max(self.noise, PREDICTION_BAND[self.source])


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """What measuring needs to compile the network again.

    Attributes:
        model: File of the model.
        input_shapes: Of inputs that it leaves open.
        fuse: Of the compilation.
        kernels: Of the compilation.
    """

    model: Path
    input_shapes: Mapping[str, tuple[int, ...]]
    fuse: str
    kernels: KernelOptions


class UnitRows:
    """Times of devices, each found once.

    Args:
        graph: The network's units.
        specs: All targets, which decide about the graph passes.
        measuring: None predicts all times.
        progress: Called with a line for each measurement.
    """

    def __init__(
        self,
        graph: CostGraph,
        specs: Sequence[TargetSpec],
        measuring: Measuring | None,
        progress: Progress,
    ) -> None:
        self._graph = graph
        self._specs = tuple(specs)
        self._measuring = measuring
        self._progress = progress
        self._known: dict[TargetSpec, UnitRow] = {}

    def of(self, spec: TargetSpec) -> UnitRow:
        """The times of one device, which differs from one of the targets in its cores at most.

        Raises:
            DeviceError: The network cannot be run on it.
        """
        alike = dataclasses.replace(spec, name="")  # `host/1~2` is as fast as `host/1`
        if alike not in self._known:
            self._known[alike] = self._find(spec)
        return self._known[alike]

    def _find(self, spec: TargetSpec) -> UnitRow:
        here = spec.gpu is None and machine_of(spec, self._specs) == HERE
        if self._measuring is not None and here:
            return self._measured(spec, self._measuring)
        source = unit_times.profile_source(spec)
        return UnitRow(
            unit_s=tuple(unit_times.unit_time_s(unit, spec) for unit in self._graph.units),
            source=source,
            noise=PREDICTION_NOISE[source],
        )

    def _measured(self, spec: TargetSpec, measuring: Measuring) -> UnitRow:
        from tvm_iovt.planning.measured_units import measure_units

        self._progress(f"measuring on {spec.name} with {spec.cpu.cores} threads")
        found = measure_units(
            measuring.model,
            measuring.input_shapes,
            self._specs,
            spec,
            measuring.fuse,
            measuring.kernels,
        )
        return UnitRow(unit_s=found.unit_s, source="measured", noise=found.noise)


def worst_source(rows: Sequence[UnitRow]) -> str:
    """Of the least known of them: a plan is as trustworthy as that."""
    return min((row.source for row in rows), key=_WORST_FIRST.index)
