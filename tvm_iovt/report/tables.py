"""Tables for the terminal and for pipes: one function a table, and `render`.

Strings from models (names, reasons) are shown as text, never interpreted as markup or control
sequences. Off the terminal the output is plain ASCII rules without colour, 100 columns wide, so
that it can be searched, compared and pasted.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TextIO

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tvm_iovt.report.summary import group_by_op, moved_bytes, unknown_note
from tvm_iovt.report.units import (
    format_bytes,
    format_cosine,
    format_error,
    format_flops,
    format_percent,
    format_seconds,
    format_seconds_range,
    format_shape,
    printable,
)
from tvm_iovt.types import (
    Decision,
    Deployment,
    Discrepancy,
    Measurement,
    OpCost,
    TargetSpec,
    TensorSpec,
)

WIDTH_OFF_TERMINAL = 100
_SUBJECTS_SHOWN = 4

_ASCII_RULE = box.Box("    \n    \n -- \n    \n    \n -- \n    \n    \n", ascii=True)


class _PlainTable(Table):
    """A table that chooses its rules when it knows where it is printed."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        fancy = console.is_terminal and not options.ascii_only
        self.box = box.SIMPLE if fancy else _ASCII_RULE
        yield from super().__rich_console__(console, options)


def render(renderable: RenderableType, stream: TextIO, *, width: int | None = None) -> None:
    """Write a renderable to a stream: colours and full width on a terminal, plain text elsewhere.

    Args:
        renderable: Any rich renderable.
        stream: Where to write. Characters that its encoding lacks become `?`.
        width: Columns; by default those of the terminal, or 100 off the terminal.
    """
    terminal = stream.isatty()
    if width is None and not terminal:
        width = WIDTH_OFF_TERMINAL
    text = io.StringIO()
    Console(
        file=text,
        width=width,
        force_terminal=terminal,
        no_color=None if terminal else True,
        markup=False,
        emoji=False,
        highlight=False,
    ).print(renderable)
    lines = text.getvalue()
    if not terminal:
        # Cells are padded to their column; trailing blanks only make comparisons noisy.
        lines = "\n".join(line.rstrip() for line in lines.splitlines()) + "\n"
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(lines.encode(encoding, "replace").decode(encoding))


