"""Tables of what happened: runs, checks, accuracies, findings.

Protocols stand for the types that are shown, because reports know `types` and nothing above it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tvm_iovt.report import plain
from tvm_iovt.report.units import (
    format_cosine,
    format_error,
    format_seconds,
    format_seconds_range,
    format_shape,
    printable,
)
from tvm_iovt.types import Discrepancy, Measurement

# ruff: noqa: D102 (the attributes are documented where they are defined)


class CheckLike(Protocol):
    """The check of one deployment against the sample."""

    @property
    def deployment(self) -> str: ...
    @property
    def where(self) -> str: ...
    @property
    def discrepancy(self) -> Discrepancy | None: ...
    @property
    def skipped(self) -> str: ...


class DisagreementLike(Protocol):
    """A file for which the network and its reference name different classes."""

    @property
    def file(self) -> str: ...
    @property
    def label(self) -> int: ...
    @property
    def ours(self) -> int: ...
    @property
    def reference(self) -> int: ...


class AccuracyLike(Protocol):
    """The network against its reference over a set of images."""

    @property
    def images(self) -> int: ...
    @property
    def top1(self) -> float | None: ...
    @property
    def top5(self) -> float | None: ...
    @property
    def reference_top1(self) -> float | None: ...
    @property
    def reference_top5(self) -> float | None: ...
    @property
    def top1_agreement(self) -> float: ...
    @property
    def disagreements(self) -> Sequence[DisagreementLike]: ...
    @property
    def max_abs_difference(self) -> float: ...


class FindingLike(Protocol):
    """One capability of this machine."""

    @property
    def name(self) -> str: ...
    @property
    def ok(self) -> bool: ...
    @property
    def detail(self) -> str: ...
    @property
    def cure(self) -> str: ...
    @property
    def required(self) -> bool: ...


class ClassScoreLike(Protocol):
    """One class of a classifier's answer."""

    @property
    def index(self) -> int: ...
    @property
    def label(self) -> str: ...
    @property
    def score(self) -> float: ...


class OutputSummaryLike(Protocol):
    """What an output tensor looks like."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def minimum(self) -> float: ...
    @property
    def maximum(self) -> float: ...
    @property
    def mean(self) -> float: ...


class AnswerLike(Protocol):
    """The outputs for one input."""

    @property
    def source(self) -> str: ...
    @property
    def top(self) -> Sequence[ClassScoreLike]: ...
    @property
    def outputs(self) -> Sequence[OutputSummaryLike]: ...


class InferenceLike(Protocol):
    """The answers for all inputs."""

    @property
    def deployment(self) -> str: ...
    @property
    def answers(self) -> Sequence[AnswerLike]: ...


def latency_lines(measurement: Measurement | None) -> tuple[str, ...]:
    """`("12.3 ms", "[12.1 .. 13.0 ms]", "end to end, 50 runs")`."""
    if measurement is None:
        return ("not measured",)
    return (
        format_seconds(measurement.median_s),
        f"[{format_seconds_range(measurement.p10_s, measurement.p90_s)}]",
        f"{measurement.scope.replace('_', ' ')}, {measurement.samples} runs",
    )


def outputs_cell(discrepancy: Discrepancy | None, how: str) -> Text:
    """The verdict on the outputs, how they were compared, and the largest errors."""
    if discrepancy is None:
        return Text("not compared", style="yellow").append(f"\n{printable(how)}", style="default")
    cell = plain.verdict(discrepancy.passed)
    lines = [how]
    if discrepancy.outputs:
        outputs, worst = discrepancy.outputs, discrepancy.worst
        lines += [
            f"max abs {format_error(max(output.max_abs for output in outputs))}",
            f"max rel {format_error(max(output.max_rel for output in outputs))}",
            f"cosine {format_cosine(min(output.cosine for output in outputs))}",
        ]
        if worst.violations:
            lines.append(f"{worst.name}: {worst.violations} of {worst.elements} outside")
    for line in filter(None, lines):
        cell.append(f"\n{printable(line)}", style="default")
    return cell


def checks_table(checks: Iterable[CheckLike]) -> Table:
    """Deployments against the bundle's sample."""
    table = plain.table("Checks", leading=1)
    table.add_column("Deployment", overflow="fold")
    table.add_column("Outputs", overflow="fold")
    table.add_column("Reference and tolerance", overflow="fold")
    for check in checks:
        found = check.discrepancy
        against: tuple[str, ...] = ()
        if found is not None:
            against = (found.reference, str(found.tolerance))
        table.add_row(
            Text(printable(check.deployment), style="bold"),
            outputs_cell(found, check.skipped or check.where),
            plain.text(*against),
        )
    return table


