"""The table of a bench: bundles with their latencies, in both scopes, and how they compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.console import Group, RenderableType

from tvm_iovt.report import plain
from tvm_iovt.report.units import (
    format_bytes,
    format_error,
    format_seconds,
    format_seconds_range,
    printable,
)
from tvm_iovt.types import Discrepancy, Measurement

# ruff: noqa: D102 (the attributes are documented where they are defined)


class ConditionLike(Protocol):
    """Temperature and clock of a machine."""

    @property
    def temperature_c(self) -> float | None: ...
    @property
    def frequencies_hz(self) -> Sequence[int]: ...
    @property
    def available_bytes(self) -> int: ...
    @property
    def load(self) -> float: ...


class RatioLike(Protocol):
    """A ratio and its noise band."""

    @property
    def median(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


class TimingLike(Protocol):
    """One bundle."""

    @property
    def bundle(self) -> str: ...
    @property
    def deployment(self) -> str: ...
    @property
    def discrepancy(self) -> Discrepancy | None: ...
    @property
    def device(self) -> Measurement: ...
    @property
    def end_to_end(self) -> Measurement: ...
    @property
    def device_ratio(self) -> RatioLike | None: ...
    @property
    def end_to_end_ratio(self) -> RatioLike | None: ...


class BenchLike(Protocol):
    """All bundles, on one machine."""

    @property
    def where(self) -> str: ...
    @property
    def before(self) -> ConditionLike | None: ...
    @property
    def after(self) -> ConditionLike | None: ...
    @property
    def timings(self) -> Sequence[TimingLike]: ...


def bench_table(bench: BenchLike) -> RenderableType:
    """Latencies of all bundles; ratios against the first if there are several."""
    compared = len(bench.timings) > 1
    samples = bench.timings[0].device.samples
    note = (
        f"{samples} samples each. device: copies excluded; end to end: from arrays to arrays, over "
        "the network if it is a board."
    )
    if compared:
        note += " Ratio to the first bundle and its noise band; below 1 is faster, = no difference."
    table = plain.table(f"Latency on {printable(bench.where)}", note=note)
    table.add_column("Bundle", overflow="fold", min_width=12)
    table.add_column("Scope", no_wrap=True)
    table.add_column("Median", justify="right", no_wrap=True)
    table.add_column("p10 .. p90", justify="right", no_wrap=True)
    if compared:
        table.add_column("Ratio", no_wrap=True)
    table.add_column("Outputs", no_wrap=True)
    for timing in bench.timings:
        name = plain.text(timing.bundle, timing.deployment)
        scopes = (
            (timing.device, timing.device_ratio),
            (timing.end_to_end, timing.end_to_end_ratio),
        )
        for i, (measured, against) in enumerate(scopes):
            row = [
                name if i == 0 else "",
                "device" if i == 0 else "end to end",
                format_seconds(measured.median_s),
                format_seconds_range(measured.p10_s, measured.p90_s),
            ]
            if compared:
                row.append(_ratio(against))
            table.add_row(*row, _outputs(timing.discrepancy) if i == 0 else "")
    return Group(table, *map(plain.text, condition_lines(bench.before, bench.after)))


def condition_lines(before: ConditionLike | None, after: ConditionLike | None) -> list[str]:
    """Temperature, clock and load before and after, where the machine tells them."""
    if before is None or after is None:
        return []
    lines = []
    if before.temperature_c is not None and after.temperature_c is not None:
        lines.append(f"temperature {before.temperature_c:.0f} -> {after.temperature_c:.0f} °C")
    if before.frequencies_hz and after.frequencies_hz:
        lines.append(f"clock {_clock(before)} -> {_clock(after)}")
    lines.append(f"load {before.load:.1f} -> {after.load:.1f}")
    if after.available_bytes:
        lines.append(f"{format_bytes(after.available_bytes)} of memory available")
    return ["; ".join(lines)]


def _clock(condition: ConditionLike) -> str:
    low, high = min(condition.frequencies_hz) / 1e9, max(condition.frequencies_hz) / 1e9
    return f"{high:.2f} GHz" if high - low < 0.005 else f"{low:.2f} .. {high:.2f} GHz"


def _ratio(ratio: RatioLike | None) -> str:
    if ratio is None:
        return "1"
    same = " =" if ratio.low <= 1 <= ratio.high else ""
    return f"{ratio.median:.3f} ±{(ratio.high - ratio.low) / 2:.3f}{same}"


def _outputs(discrepancy: Discrepancy | None) -> str:
    if discrepancy is None:
        return "not checked"
    return f"right, {format_error(discrepancy.worst.max_abs)}"
