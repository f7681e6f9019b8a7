"""Tables of the numbers that predictions rest on, each with where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.table import Table

from tvm_iovt.report import plain
from tvm_iovt.report.units import format_bytes, format_flops, format_percent, format_seconds
from tvm_iovt.types import DeviceProfile, Link, TargetSpec


class Finding(Protocol):
    """One number that a probe found, see `probe.report.Finding`."""

    @property
    def what(self) -> str: ...  # noqa: D102

    @property
    def value(self) -> float: ...  # noqa: D102

    @property
    def unit(self) -> str: ...  # noqa: D102

    @property
    def spread(self) -> float: ...  # noqa: D102

    @property
    def source(self) -> str: ...  # noqa: D102


def profile_parts(spec: TargetSpec, profile: DeviceProfile) -> list[Table]:
    """What is known of a target beside its code generator, and its sources.

    Args:
        spec: The target.
        profile: Its numbers, measured, stated or assumed.
    """
    table = plain.table("What predictions rest on", note=_note(profile))
    for name in ("Number", "Value", "Source"):
        table.add_column(name, overflow="fold")
    source = profile.source
    for roof in profile.roofs:
        words = "" if spec.gpu is not None else f", {_threads(roof.threads)}"
        for peak in roof.peaks:
            rate = f"{format_flops(round(peak.flops_per_s))}/s"
            table.add_row(f"peak {peak.dtype}{words}", rate, source)
        for what, value in (
            ("memory", roof.bandwidth_bytes_per_s),
            ("memory, beside a stage that streams", roof.shared_bandwidth_bytes_per_s),
            ("nearest cache", roof.cache_bandwidth_bytes_per_s),
        ):
            if value:
                table.add_row(f"{what}{words}", _rate(value), source)
    table.add_row("start of a kernel", format_seconds(profile.launch_s), source)
    if profile.handoff_s:
        table.add_row("hand-off between stages", format_seconds(profile.handoff_s), source)
    if profile.stage_s:
        table.add_row("stage beside its kernels", format_seconds(profile.stage_s), source)
    if profile.shared_slowdown > 1:
        table.add_row(
            "kernels beside another stage", f"{profile.shared_slowdown:.2f}x as long", source
        )
    if profile.boundary_bytes_per_s:
        table.add_row("layout change at a cut", _rate(profile.boundary_bytes_per_s), source)
    if profile.cache_bytes:
        table.add_row("last cache", format_bytes(profile.cache_bytes), source)
    if spec.memory_bytes:
        table.add_row("memory for networks", format_bytes(spec.memory_bytes), "target file")
    if spec.active_w:
        table.add_row("power while it computes", f"{spec.active_w:g} W", "target file")
    for link in spec.links:
        table.add_row(f"link to {link.dst}", _link(link), link.source)
    return [table, *([fits_table(profile)] if profile.fits else [])]


def findings_parts(name: str, findings: Sequence[Finding], profile: DeviceProfile) -> list[Table]:
    """What a probe measured, with spreads."""
    table = plain.table(f"Measured on {name}: {profile.device}")
    for column in ("Number", "Value", "Spread", "Source"):
        table.add_column(column, overflow="fold")
    for found in findings:
        spread = format_percent(found.spread) if found.spread else ""
        table.add_row(plain.text(found.what), _value(found), spread, found.source)
    return [table, *([fits_table(profile)] if profile.fits else [])]


def fits_table(profile: DeviceProfile) -> Table:
    """Laws of kernels, and how well they predict a kernel that they were not fitted to."""
    table = plain.table(
        "Kernels",
        note="Error: median over the samples, each predicted by a fit to all the others.",
    )
    table.add_column("Kind", no_wrap=True)
    table.add_column("Threads", justify="right")
    table.add_column("Samples", justify="right")
    table.add_column("Error", justify="right")
    for fit in profile.fits:
        table.add_row(
            plain.text(fit.kind),
            str(fit.threads),
            str(fit.samples),
            format_percent(fit.median_error),
        )
    return table


def _note(profile: DeviceProfile) -> str:
    if profile.source == "measured":
        return f"Measured on {profile.date} on {profile.device}."
    if profile.source == "datasheet":
        return "Stated in the target file. `tvm-iovt targets probe` measures them on the device."
    return f"{profile.device}. `tvm-iovt targets probe` measures them on the device."


def _value(found: Finding) -> str:
    if found.unit == "s":
        return format_seconds(found.value)
    if found.unit == "B/s":
        return _rate(found.value)
    if found.unit == "FLOP/s":
        return f"{format_flops(round(found.value))}/s"
    return f"{found.value:g}"


def _rate(bytes_per_s: float) -> str:
    return f"{format_bytes(round(bytes_per_s))}/s"


def _link(link: Link) -> str:
    return f"{_rate(link.bytes_per_s)} after {format_seconds(link.latency_s)}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
