"""The plans of `tvm-iovt plan` other than one model's for an objective: which one is asked for."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tvm_iovt.cli.options import print_json
from tvm_iovt.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tvm_iovt.planning.model_plan import PlanOptions

    _Found = tuple[Any, Sequence[RenderableType]]

DEFAULT, PARETO, TRACE, SPLIT, SHARED = "", "--pareto", "--trace", "--split", "several models"


F = TypeVar("F", bound=Callable[..., Any])


def other_plan_options(function: F) -> F:
    """The flags that ask for one of these plans, and their numbers."""
    for option in (
        click.option(
            "--split",
            is_flag=True,
            help="For each convolution, whether the two targets compute it faster together, split "
            "by rows or channels, than the better one alone.",
        ),
        click.option(
            "--frame-interval",
            default="",
            metavar="TIME",
            help="For --trace: between two frames, such as 33ms.  [default: 30 frames a second]",
        ),
        click.option(
            "--trace",
            type=click.Path(path_type=Path),
            metavar="CSV",
            help="Replay the link's bandwidth over time (a header time_s,bytes_per_s, and rows): "
            "a cut that follows it, against cuts that stay.",
        ),
        click.option(
            "--edge-memory",
            default="",
            metavar="SIZE",
            help="For --pareto: the first target's memory, such as 512MB, over what its file says.",
        ),
        click.option(
            "--memory-share",
            type=float,
            metavar="SHARE",
            help="For --pareto: of the first target's memory, what the network may use.  "
            "[default: 0.1]",
        ),
        click.option(
            "--pareto",
            is_flag=True,
            help="All splits between the two targets that no other beats in latency and in use of "
            "the first one's memory; -o writes the plan of the knee.",
        ),
    ):
        function = option(function)
    return function


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the command line says that not every plan can have.

    Attributes:
        models: Files.
        pareto: Of that flag.
        trace: File of a trace.
        split: Of that flag.
        objective: Stated; None by default.
        cuts: Stated.
        memory_share: Stated; None by default.
        edge_memory: Stated; empty by default.
        frame_interval: Stated; empty by default.
        output: File for a plan.
    """

    models: tuple[Path, ...]
    pareto: bool
    trace: Path | None
    split: bool
    objective: str | None
    cuts: str
    memory_share: float | None
    edge_memory: str
    frame_interval: str
    output: Path | None


def mode_of(asked: Asked) -> str:
    """Which plan is asked for, and nothing beside that it cannot have.

    Raises:
        UsageError: Two of them are, or an option has no meaning for it.
    """
    modes = [
        mode
        for mode, given in (
            (PARETO, asked.pareto),
            (TRACE, asked.trace is not None),
            (SPLIT, asked.split),
            (SHARED, len(asked.models) > 1),
        )
        if given
    ]
    if len(modes) > 1:
        raise UsageError(f"{' and '.join(modes)} are different plans", do="ask for one at a time")
    mode = modes[0] if modes else DEFAULT
    for option, given, of in (
        ("--objective", asked.objective is not None, (DEFAULT, SHARED)),
        ("--cuts", bool(asked.cuts), (DEFAULT,)),
        ("--output", asked.output is not None, (DEFAULT, PARETO)),
        ("--memory-share", asked.memory_share is not None, (PARETO,)),
        ("--edge-memory", bool(asked.edge_memory), (PARETO,)),
        ("--frame-interval", bool(asked.frame_interval), (TRACE,)),
    ):
        if given and mode not in of:
            needed = " or ".join(each for each in of if each.startswith("--"))
            raise UsageError(
                f"{option} has no meaning here",
                seen=f"{option} with {mode}" if mode else f"{option} without {needed}",
                do=f"leave {option} out" + (f", or add {needed}" if not mode else ""),
            )
    return mode


def run_mode(
    mode: str, asked: Asked, options: PlanOptions, *, as_json: bool, verbosity: int
) -> None:
    """Make the plan of a mode other than `DEFAULT`, and print it."""
    from tvm_iovt.json_codec import to_json
    from tvm_iovt.report import tables

    value, parts = {PARETO: _pareto, TRACE: _trace, SPLIT: _split, SHARED: _shared}[mode](
        asked, options, verbosity
    )
    if as_json:
        print_json(to_json(value))
        return
    for part in parts:
        tables.render(part, sys.stdout)
    if asked.output is not None:
        model, output = asked.models[0], asked.output
        click.echo(f"wrote {output}; build it with: tvm-iovt compile {model} --plan {output}")


def _pareto(asked: Asked, options: PlanOptions, _verbosity: int) -> _Found:
    from tvm_iovt.cli.progress import steps
    from tvm_iovt.cli.quantities import parse_size
    from tvm_iovt.planning.pareto_plan import ParetoRequest, plan_pareto
    from tvm_iovt.planning.plan_file import write_plan
    from tvm_iovt.report.plan_extras import pareto_tables

    request = ParetoRequest(
        edge_memory_bytes=parse_size(asked.edge_memory) if asked.edge_memory else 0
    )
    if asked.memory_share is not None:
        request = dataclasses.replace(request, memory_share=asked.memory_share)
    with steps() as progress:
        front, file = plan_pareto(asked.models[0], options, request, progress=progress)
    if asked.output is not None:
        write_plan(asked.output, file)
    return front, pareto_tables(front)


def _trace(asked: Asked, options: PlanOptions, verbosity: int) -> _Found:
    from tvm_iovt.cli.progress import steps
    from tvm_iovt.cli.quantities import parse_interval
    from tvm_iovt.planning.trace_plan import TraceRequest, plan_trace
    from tvm_iovt.report.plan_extras import trace_tables

    assert asked.trace is not None
    request = TraceRequest(path=asked.trace)
    if asked.frame_interval:
        request = dataclasses.replace(
            request, frame_interval_s=parse_interval(asked.frame_interval)
        )
    with steps() as progress:
        found = plan_trace(asked.models[0], options, request, progress=progress)
    return found, trace_tables(found, verbosity=verbosity)


def _split(asked: Asked, options: PlanOptions, verbosity: int) -> _Found:
    from tvm_iovt.cli.progress import steps
    from tvm_iovt.planning.operator_splits import plan_splits
    from tvm_iovt.report.plan_extras import split_tables

    with steps() as progress:
        found = plan_splits(asked.models[0], options, progress=progress)
    return found, split_tables(found, verbosity=verbosity)


def _shared(asked: Asked, options: PlanOptions, _verbosity: int) -> _Found:
    from tvm_iovt.cli.progress import steps
    from tvm_iovt.planning.shared_server import plan_shared
    from tvm_iovt.report.plan_extras import shared_tables

    with steps() as progress:
        found = plan_shared(asked.models, options, progress=progress)
    return found, shared_tables(found)
