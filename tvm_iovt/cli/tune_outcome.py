"""What `tvm-iovt tune` leaves behind: a summary on stdout, and reports."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tvm_iovt._version import __version__
from tvm_iovt.errors import UsageError

if TYPE_CHECKING:
    from tvm_iovt.report.tune_history import TuneHistory
    from tvm_iovt.tuner import TuneOptions


def print_outcome(model: Path, options: TuneOptions, history: TuneHistory) -> None:
    """On stdout: what was gained, at what cost, where it is and how it is used."""
    from tvm_iovt.report import tables
    from tvm_iovt.report.tune_tables import outcome_table, summary_lines

    outcome = history.outcome
    assert outcome is not None
    tables.render(outcome_table(history), sys.stdout)
    # Not through the table's renderer: lines are never broken, so that they can be searched.
    for line in summary_lines(history):
        click.echo(line)
    click.echo(f"records: {outcome.records}")
    if any(task.chosen == "search" for task in outcome.tasks):
        click.echo(how_to_use(model, options))


def how_to_use(model: Path, options: TuneOptions) -> str:
    """The command that compiles the model with the schedules found, as a sentence."""
    from tvm_iovt import resources
    from tvm_iovt.tuning.kernel_records import FOLDER

    command = _compile_command(model, options)
    default = resources.search_path(FOLDER)[0]
    logs = default if options.logs is None else options.logs.absolute()
    if logs == default:
        return f"`{command}` uses them by itself"
    if logs.name == FOLDER:
        return f"`TVM_IOVT_PATH={shlex.quote(str(logs.parent))} {command}` uses them"
    merge = shlex.join(["tvm-iovt", "logs", "merge", str(logs), "--into", str(default)])
    return f"`{merge}` puts them where `{command}` uses them by itself"


def _compile_command(model: Path, options: TuneOptions) -> str:
    words = ["tvm-iovt", "compile", str(model), "--targets", options.target]
    for name, shape in options.input_shapes.items():
        words += ["--input-shape", f"{name}={'x'.join(map(str, shape))}"]
    if options.fuse != "auto":
        words += ["--fuse", options.fuse]
    if options.precision != "fp32":
        words += ["--precision", options.precision]
    if not options.winograd:
        words.append("--no-winograd")
    return shlex.join(words)


def write_reports(file: Path | None, history: TuneHistory, options: TuneOptions) -> None:
    """The HTML report, beside the records and, if there is such a path, in `file`.

    Raises:
        UsageError: `file` cannot be written; a report beside the records that cannot is noted.
    """
    from tvm_iovt.atomic_write import write_atomically
    from tvm_iovt.report.tune_earlier import earlier_trials
    from tvm_iovt.report.tune_page import tune_page

    outcome = history.outcome
    assert outcome is not None
    if history.started is not None:
        history.earlier = earlier_trials(history.started, Path(outcome.records))
    content = tune_page(history, settings(options)).encode()
    beside = Path(outcome.records) / "runs" / f"{outcome.run}.html"
    try:
        write_atomically(beside, content)
    except UsageError as error:
        # The records are what counts, and they are written; a full disk must not turn a good run
        # into a failed one.
        click.echo(f"note: {error.what}: {error.seen}", err=True)
    else:
        click.echo(f"report: {beside}", err=True)
    if file is not None:
        write_atomically(file, content)
        click.echo(f"report: {file}", err=True)


def write_unfinished(file: Path | None, history: TuneHistory, options: TuneOptions) -> None:
    """The report of a run that was interrupted or failed, where one was asked for."""
    from tvm_iovt.atomic_write import write_atomically
    from tvm_iovt.report.tune_page import tune_page

    if file is None or history.started is None:
        return
    try:
        write_atomically(file, tune_page(history, settings(options)).encode())
    except UsageError as error:
        click.echo(f"note: {error.what}: {error.seen}", err=True)
    else:
        click.echo(f"report: {file}", err=True)


def settings(options: TuneOptions) -> tuple[tuple[str, str], ...]:
    """What the run was told and which versions did it, as the report shows it."""
    from importlib.metadata import version

    yes_no = {True: "yes", False: "no"}
    shapes = ", ".join(
        f"{name} {'x'.join(map(str, shape))}" for name, shape in options.input_shapes.items()
    )
    rows = (
        ("Fold branches", options.fuse),
        ("Precision", options.precision),
        ("Winograd", yes_no[options.winograd]),
        ("Input shapes", shapes),
        ("Plan", str(options.plan or "")),
        ("Search", {"xgb": "learned cost model", "random": "random"}[options.cost_model]),
        ("Builds at a time", str(options.jobs or "one for each core")),
        (
            "Time limits",
            f"{options.build_timeout_s:g} s a build, {options.run_timeout_s:g} s a run",
        ),
        ("Boards", f"key {options.key} at {options.tracker}" if options.tracker else ""),
        ("Dask scheduler", options.dask),
        ("tvm-iovt", __version__),
        ("TVM", version("apache-tvm")),
        ("TVM FFI", version("apache-tvm-ffi")),
    )
    return tuple((name, value) for name, value in rows if value)