def accuracy_table(accuracy: AccuracyLike) -> Group:
    """Accuracy of the network and of its reference, and the files on which they differ."""
    table = plain.table(f"Accuracy on {accuracy.images} images")
    for name in ("", "This bundle", "Reference"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    if accuracy.top1 is not None:
        table.add_row("top-1", _fraction(accuracy.top1), _fraction(accuracy.reference_top1))
    if accuracy.top5 is not None:
        table.add_row("top-5", _fraction(accuracy.top5), _fraction(accuracy.reference_top5))
    table.add_row("same class", _fraction(accuracy.top1_agreement), "")
    table.add_row("max difference", format_error(accuracy.max_abs_difference), "")
    if not accuracy.disagreements:
        return Group(table)
    differing = plain.table("Images with different classes")
    differing.add_column("File", overflow="fold")
    for name in ("This bundle", "Reference", "Label"):
        differing.add_column(name, justify="right", no_wrap=True)
    for item in accuracy.disagreements:
        label = str(item.label) if item.label >= 0 else "-"
        differing.add_row(plain.text(item.file), str(item.ours), str(item.reference), label)
    return Group(table, Text(""), differing)


def findings_table(findings: Iterable[FindingLike]) -> Table:
    """What this machine can do, and what to do about the rest."""
    table = plain.table("This machine")
    table.add_column("", no_wrap=True)
    table.add_column("Capability", overflow="fold")
    table.add_column("Found", overflow="fold", ratio=1)
    for finding in findings:
        state = Text("ok", "green") if finding.ok else Text("missing", "yellow")
        if finding.required and not finding.ok:
            state = Text("BROKEN", "bold red")
        lines = [finding.detail] + ([f"do: {finding.cure}"] if finding.cure else [])
        table.add_row(state, plain.text(finding.name), plain.text(*filter(None, lines)))
    return table


def inference_table(inference: InferenceLike) -> Group:
    """The classes of every image, or the range of every output."""
    answers = inference.answers
    parts: list[RenderableType] = []
    classified = [answer for answer in answers if answer.top]
    if classified:
        parts.append(_classes(classified, inference.deployment))
    others = [answer for answer in answers if not answer.top]
    if others:
        if parts:
            parts.append(Text(""))
        parts.append(_ranges(others, inference.deployment))
    return Group(*parts)


def _classes(answers: Sequence[AnswerLike], deployment: str) -> Table:
    table = plain.table(f"Classes, by {printable(deployment)}", leading=1)
    table.add_column("Input", overflow="fold")
    table.add_column("Class", overflow="fold")
    table.add_column("Score", justify="right", no_wrap=True)
    for answer in answers:
        table.add_row(
            plain.text(answer.source),
            plain.text(*(score.label for score in answer.top)),
            plain.text(*(f"{score.score:.4f}" for score in answer.top)),
        )
    return table


def _ranges(answers: Sequence[AnswerLike], deployment: str) -> Table:
    table = plain.table(f"Outputs, by {printable(deployment)}")
    table.add_column("Input", overflow="fold")
    table.add_column("Output", overflow="fold")
    table.add_column("Shape", overflow="fold")
    for name in ("Minimum", "Mean", "Maximum"):
        table.add_column(name, justify="right", no_wrap=True)
    for answer in answers:
        for position, output in enumerate(answer.outputs):
            table.add_row(
                plain.text(answer.source if position == 0 else ""),
                plain.text(output.name),
                format_shape(output.shape),
                *(f"{value:.4g}" for value in (output.minimum, output.mean, output.maximum)),
            )
    return table


def _fraction(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
