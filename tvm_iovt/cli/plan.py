"""`tvm-iovt plan`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tvm_iovt.cli.options import (
    common_options,
    input_shape_option,
    kernel_options,
    plan_options,
    print_json,
)

if TYPE_CHECKING:
    from tvm_iovt.planning.plan_file import PlanFile


@click.command("plan")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--targets",
    required=True,
    help="Comma-separated devices, such as host,arm or host/1,host/1 (two stages of a thread each).",
)
@plan_options
@click.option(
    "--measure",
    is_flag=True,
    help="Time the operators on this machine's CPU, in place of predicting them.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write the plan, for compile --plan."
)
@input_shape_option
@kernel_options
@common_options
def plan_command(
    model: Path,
    targets: str,
    objective: str | None,
    cuts: str,
    links: tuple[str, ...],
    measure: bool,
    output: Path | None,
    input_shapes: tuple[str, ...],
    fuse: str,
    precision: str,
    winograd: bool,
    as_json: bool,
    verbosity: int,
) -> None:
    """Decide where MODEL is cut, and which device runs which part.

    Prints the stages, what is expected of them, why each cut lies where it does, and what the plan
    was compared with; -v adds every unit's time on every device. The file that -o writes can be
    edited (move names of units from one stage to another) and built with `compile --plan`.
    """
    from tvm_iovt.cli.progress import steps
    from tvm_iovt.frontend.shapes import parse_input_shapes
    from tvm_iovt.planning.model_plan import PlanOptions, plan_model
    from tvm_iovt.planning.plan_file import write_plan
    from tvm_iovt.types import to_json

    options = PlanOptions(
        targets=targets,
        objective=objective or ("" if cuts else "latency"),
        cuts=tuple(cut.strip() for cut in cuts.split(",") if cut.strip()),
        links=links,
        measure=measure,
        input_shapes=parse_input_shapes(input_shapes),
        fuse=fuse,
        precision=precision,
        winograd=winograd,
    )
    with steps() as progress:
        file = plan_model(model, options, progress=progress)
    if output is not None:
        write_plan(output, file)
    if as_json:
        print_json(to_json(file))
        return
    print_plan(file, verbosity=verbosity)
    if output is not None:
        click.echo(f"wrote {output}; build it with: tvm-iovt compile {model} --plan {output}")


def print_plan(file: PlanFile, *, verbosity: int) -> None:
    """The plan as tables on stdout."""
    from tvm_iovt.report import tables
    from tvm_iovt.report.plan_tables import plan_tables

    for part in plan_tables(
        file.plan,
        file.graph,
        file.unit_s,
        file.targets,
        measured=file.measured,
        verbosity=verbosity,
    ):
        tables.render(part, sys.stdout)
