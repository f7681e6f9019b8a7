"""One function a table of what is in a model or a bundle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tvm_iovt.report import plain
from tvm_iovt.report.outcomes import (
    accuracy_table,
    checks_table,
    findings_table,
    inference_table,
    latency_lines,
    outputs_cell,
)
from tvm_iovt.report.plain import render
from tvm_iovt.report.summary import group_by_op, moved_bytes, unknown_note
from tvm_iovt.report.units import (
    format_bytes,
    format_cosine,
    format_error,
    format_flops,
    format_percent,
    format_shape,
    printable,
)
from tvm_iovt.types import (
    Decision,
    Deployment,
    Discrepancy,
    FileRecord,
    OpCost,
    TargetSpec,
    TensorSpec,
)

__all__ = [
    "accuracy_table",
    "checks_table",
    "decisions_table",
    "deployments_table",
    "discrepancy_table",
    "facts_table",
    "files_table",
    "findings_table",
    "inference_table",
    "latency_lines",
    "operator_summary_table",
    "operator_table",
    "render",
    "target_details",
    "targets_table",
    "tensor_rows",
    "tensors_table",
    "unsupported_table",
]

_SUBJECTS_SHOWN = 4


def facts_table(facts: Iterable[tuple[str, str]]) -> Table:
    """Names and values in two columns, without rules."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(plain.text(name), plain.text(value))
    return table


def tensors_table(title: str, tensors: Iterable[tuple[str, str, str]]) -> Table:
    """Inputs or outputs: name, shape (symbols allowed), dtype."""
    table = plain.table(title)
    table.add_column("Name", overflow="fold")
    table.add_column("Shape", overflow="fold")
    table.add_column("Type", no_wrap=True)
    for row in tensors:
        table.add_row(*map(plain.text, row))
    return table


def tensor_rows(specs: Iterable[TensorSpec]) -> list[tuple[str, str, str]]:
    """Rows of `tensors_table` for static tensors."""
    return [(spec.name, format_shape(spec.shape), spec.dtype) for spec in specs]


def operator_summary_table(operators: Sequence[OpCost]) -> Table:
    """Operators by type, the heaviest first; counts alone when no cost is known."""
    table = plain.table("Operators by type", note=unknown_note(operators))
    table.add_column("Type", overflow="fold")
    table.add_column("Count", justify="right", no_wrap=True)
    flops, traffic = sum(cost.flops for cost in operators), sum(map(moved_bytes, operators))
    if flops or traffic:
        for name in ("FLOPs", "Share", "Traffic", "Weights", "FLOP/B"):
            table.add_column(name, justify="right", no_wrap=True)
    for group in group_by_op(operators):
        row: list[Text | str] = [plain.text(group.op), str(group.operators)]
        if flops or traffic:
            row += [
                format_flops(group.flops) if group.flops else "-",
                format_percent(group.flops / flops) if group.flops else "-",
                format_bytes(group.bytes) if group.bytes else "-",
                format_bytes(group.bytes_weights) if group.bytes_weights else "-",
                f"{group.intensity:.2f}" if group.flops else "-",
            ]
        table.add_row(*row)
    return table


def operator_table(operators: Sequence[OpCost]) -> Table:
    """Every operator, in the order of the graph."""
    table = plain.table("Operators", note=unknown_note(operators))
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
            plain.text(cost.name),
            plain.text(cost.op),
            format_shape(cost.shape_out) if cost.shape_out else "",
            format_flops(cost.flops) if cost.flops else "-",
            format_percent(cost.flops / total) if cost.flops else "-",
            format_bytes(traffic) if traffic else "-",
        )
    return table


def deployments_table(deployments: Iterable[Deployment]) -> Table:
    """What was built for which target, whether it is right, and how fast it is."""
    table = plain.table("Deployments", leading=1)
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
            plain.text(*libraries),
            outputs_cell(deployment.discrepancy, deployment.verified),
            plain.text(*latency_lines(deployment.measurement)),
        )
    return table


