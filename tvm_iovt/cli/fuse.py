"""`tvm-iovt fuse`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tvm_iovt.cli.options import common_options, input_shape_option, print_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tvm_iovt.onnx_fusion.fuse_file import FusedModel


@click.command("fuse")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Default: MODEL.fused.onnx here."
)
@click.option(
    "--fuse",
    type=click.Choice(["always", "auto"]),
    default="auto",
    show_default=True,
    help="Whatever is exact, or what saves time on the target.",
)
@click.option("--target", default="host", show_default=True, help="Device that auto decides for.")
@input_shape_option
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option("--verify/--no-verify", default=True, help="Compare with the original (default).")
@click.option("--rtol", type=float, help="Tolerance as a share of an output's largest number.")
@click.option("--atol", type=float, help="Absolute tolerance besides.")
@common_options
def fuse_command(
    model: Path,
    output: Path | None,
    fuse: str,
    target: str,
    input_shapes: tuple[str, ...],
    overwrite: bool,
    verify: bool,
    rtol: float | None,
    atol: float | None,
    as_json: bool,
    verbosity: int,
) -> None:
    """Fold MODEL's batch norms, parallel branches and linear sequences; write it as ONNX again.

    MODEL is an .onnx file, the result is one for any runtime. Inputs, outputs, open axes and
    metadata stay. Both models are compared in ONNX Runtime; a difference beyond the tolerance is
    an error (exit 6), and nothing is written. --input-shape is for that comparison alone.
    """
    from tvm_iovt.cli.progress import steps
    from tvm_iovt.frontend.shapes import parse_input_shapes
    from tvm_iovt.onnx_fusion.fuse_file import FuseOptions, fuse_file
    from tvm_iovt.report import tables

    options = FuseOptions(
        output=output,
        overwrite=overwrite,
        fuse=fuse,
        target=target,
        verify=verify,
        input_shapes=parse_input_shapes(input_shapes),
        rtol=rtol,
        atol=atol,
    )
    with steps() as progress:
        result = fuse_file(model, options, progress=progress)
    if as_json:
        print_json(_json(result))
        return
    tables.render(_counts_table(result), sys.stdout)
    if verbosity:
        tables.render(tables.decisions_table(result.decisions), sys.stdout)
    _print_outcome(result)


def _print_outcome(result: FusedModel) -> None:
    from tvm_iovt.report.units import format_error

    if result.fusions:
        click.echo(f"{result.fusions} fusion{'s' * (result.fusions > 1)}")
    else:
        click.echo("nothing to fuse: the model is written as it was (-v tells why)")
    worst = result.worst
    if worst is not None:
        click.echo(
            f"largest difference {format_error(worst.max_abs)}, {format_error(worst.max_rel)} of "
            f"the largest number of {worst.name}; allowed: {worst.limit} "
            f"(input: {worst.sample}; {result.reference})"
        )
    else:
        click.echo("not compared with the original (--no-verify)")
    click.echo(f"wrote {result.path}")


def _counts_table(result: FusedModel) -> RenderableType:
    """Operators whose number changed, and all together."""
    from tvm_iovt.report import plain

    before, after = result.nodes_before, result.nodes_after
    table = plain.table("Operators")
    table.add_column("Type", overflow="fold")
    for name in ("Before", "After"):
        table.add_column(name, justify="right", no_wrap=True)
    for op in sorted({*before, *after}):
        if before.get(op, 0) != after.get(op, 0):
            table.add_row(plain.text(op), str(before.get(op, 0)), str(after.get(op, 0)))
    table.add_row("all", str(sum(before.values())), str(sum(after.values())))
    return table


def _json(result: FusedModel) -> dict[str, object]:
    from tvm_iovt.json_codec import to_json

    worst = result.worst
    return {
        "model": str(result.path),
        "nodes_before": dict(result.nodes_before),
        "nodes_after": dict(result.nodes_after),
        "fusions": result.fusions,
        "decisions": to_json(result.decisions),
        "reference": result.reference,
        "max_abs": None if worst is None else to_json(worst.max_abs),
        "max_rel": None if worst is None else to_json(worst.max_rel),
        "checks": to_json(result.checks),
    }
