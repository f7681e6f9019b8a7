"""The devices of a plan in an HTML report: rooflines, and how good the predictions were."""

from __future__ import annotations

from collections.abc import Sequence

from tvm_iovt.cost_graph import CostGraph
from tvm_iovt.report import roofline_chart
from tvm_iovt.report.blocks import facts_list
from tvm_iovt.report.markup import Markup, element
from tvm_iovt.report.plan_view import Times, known_time, unit_stages
from tvm_iovt.report.roofline_chart import roofline_plot
from tvm_iovt.report.roofline_dots import Dot, rate
from tvm_iovt.report.roofline_roofs import ridge, three_digits
from tvm_iovt.report.unit_scatter import STYLE as SCATTER_STYLE
from tvm_iovt.report.unit_scatter import Pair, accuracy_words, unit_scatter
from tvm_iovt.report.units import counted, format_bytes, format_flops, format_seconds
from tvm_iovt.types import DeviceProfile, PartitionPlan, TargetSpec
from tvm_iovt.unit_laws import peak_of
from tvm_iovt.unit_times import bound_s, profile_of, roof_of, unit_time_s

STYLE = (
    roofline_chart.STYLE
    + SCATTER_STYLE
    + """
.scatter-panel .plot.scatter{min-width:430px;max-width:640px}
"""
)


def device_panels(
    plan: PartitionPlan,
    graph: CostGraph,
    targets: Sequence[TargetSpec],
    unit_s: Times,
    measured: Times,
) -> list[Markup]:
    """A roofline for each target, and a scatter for each that was measured.

    Args:
        plan: Says which target runs which unit.
        graph: The network that was planned.
        targets: That the planner could choose from.
        unit_s: Seconds that the plan rests on, a row for each of `targets`.
        measured: Of the same units, where they were measured.
    """
    stage_of = unit_stages(plan, graph)
    panels = []
    for target, spec in enumerate(targets):
        dots = []
        for unit in graph.units:
            seconds = known_time(measured, target, unit.index)
            used_s = seconds if seconds is not None else known_time(unit_s, target, unit.index)
            if used_s is None:
                continue
            place = stage_of[unit.index]
            away = place < 0 or plan.stages[place].target != spec.name
            dots.append(
                Dot(
                    unit=unit,
                    unit_s=used_s,
                    measured=seconds is not None,
                    group=unit.kind,
                    away=away,
                )
            )
        panels.append(_roofline_panel(spec, dots, len(graph.units)))
        pairs = [
            Pair(
                name=dot.unit.name,
                group=dot.group,
                predicted_s=unit_time_s(dot.unit, spec, spec.cpu.cores),
                measured_s=dot.unit_s,
            )
            for dot in dots
            if dot.measured
        ]
        if pairs:
            panels.append(_scatter_panel(spec, pairs, _faster_than_bound(spec, dots)))
    return panels


def _roofline_panel(spec: TargetSpec, dots: Sequence[Dot], units: int) -> Markup:
    profile = profile_of(spec)
    threads = spec.cpu.cores if spec.gpu is None else 1
    notes = [
        "A dot is a unit, its area the share of the time. Left of the ridge units wait for memory, "
        "right of it for arithmetic."
    ]
    if any(_is_above(dot, profile, threads) for dot in dots):
        notes.append(
            "Dots above the roof: tensors that stay in caches, or convolutions by Winograd's "
            "algorithm, which multiplies less than is counted."
        )
    missing = units - len(dots)
    if missing:
        notes.append(f"{counted(missing, 'unit')} cannot run here or have no time.")
    return element(
        "div",
        element("h3", f"Roofline of {spec.name}"),
        element("p", " ".join(notes), class_="soft small"),
        roofline_plot(profile, dots, threads=threads, name=spec.name),
        facts_list(roof_facts(profile)),
        class_="panel padded",
    )


def _is_above(dot: Dot, profile: DeviceProfile, threads: int) -> bool:
    roof = roof_of(profile, threads)
    bound_s = max(
        dot.unit.flops / peak_of(roof, dot.unit.dtype), dot.unit.nbytes / roof.bandwidth_bytes_per_s
    )
    return dot.unit_s < bound_s


def _faster_than_bound(spec: TargetSpec, dots: Sequence[Dot]) -> int:
    """Measured units that refute the bound of the roofline."""
    return sum(
        dot.measured and dot.unit_s < bound_s(dot.unit, spec, spec.cpu.cores) for dot in dots
    )


def _scatter_panel(spec: TargetSpec, pairs: Sequence[Pair], faster: int) -> Markup:
    bound = (
        f"{counted(faster, 'unit')} took less time than the roofline's lower bound: "
        "the device can do more than its numbers say."
        if faster
        else "None took less time than the roofline's lower bound."
    )
    return element(
        "div",
        element("h3", f"Predicted and measured on {spec.name}"),
        element("p", f"{accuracy_words(pairs)} {bound}", class_="soft small"),
        unit_scatter(pairs, name=spec.name),
        class_="panel padded scatter-panel",
    )


def roof_facts(profile: DeviceProfile) -> list[tuple[str, str]]:
    """Names and values of the numbers behind the roofs, for a list of facts."""
    facts = [("Numbers", source_of(profile))]
    for roof in profile.roofs:
        peaks = [
            f"{peak.dtype} {rate(peak.flops_per_s, format_flops)}, "
            f"ridge {three_digits(ridge(roof, peak.dtype))} FLOP/B"
            for peak in roof.peaks
        ]
        memory = f"memory {rate(roof.bandwidth_bytes_per_s, format_bytes)}"
        if roof.shared_bandwidth_bytes_per_s:
            shared = rate(roof.shared_bandwidth_bytes_per_s, format_bytes)
            memory += f" ({shared} beside another stage)"
        if roof.cache_bandwidth_bytes_per_s:
            memory += f", cache {rate(roof.cache_bandwidth_bytes_per_s, format_bytes)}"
        facts.append((counted(roof.threads, "thread"), "; ".join((*peaks, memory))))
    facts.append(("A kernel's start", format_seconds(profile.launch_s)))
    return facts


def source_of(profile: DeviceProfile) -> str:
    """Whether the numbers of a device were measured, are from its datasheet, or are assumed."""
    if profile.device.startswith(profile.source):
        return profile.device  # `assumed for one aarch64 core ...`
    details = ", ".join(filter(None, (profile.device, profile.date)))
    return f"{profile.source} ({details})" if details else profile.source