def discrepancy_table(discrepancy: Discrepancy) -> Table:
    """Each output against the reference."""
    table = plain.table(
        f"Outputs against {printable(discrepancy.reference)}",
        note=f"Tolerance: {discrepancy.tolerance}",
    )
    table.add_column("Output", overflow="fold")
    for name in ("Max abs", "Max rel", "Cosine", "Outside tolerance"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Verdict", no_wrap=True)
    for output in discrepancy.outputs:
        table.add_row(
            plain.text(output.name),
            format_error(output.max_abs),
            format_error(output.max_rel),
            format_cosine(output.cosine),
            f"{output.violations} of {output.elements}",
            plain.verdict(discrepancy.tolerance.accepts(output)),
        )
    return table


def targets_table(targets: Iterable[TargetSpec]) -> Table:
    """Targets that can be compiled for."""
    table = plain.table("Targets")
    table.add_column("Target", no_wrap=True)
    table.add_column("Code", no_wrap=True)
    table.add_column("Processor", overflow="fold")
    table.add_column("Cores", justify="right", no_wrap=True)
    table.add_column("Description", overflow="fold", ratio=1)
    for target in targets:
        table.add_row(
            Text(printable(target.name), style="bold"),
            target.kind,
            plain.text(_processor(target)),
            str(target.cpu.cores),
            plain.text(target.description),
        )
    return table


def unsupported_table(nodes: Mapping[str, Sequence[str]]) -> Table:
    """Operators that cannot be compiled, with the nodes that use them."""
    table = plain.table("Operators that cannot be compiled")
    table.add_column("Operator", overflow="fold")
    table.add_column("Count", justify="right", no_wrap=True)
    table.add_column("Nodes", overflow="fold")
    for op, names in nodes.items():
        table.add_row(plain.text(op), str(len(names)), plain.text(", ".join(names)))
    return table


def target_details(target: TargetSpec) -> Table:
    """Everything that is known of one target."""
    cpu, gpu = target.cpu, target.gpu
    facts = [
        ("target", target.name),
        ("description", target.description),
        ("code", target.kind),
        ("triple", cpu.triple),
        ("CPU", " ".join((cpu.mcpu, *cpu.mattr))),
        ("must have", " ".join(cpu.features)),
        ("cores", str(cpu.cores)),
        ("SIMD", f"{cpu.vector_registers} registers of {cpu.vector_bits} bits"),
        ("L1 data cache", f"{cpu.l1d_bytes // 1024} KiB"),
        ("L2 cache", f"{cpu.l2_bytes // 1024} KiB"),
    ]
    if gpu is not None:
        facts += [
            ("GPU", f"{gpu.kind} {gpu.arch}"),
            ("threads a block", f"at most {gpu.max_threads_per_block}"),
            ("shared memory", f"{gpu.max_shared_memory_per_block_bytes // 1024} KiB a block"),
            ("warp", f"{gpu.thread_warp_size} threads"),
        ]
    facts += [("linker", target.cross_compiler), ("source", target.source)]
    return facts_table((name, value) for name, value in facts if value)


def files_table(files: Iterable[FileRecord]) -> Table:
    """Files of a bundle."""
    table = plain.table("Files")
    table.add_column("File", overflow="fold")
    table.add_column("Size", justify="right", no_wrap=True)
    table.add_column("SHA-256", no_wrap=True)
    for file in files:
        table.add_row(plain.text(file.file), format_bytes(file.size_bytes), file.sha256[:16])
    return table


def decisions_table(decisions: Sequence[Decision], *, every: bool = False) -> Group:
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


def _target_lines(target: TargetSpec, deployment: str) -> list[str]:
    lines = [target.name] if target.name != deployment else []
    if target.gpu:
        return [*lines, f"{target.gpu.kind} {target.gpu.arch}", target.cpu.triple]
    return [*lines, target.cpu.triple, target.cpu.mcpu]


def _processor(target: TargetSpec) -> str:
    if target.gpu:
        return f"{target.gpu.arch} + {target.cpu.arch}"
    return f"{target.cpu.arch} {target.cpu.mcpu} {target.cpu.vector_bits}-bit SIMD"