def facts_table(facts: Iterable[tuple[str, str]]) -> Table:
    """Names and values in two columns, without rules."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(_text(name), _text(value))
    return table


def tensors_table(title: str, tensors: Iterable[tuple[str, str, str]]) -> Table:
    """Inputs or outputs: name, shape (symbols allowed), dtype."""
    table = _table(title)
    table.add_column("Name", overflow="fold")
    table.add_column("Shape", overflow="fold")
    table.add_column("Type", no_wrap=True)
    for row in tensors:
        table.add_row(*map(_text, row))
    return table


def tensor_rows(specs: Iterable[TensorSpec]) -> list[tuple[str, str, str]]:
    """Rows of `tensors_table` for static tensors."""
    return [(spec.name, format_shape(spec.shape), spec.dtype) for spec in specs]


def operator_summary_table(operators: Sequence[OpCost]) -> Table:
    """Operators by type, the heaviest first."""
    table = _table("Operators by type", note=unknown_note(operators))
    table.add_column("Type", overflow="fold")
    for name in ("Count", "FLOPs", "Share", "Traffic", "Weights", "FLOP/B"):
        table.add_column(name, justify="right", no_wrap=True)
    total = sum(cost.flops for cost in operators)
    for group in group_by_op(operators):
        table.add_row(
            _text(group.op),
            str(group.operators),
            format_flops(group.flops) if group.flops else "-",
            format_percent(group.flops / total) if group.flops else "-",
            format_bytes(group.bytes) if group.bytes else "-",
            format_bytes(group.bytes_weights) if group.bytes_weights else "-",
            f"{group.intensity:.2f}" if group.flops else "-",
        )
    return table


def operator_table(operators: Sequence[OpCost]) -> Table:
    """Every operator, in the order of the graph."""
    table = _table("Operators", note=unknown_note(operators))
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("Name", overflow="fold", ratio=1, min_width=12)
    table.add_column("Type", overflow="fold", max_width=18)
    table.add_column("Output", overflow="fold", max_width=16)
    for name in ("FLOPs", "Share", "Traffic"):
        table.add_column(name, justify="right", no_wrap=True)
    total = sum(cost.flops for cost in operators)
    for cost in operators:
        traffic = moved_bytes(cost)
        table.add_row(
            str(cost.index),
            _text(cost.name),
            _text(cost.op),
            format_shape(cost.shape_out) if cost.shape_out else "",
            format_flops(cost.flops) if cost.flops else "-",
            format_percent(cost.flops / total) if cost.flops else "-",
            format_bytes(traffic) if traffic else "-",
        )
    return table


def deployments_table(deployments: Iterable[Deployment]) -> Table:
    """What was built for which target, whether it is right, and how fast it is."""
    table = _table("Deployments", leading=1)
    table.add_column("Deployment", overflow="fold")
    table.add_column("Libraries", overflow="fold")
    table.add_column("Outputs", overflow="fold")
    table.add_column("Latency", overflow="fold")
    for deployment in deployments:
        name = Text(printable(deployment.name), style="bold")
        for target in deployment.targets:
            for line in _target_lines(target, deployment.name):
                name.append(f"\n{printable(line)}", style="not bold")
        libraries = []
        for library in deployment.libraries:
            libraries += [library.file.file, format_bytes(library.file.size_bytes)]
        table.add_row(
            name,
            _text(*libraries),
            _outputs_cell(deployment),
            _text(*latency_lines(deployment.measurement)),
        )
    return table


def latency_lines(measurement: Measurement | None) -> tuple[str, ...]:
    """`("12.3 ms", "[12.1 .. 13.0 ms]", "end to end, 50 runs")`."""
    if measurement is None:
        return ("not measured",)
    return (
        format_seconds(measurement.median_s),
        f"[{format_seconds_range(measurement.p10_s, measurement.p90_s)}]",
        f"{measurement.scope.replace('_', ' ')}, {measurement.samples} runs",
    )


def discrepancy_table(discrepancy: Discrepancy) -> Table:
    """Each output against the reference."""
    table = _table(
        f"Outputs against {printable(discrepancy.reference)}",
        note=f"Tolerance: |y - r| <= {discrepancy.atol:g} + {discrepancy.rtol:g} |r|",
    )
    table.add_column("Output", overflow="fold")
    for name in ("Max abs", "Max rel", "Cosine", "Outside tolerance"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Verdict", no_wrap=True)
    for output in discrepancy.outputs:
        table.add_row(
            _text(output.name),
            format_error(output.max_abs),
            format_error(output.max_rel),
            format_cosine(output.cosine),
            f"{output.violations} of {output.elements}",
            _verdict(output.passed),
        )
    return table


def targets_table(targets: Iterable[TargetSpec]) -> Table:
    """Targets that can be compiled for."""
    table = _table("Targets")
    table.add_column("Target", no_wrap=True)
    table.add_column("Code", no_wrap=True)
    table.add_column("Processor", overflow="fold")
    table.add_column("Cores", justify="right", no_wrap=True)
    table.add_column("Description", overflow="fold", ratio=1)
    for target in targets:
        table.add_row(
            Text(printable(target.name), style="bold"),
            target.kind,
            _text(_processor(target)),
            str(target.cpu.cores),
            _text(target.description),
        )
    return table


def decisions_list(decisions: Sequence[Decision], *, every: bool = False) -> Group:
    """What the passes did and what they refused, by pass, with the reason.

    Args:
        decisions: In the order in which they were taken.
        every: Name all operators; otherwise a few of those that share a reason.
    """
    if not decisions:
        return Group(Text("No pass had anything to decide."))
    by_transform: dict[str, dict[tuple[bool, str], list[str]]] = {}
    for decision in decisions:
        reasons = by_transform.setdefault(decision.transform, {})
        reasons.setdefault((decision.applied, decision.reason), []).append(decision.subject)
    parts: list[RenderableType] = []
    for transform, reasons in by_transform.items():
        parts.append(Text(printable(transform), style="bold"))
        for (applied, reason), subjects in reasons.items():
            shown = subjects if every else subjects[:_SUBJECTS_SHOWN]
            more = len(subjects) - len(shown)
            line = Text("applied" if applied else "not applied", "green" if applied else "yellow")
            line.append(f" ({len(subjects)}): " if len(subjects) > 1 else ": ", style="default")
            line.append(printable(reason), style="default")
            parts.append(Padding(line, (0, 0, 0, 2)))
            names = ", ".join(map(printable, shown)) + (f" and {more} more" if more else "")
            parts.append(Padding(Text(names, style="dim"), (0, 0, 0, 4)))
    return Group(*parts)


def _table(title: str, *, note: str = "", leading: int = 0) -> Table:
    return _PlainTable(
        title=Text(title, style="bold"),
        title_justify="left",
        caption=Text(note) if note else None,
        caption_justify="left",
        header_style="bold",
        show_edge=False,
        pad_edge=False,
        leading=leading,
    )


def _text(*lines: str) -> Text:
    return Text("\n".join(map(printable, lines)))


def _verdict(passed: bool) -> Text:
    return Text("passed", "green") if passed else Text("FAILED", "bold red")


def _target_lines(target: TargetSpec, deployment: str) -> list[str]:
    lines = [target.name] if target.name != deployment else []
    if target.gpu:
        return [*lines, f"{target.gpu.kind} {target.gpu.arch}", target.cpu.triple]
    return [*lines, target.cpu.triple, target.cpu.mcpu]


def _processor(target: TargetSpec) -> str:
    if target.gpu:
        return f"{target.gpu.arch} + {target.cpu.arch}"
    return f"{target.cpu.arch} {target.cpu.mcpu} {target.cpu.vector_bits}-bit SIMD"


def _outputs_cell(deployment: Deployment) -> Text:
    discrepancy = deployment.discrepancy
    if discrepancy is None:
        return Text("not compared", style="yellow").append(
            f"\n{printable(deployment.verified)}", style="default"
        )
    cell = _verdict(discrepancy.passed)
    lines = [deployment.verified]
    if discrepancy.outputs:
        worst = discrepancy.worst
        lines += [
            f"max abs {format_error(max(o.max_abs for o in discrepancy.outputs))}",
            f"max rel {format_error(max(o.max_rel for o in discrepancy.outputs))}",
            f"cosine {format_cosine(min(o.cosine for o in discrepancy.outputs))}",
        ]
        if worst.violations:
            lines.append(f"{worst.name}: {worst.violations} of {worst.elements} outside")
    for line in filter(None, lines):
        cell.append(f"\n{printable(line)}", style="default")
    return cell
