"""Tables of tuning records: what there is, what was merged, what was dropped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tvm_iovt.report import plain
from tvm_iovt.report.units import format_bytes, format_seconds, printable
from tvm_iovt.tuning.record_merge import MergeOutcome
from tvm_iovt.tuning.record_prune import PruneOutcome
from tvm_iovt.tuning.record_stat import FolderStat
from tvm_iovt.tuning.run_state import COMPLETE, RUNNING, RunRecord
from tvm_iovt.tuning.schedule_records import DeviceKind

_LINES_SHOWN = 10


def stat_tables(stats: Sequence[FolderStat]) -> Group:
    """Every folder: its devices, its runs, and what is wrong with its files."""
    parts: list[RenderableType] = []
    for stat in stats:
        if parts:
            parts.append(Text())
        parts.append(_origins_table(stat))
        if stat.used_by:
            parts.append(Text(printable(f"in use by {stat.used_by}"), style="cyan"))
        if stat.runs:
            parts.append(_runs_table(stat.runs))
        parts += lines("problem", stat.problems)
    return Group(*parts)


def _origins_table(stat: FolderStat) -> Table:
    table = plain.table(f"{printable(stat.folder)} ({format_bytes(stat.size_bytes)})")
    table.add_column("Device", overflow="fold", ratio=1)
    table.add_column("apache-tvm", overflow="fold", max_width=12)
    table.add_column("Kernels", justify="right", no_wrap=True)
    for name in ("Trials", "Choices"):
        table.add_column(name, no_wrap=True)
    table.add_column("Convolutions", justify="right", no_wrap=True)
    table.add_column("Dates", no_wrap=True)
    for origin in stat.origins:
        first, last = origin.first[:10], origin.last[:10]
        table.add_row(
            plain.text(*_device_lines(origin.device)),
            plain.text(origin.tvm_version),
            str(origin.workloads),
            plain.text(f"{origin.trials_valid} valid", f"{origin.trials_failed} failed"),
            plain.text(f"{origin.chosen_search} found", f"{origin.chosen_template} template"),
            str(origin.kernels),
            plain.text(first) if first == last else plain.text(first, last),
        )
    return table


def _device_lines(device: DeviceKind) -> tuple[str, ...]:
    cpu = device.cpu
    cores = f"{cpu.cores} cores of {cpu.vector_bits} bits"
    if device.gpu:
        return device.gpu, cpu.mcpu, cores, cpu.triple
    return f"{cpu.mcpu}, {device.threads} threads", cores, cpu.triple


def _runs_table(runs: Iterable[RunRecord]) -> Table:
    table = plain.table("Runs")
    table.add_column("Run", overflow="fold", ratio=1)
    table.add_column("Target", overflow="fold")
    table.add_column("Status", no_wrap=True)
    table.add_column("Trials", justify="right", no_wrap=True)
    table.add_column("Valid", justify="right", no_wrap=True)
    table.add_column("Time", justify="right", no_wrap=True)
    styles = {COMPLETE: "green", RUNNING: "cyan"}
    for run in runs:
        asked, asked_s = run.request.trials, run.request.time_s
        table.add_row(
            plain.text(run.run),
            plain.text(run.request.target),
            Text(printable(run.status), style=styles.get(run.status, "yellow")),
            f"{run.trials_done} of {asked}" if asked else str(run.trials_done),
            str(run.trials_valid),
            format_seconds(run.spent_s) + (f" of {format_seconds(asked_s)}" if asked_s else ""),
        )
    return table


def merge_tables(outcomes: Sequence[MergeOutcome]) -> Group:
    """What was added to every folder, what was not taken, and why."""
    table = plain.table("Added")
    table.add_column("Folder", overflow="fold", ratio=1)
    for name in ("Kernels", "Trials", "Choices", "Convs", "Known"):
        table.add_column(name, justify="right", no_wrap=True)
    for outcome in outcomes:
        numbers = (outcome.workloads, outcome.trials, outcome.choices, outcome.kernels)
        table.add_row(plain.text(outcome.folder), *map(str, (*numbers, outcome.known)))
    refused = [line for outcome in outcomes for line in outcome.refused]
    # Problems of the sources are the same for every folder.
    problems = dict.fromkeys(line for outcome in outcomes for line in outcome.problems)
    return Group(table, *lines("refused", refused), *lines("problem", list(problems)))


def prune_table(outcomes: Sequence[PruneOutcome], *, dry_run: bool = False) -> Group:
    """What was dropped from every folder."""
    table = plain.table("Would be dropped" if dry_run else "Dropped")
    table.add_column("Folder", overflow="fold", ratio=1)
    for name in ("Failed", "Slower", "Repeated", "Kernels", "Damaged", "Trials left"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Size", justify="right", overflow="fold")
    for o in outcomes:
        numbers = (o.failed, o.slower, o.repeated, o.workloads, o.damaged, o.trials_kept)
        sizes = (format_bytes(o.size_before_bytes), f"to {format_bytes(o.size_after_bytes)}")
        table.add_row(plain.text(o.folder), *map(str, numbers), plain.text(*sizes))
    runs = [f"{run} is not complete" for o in outcomes for run in o.unfinished]
    return Group(table, *lines("resumed, it repeats dropped trials", runs))


def lines(label: str, sentences: Sequence[str]) -> list[RenderableType]:
    """Sentences with a label, the first few of them."""
    shown: list[RenderableType] = []
    for sentence in sentences[:_LINES_SHOWN]:
        line = Text(f"{label}: ", style="yellow")
        line.append(printable(sentence), style="default")
        shown.append(line)
    if len(sentences) > _LINES_SHOWN:
        shown.append(Text(f"{label}: {len(sentences) - _LINES_SHOWN} more (--json has all)"))
    return shown
