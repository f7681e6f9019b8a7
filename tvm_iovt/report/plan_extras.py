"""What planners for two devices found, on the terminal."""

from __future__ import annotations

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tvm_iovt.partition.findings import (
    OperatorSplits,
    ParetoFront,
    SharedServer,
    TraceReplay,
)
from tvm_iovt.report import plain
from tvm_iovt.report.tables import decisions_table, facts_table
from tvm_iovt.report.units import (
    counted,
    format_bytes,
    format_percent,
    format_seconds,
)
from tvm_iovt.types import Link

_SPANS_SHOWN = 12
_SOURCES = {
    "measured": "times of units are measured",
    "calibrated": "times of units are predicted, by laws fitted to measurements",
    "datasheet": "times of units are predicted from datasheets",
    "assumed": "times of units are predicted from assumptions: nobody measured a device",
}


def pareto_tables(front: ParetoFront) -> list[RenderableType]:
    """The complete front, with the chosen split marked."""
    best = front.fastest
    facts = [
        ("edge", f"{front.edge}; {_memory_words(front)}"),
        ("server", front.server),
        ("link", _link_words(front.link)),
        ("rule", f"{front.rule}: {front.reason}"),
        (
            "no limit",
            f"the least latency is {format_seconds(best.latency_s)}, "
            f"{format_bytes(best.edge_bytes)} at the edge, "
            f"{_cut_words(best.cut, best.position, front.edge, front.server)}",
        ),
        ("numbers", f"{front.source}: {_SOURCES[front.source]}"),
    ]
    table = plain.table(
        "Splits that no other beats in latency and in use of the edge's memory",
        note=f"*: the {front.rule}. Of the limit: of the memory that the edge may use.",
    )
    table.add_column("", no_wrap=True)
    table.add_column("Cut", overflow="fold", ratio=1, min_width=16)
    for name in ("Units", "Latency", "Period", "Edge memory", "Of the limit"):
        table.add_column(name, justify="right", no_wrap=True)
    for index, point in enumerate(front.front):
        chosen = index == front.chosen
        table.add_row(
            "*" if chosen else "",
            plain.text(_cut_words(point.cut, point.position, front.edge, front.server)),
            f"{point.position} + {front.units - point.position}",
            format_seconds(point.latency_s),
            format_seconds(point.period_s),
            format_bytes(point.edge_bytes),
            format_percent(point.limit_share),
            style="bold" if chosen else None,
        )
    return _parts(facts_table(facts), table)


