"""`tvm-iovt plan`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tvm_iovt.cli.option_groups import GroupedCommand
from tvm_iovt.cli.options import (
    common_options,
    input_shape_option,
    kernel_options,
    plan_options,
    print_json_after,
)
from tvm_iovt.cli.plan_modes import DEFAULT, Asked, mode_of, other_plan_options, run_mode

if TYPE_CHECKING:
    from tvm_iovt.planning.plan_file import PlanFile


@click.command(
    "plan",
    cls=GroupedCommand,
    groups={
        "Other plans": (
            "pareto",
            "memory_share",
            "edge_memory",
            "trace",
            "frame_interval",
            "split",
        ),
        "The network": ("input_shapes", "fuse", "precision", "winograd"),
        "Output": ("output", "as_json", "verbosity", "config", "help"),
    },
)
@click.argument(
    "models", metavar="MODEL...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--targets",
    required=True,
    help="Comma-separated devices, such as host,arm or host/1,host/1 (two stages, each of a "
    "thread).",
)
@plan_options
@click.option(
    "--measure",
    is_flag=True,
    help="Time the operators on this machine's CPU, in place of predicting them.",
)
@other_plan_options
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write the plan, for compile --plan."
)
@input_shape_option
@kernel_options
@common_options
def plan_command(
    models: tuple[Path, ...],
    targets: str,
    objective: str | None,
    cuts: str,
    links: tuple[str, ...],
    measure: bool,
    pareto: bool,
    memory_share: float | None,
    edge_memory: str,
    trace: Path | None,
    frame_interval: str,
    split: bool,
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

    Several models, each on an edge device of its own (the first target), share the cores of a
    server (the second target), so that their longest latency is least.

    With several models, --pareto and --trace the frames come from the first target, and --link is
    of the way between the two.
    """
    from tvm_iovt.cli.progress import steps
    from tvm_iovt.frontend.shapes import parse_input_shapes
    from tvm_iovt.json_codec import to_json
    from tvm_iovt.planning.model_plan import PlanOptions, plan_model
    from tvm_iovt.planning.plan_file import write_plan

    asked = Asked(
        models=models,
        pareto=pareto,
        trace=trace,
        split=split,
        objective=objective,
        cuts=cuts,
        memory_share=memory_share,
        edge_memory=edge_memory,
        frame_interval=frame_interval,
        output=output,
    )
    mode = mode_of(asked)
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
    if mode != DEFAULT:
        run_mode(mode, asked, options, as_json=as_json, verbosity=verbosity)
        return
    model = models[0]
    with steps() as progress:
        file = plan_model(model, options, progress=progress)
    print_notes(file)
    if as_json:
        with print_json_after(to_json(file)):
            if output is not None:
                write_plan(output, file)
        return
    print_plan(file, verbosity=verbosity)
    if output is not None:
        write_plan(output, file)  # after the tables: a full disk must not cost a measured plan
        click.echo(f"wrote {output}; build it with: tvm-iovt compile {model} --plan {output}")


def print_notes(file: PlanFile) -> None:
    """What a plan rests on that a user may not expect, on stderr."""
    from tvm_iovt.planning.thread_notes import thread_notes

    for note in thread_notes(file):
        click.echo(f"note: {note}", err=True)


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
