"""`tvm-iovt tune`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tvm_iovt.cli.durations import parse_duration
from tvm_iovt.cli.options import (
    board_options,
    common_options,
    cross_compiler_option,
    input_shape_option,
    kernel_options,
)
from tvm_iovt.errors import EXIT_INTERRUPTED, EXIT_OK, UsageError
from tvm_iovt.interrupts import interrupt_inside

if TYPE_CHECKING:
    from tvm_iovt.report.tune_history import TuneHistory
    from tvm_iovt.tuner import TuneOptions
    from tvm_iovt.tuning.events import Event

DEFAULT_TIME = "10m"


@click.command("tune")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--target",
    default="host",
    show_default=True,
    help="What to tune for; several, separated by commas, are tuned one after another, each with "
    "the whole budget.",
)
@click.option("--trials", type=click.IntRange(min=1), help="Stop after this many trials.")
@click.option(
    "--time",
    help=f"Stop after 90s, 20m, 1h30m; default without --trials: "
    f"{DEFAULT_TIME}. With both, whichever ends first.",
)
@board_options
@click.option(
    "--jobs", type=click.IntRange(min=0), default=0, help="Builds at a time; default: all cores."
)
@click.option("--dask", default="", metavar="HOST:PORT", help="Build on this dask scheduler too.")
@click.option(
    "--logs",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the records; default: the user's, where `compile` finds them.",
)
@click.option("--restart", is_flag=True, help="Begin anew where an interrupted run could go on.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the HTML report here too, not only beside the records.",
)
@input_shape_option
@kernel_options
@click.option("--plan", type=click.Path(path_type=Path), help="Tune the stages of this plan.")
@click.option(
    "--cost-model",
    type=click.Choice(["xgb", "random"]),
    default="xgb",
    show_default=True,
    help="What chooses the schedules to try: learned from the measurements, or chance.",
)
@cross_compiler_option
@click.option(
    "--build-timeout",
    default="30s",
    show_default=True,
    help="A build that takes longer has failed.",
)
@click.option(
    "--run-timeout", default="30s", show_default=True, help="As for builds: check and timing."
)
@common_options
def tune_command(
    model: Path,
    target: str,
    trials: int | None,
    time: str | None,
    tracker: str,
    key: str,
    jobs: int,
    dask: str,
    logs: Path | None,
    restart: bool,
    report: Path | None,
    input_shapes: tuple[str, ...],
    fuse: str,
    precision: str,
    winograd: bool,
    plan: Path | None,
    cost_model: str,
    cross_compiler: str,
    build_timeout: str,
    run_timeout: str,
    as_json: bool,
    verbosity: int,
) -> int:
    """Search faster schedules for the kernels of MODEL by measuring them.

    Every measurement is kept: an interrupted run goes on where it stopped when the same command is
    given again, and `tvm-iovt compile` uses what was found by itself. --json prints the events of
    the run, one JSON object a line, the outcome last.
    """
    from tvm_iovt.frontend.shapes import parse_input_shapes

    if time is None and trials is None:
        time = DEFAULT_TIME
    names = target_names(target)
    time_s = parse_duration(time) if time is not None else None
    timeouts_s = parse_duration(build_timeout), parse_duration(run_timeout)
    shapes = parse_input_shapes(input_shapes)

    from tvm_iovt.tuner import TuneOptions

    for name in names:
        options = TuneOptions(
            target=name,
            input_shapes=shapes,
            trials=trials,
            time_s=time_s,
            jobs=jobs,
            tracker=tracker,
            key=key,
            dask=dask,
            fuse=fuse,
            precision=precision,
            winograd=winograd,
            logs=logs,
            restart=restart,
            cost_model=cost_model,
            cross_compiler=cross_compiler,
            plan=plan,
            build_timeout_s=timeouts_s[0],
            run_timeout_s=timeouts_s[1],
        )
        file = report_file(report, name, several=len(names) > 1)
        code = tune_target(model, options, file, stream=as_json, summary=not as_json)
        if code != EXIT_OK:
            return code
    return EXIT_OK


def tune_target(
    model: Path, options: TuneOptions, file: Path | None, *, stream: bool, summary: bool
) -> int:
    """Tune for one target, with progress, summary and reports; returns the exit code.

    Args:
        model: The network.
        options: See `TuneOptions`.
        file: Where the report goes, besides its place at the records.
        stream: Print events on stdout, as JSON.
        summary: Print what was gained on stdout.

    Raises:
        IovtError: See `tuner.tune_model`.
    """
    from tvm_iovt.cli.tune_outcome import print_outcome, write_reports, write_unfinished
    from tvm_iovt.report.tune_history import TuneHistory

    history = TuneHistory()
    try:
        _tune(model, options, history, as_json=stream)
    except BaseException as error:
        write_unfinished(file, history, options)
        if interrupt_inside(error) and history.started is not None:
            click.echo(
                f"\ninterrupted: {history.trials_done} trials are safe; run the same command "
                "to go on",
                err=True,
            )
            return EXIT_INTERRUPTED
        raise
    if summary:
        print_outcome(model, options, history)
    write_reports(file, history, options)
    return EXIT_OK


def target_names(text: str) -> tuple[str, ...]:
    """`"host, arm"` -> `("host", "arm")`.

    Raises:
        UsageError: There is none, or one twice.
    """
    names = tuple(filter(None, (part.strip() for part in text.split(","))))
    if not names or len(set(names)) < len(names):
        raise UsageError(
            "--target should name each target once",
            seen=repr(text),
            do="for example --target host,arm; `tvm-iovt targets` lists them",
        )
    return names


def report_file(report: Path | None, target: str, *, several: bool) -> Path | None:
    """Where `--report` goes: a file for each target, if there are several."""
    if report is None or not several:
        return report
    suffix = "".join(c if c.isalnum() or c in "-_" else "-" for c in target)
    return report.with_name(f"{report.stem}-{suffix}{report.suffix or '.html'}")


def _tune(model: Path, options: TuneOptions, history: TuneHistory, *, as_json: bool) -> None:
    from tvm_iovt.report.tune_progress import tune_progress
    from tvm_iovt.tuner import tune_model

    # A display that is redrawn and a stream of lines on one terminal would overwrite each other.
    live = sys.stderr.isatty() and not (as_json and sys.stdout.isatty())
    with tune_progress(history, sys.stderr, live=live) as show:
        listen = _json_too(show) if as_json else show
        outcome = tune_model(model, options, listen=listen)
        if history.outcome is None:
            listen(outcome)


def _json_too(show: Callable[[Event], None]) -> Callable[[Event], None]:
    """A listener that also prints each event as a line of JSON on stdout."""
    from tvm_iovt.json_codec import to_json

    def listen(event: Event) -> None:
        show(event)
        click.echo(json.dumps(to_json(event), ensure_ascii=False, allow_nan=False))

    return listen