def trace_tables(found: TraceReplay, *, verbosity: int = 0) -> list[RenderableType]:
    """The dynamic policy against fixed cuts, and its cuts over time; -v shows all of these."""
    best = found.cuts[found.best_fixed]
    latency = f"{format_seconds(found.link.latency_s)} a transfer ({found.link.source})"
    facts = [
        ("frames", f"{found.frames}, one every {format_seconds(found.frame_interval_s)}"),
        ("link", f"{found.edge} - {found.server}: the rate is the trace's, {latency}"),
        ("switches", f"{found.switches} of the cut, by the dynamic policy"),
        ("numbers", f"{found.source}: {_SOURCES[found.source]}"),
    ]
    table = plain.table(
        "Latency of a frame",
        note="Oracle: the best cut for each frame, which only hindsight knows. Beside the mean: "
        "as a multiple of the dynamic policy's. Chosen: frames for which that policy took the cut. "
        "*: the best fixed cut.",
    )
    table.add_column("Cut", overflow="fold", ratio=1, min_width=20)
    for name in ("Units", "To and fro", "Mean", "", "p90", "Chosen"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, mean_s, p90_s in (
        ("dynamic", found.dynamic_mean_s, found.dynamic_p90_s),
        ("oracle", found.oracle_mean_s, found.oracle_p90_s),
    ):
        times = (format_seconds(mean_s), _ratio(mean_s, found), format_seconds(p90_s))
        table.add_row(name, "", "", *times, "", style="bold" if name == "dynamic" else None)
    for cut in found.cuts:
        mark = " *" if cut is best else ""
        words = _cut_words(cut.cut, cut.position, found.edge, found.server)
        table.add_row(
            plain.text(f"{words}{mark}"),
            f"{cut.position} + {found.units - cut.position}",
            format_bytes(cut.nbytes) if cut.nbytes else "-",
            format_seconds(cut.mean_s),
            _ratio(cut.mean_s, found),
            format_seconds(cut.p90_s),
            format_percent(cut.chosen) if cut.chosen else "-",
        )
    return _parts(facts_table(facts), table, _spans_table(found, verbosity))


def shared_tables(found: SharedServer) -> list[RenderableType]:
    """Each model's cut, cores and latency."""
    used = sum(model.cores for model in found.models)
    facts = [
        ("objective", "latency: the longest of the models' latencies is least"),
        ("server", f"{found.server}; {used} of {counted(found.cores, 'core')} are used"),
        ("edge", f"{found.edge}, one for each model"),
        ("link", f"{_link_words(found.link)}; each edge device has its own"),
        ("longest", format_seconds(found.longest_s)),
        ("equal cores", f"{format_seconds(found.equal_s)} with as many cores for each model"),
        ("numbers", f"{found.source}: {_SOURCES[found.source]}"),
    ]
    table = plain.table(
        "Models",
        note="Without: on the edge device alone.",
    )
    table.add_column("Model", overflow="fold", ratio=1, min_width=10)
    table.add_column("Cut", overflow="fold", ratio=1, min_width=12)
    for name in ("Cores", "Latency", "Edge", "Transfers", "Server", "Without"):
        table.add_column(name, justify="right", no_wrap=True)
    for model in found.models:
        times = (
            model.latency_s,
            model.edge_s,
            model.transfer_s,
            model.server_s,
            model.edge_only_s,
        )
        table.add_row(
            plain.text(model.model_name),
            plain.text(_cut_words(model.cut, model.position, found.edge, found.server)),
            str(model.cores),
            *map(format_seconds, times),
        )
    return _parts(facts_table(facts), table)


def split_tables(found: OperatorSplits, *, verbosity: int = 0) -> list[RenderableType]:
    """Convolutions whose split pays, the most saved first; -v tells why others stay whole."""
    margin = f"{found.margin:.0%} at least"
    saved_s = math.fsum(split.alone_s - split.split_s for split in found.splits)
    count = len(found.splits) + len(found.refused)
    facts = [
        ("devices", f"{found.first} has each input and wants each output, {found.second} helps"),
        (
            "pay",
            f"{len(found.splits)} of {counted(count, 'convolution')}, by {margin}",
        ),
        ("network", f"{format_seconds(found.network_s)} on {found.first} alone"),
        ("numbers", f"{found.source}: {_SOURCES[found.source]}"),
    ]
    if found.splits:
        facts.insert(2, ("saved", f"{format_seconds(saved_s)} by all of them together"))
    parts: list[RenderableType] = [facts_table(facts)]
    if found.splits:
        table = plain.table(
            "Convolutions to split",
            note="Alone: whole, on the better device. Halo: input rows that both devices read. "
            "Times include transfers.",
        )
        table.add_column("Convolution", overflow="fold", ratio=1, min_width=12)
        table.add_column("Kind", no_wrap=True)
        for name in ("Parts", "Halo", "Alone", "Split", "Saved", "Gain"):
            table.add_column(name, justify="right", no_wrap=True)
        for split in found.splits:
            table.add_row(
                plain.text(split.unit),
                split.kind,
                f"{' + '.join(map(str, split.parts))} {split.axis}",
                str(split.halo_rows) if split.halo_rows else "-",
                format_seconds(split.alone_s),
                format_seconds(split.split_s),
                format_seconds(split.alone_s - split.split_s),
                format_percent(split.gain),
            )
        parts.append(table)
    if verbosity and found.refused:
        parts.append(decisions_table(found.refused, every=True))
    elif found.refused:
        others = counted(len(found.refused), "convolution")
        parts.append(Text(f"Better whole: {others}; -v tells why."))
    return _parts(*parts)


def _spans_table(found: TraceReplay, verbosity: int) -> Table:
    shown = found.spans if verbosity else found.spans[:_SPANS_SHOWN]
    more = len(found.spans) - len(shown)
    table = plain.table(
        "Cuts of the dynamic policy over time", note=f"{more} more; -v shows them." if more else ""
    )
    for name in ("From", "To"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Cut", overflow="fold", ratio=1)
    for span in shown:
        table.add_row(
            f"{span.begin_s:.2f} s",
            f"{span.end_s:.2f} s",
            plain.text(_cut_words(span.cut, span.position, found.edge, found.server)),
        )
    return table


def _parts(*parts: RenderableType) -> list[RenderableType]:
    """A blank line before each but the first."""
    return [parts[0], *(Group(Text(""), part) for part in parts[1:])]


def _memory_words(front: ParetoFront) -> str:
    return (
        f"{format_bytes(round(front.limit_bytes))} of its {format_bytes(front.memory_bytes)} may "
        f"be used ({front.memory_share:.0%})"
    )


def _link_words(link: Link | None) -> str:
    if link is None:
        return "none: both are parts of one machine"
    return (
        f"{format_bytes(round(link.bytes_per_s))}/s, {format_seconds(link.latency_s)} "
        f"({link.source})"
    )


def _cut_words(cut: str, position: int, edge: str, server: str) -> str:
    if cut:
        return f"behind {cut}"
    return f"all on {edge}" if position else f"all on {server}"


def _ratio(mean_s: float, found: TraceReplay) -> str:
    return f"{mean_s / found.dynamic_mean_s:.2f}x" if found.dynamic_mean_s else "-"
