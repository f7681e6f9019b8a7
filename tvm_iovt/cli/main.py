"""The `tvm-iovt` command: finds the verb, and turns errors into messages and exit codes."""

from __future__ import annotations

import importlib
import json
import signal
import sys
from types import FrameType
from typing import Any

import click

from tvm_iovt._version import __version__
from tvm_iovt.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_OK, IovtError
from tvm_iovt.interrupts import InterruptedByUser, interrupt_inside

# Verb, the module and attribute of its command, and its line in --help (kept here so that --help
# need not import the verbs).
VERBS = (
    ("compile", "compile", "compile_command", "Compile a model to a verified bundle."),
    ("plan", "plan", "plan_command", "Decide where a model is cut, and what runs where."),
    ("fuse", "fuse", "fuse_command", "Fold what is linear in an ONNX model; write ONNX again."),
    ("tune", "tune", "tune_command", "Search faster schedules by measuring; resumable."),
    ("logs", "logs", "logs", "Show, merge, prune and share tuning records."),
    ("run", "run", "run_command", "Run a bundle on images, arrays or a folder."),
    ("verify", "verify", "verify_command", "Check a bundle against its sample, model or data."),
    ("bench", "bench", "bench_command", "Measure bundles here or on a board, and compare them."),
    ("board", "board", "board_command", "Serve this machine as a board of a tracker."),
    ("tracker", "tracker", "tracker_command", "Run the tracker that hands out boards."),
    ("inspect", "inspect", "inspect", "Show what a model or a bundle contains."),
    ("report", "report", "report_command", "Draw a bundle or a plan as one HTML file."),
    ("bundle", "bundle", "bundle", "Check a bundle, or pack it for a board without Python."),
    ("targets", "targets", "targets_command", "List the targets, or show one."),
    ("zoo", "zoo", "zoo", "List and export known models."),
    ("doctor", "doctor", "doctor_command", "Tell what this machine can build and run."),
)


class _LazyGroup(click.Group):
    """Imports a verb's module only when the verb is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, *_ in VERBS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for name, module, attribute, _ in VERBS:
            if name == cmd_name:
                command = getattr(importlib.import_module(f"tvm_iovt.cli.{module}"), attribute)
                assert isinstance(command, click.Command)
                return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, text) for name, _, _, text in VERBS])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tvm-iovt")
def cli() -> None:
    """Compile vision networks for the devices of a video-edge system.

    \b
    tvm-iovt compile model.onnx --targets host,arm
    tvm-iovt run model.iovt photo.jpg

    Exit codes: 0 ok, 2 usage, 3 model, 4 target or toolchain, 5 device, 6 numerics, 7 tuning,
    8 bundle, 130 interrupted, 1 a bug of ours.
    """  # noqa: D301  # click's marker for a paragraph to leave as it is


def _on_signal(_signal: int, _frame: FrameType | None) -> None:
    raise InterruptedByUser


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit the process with the code that the outcome stands for."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)
    sys.exit(run(arguments))


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    try:
        code = cli.main(arguments, prog_name="tvm-iovt", standalone_mode=False)
        return code if isinstance(code, int) else EXIT_OK
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _interrupted()
    except BrokenPipeError:
        # The reader of our output has seen enough (`| head`); nothing is wrong.
        sys.stderr.close()
        return EXIT_OK
    except IovtError as error:
        if interrupt_inside(error):  # taken for a failure of TVM, which it came through
            return _interrupted()
        _print_error(error, arguments)
        return error.exit_code
    except Exception as error:
        if interrupt_inside(error):
            return _interrupted()
        return _bug(error, arguments)


def _interrupted() -> int:
    click.echo("\ninterrupted; nothing was left half-written", err=True)
    return EXIT_INTERRUPTED


def _print_error(error: IovtError, arguments: list[str]) -> None:
    if "--json" in arguments:
        fields: dict[str, Any] = {"what": error.what, "seen": error.seen, "do": error.do}
        click.echo(json.dumps({"error": {**fields, "exit_code": error.exit_code}}))
    click.echo(click.style("error: ", fg="red", bold=True) + str(error), err=True)
    if "-vv" in arguments:
        _print_trace(error)


def _bug(error: Exception, arguments: list[str]) -> int:
    click.echo(
        f"internal error: {type(error).__name__}: {error}\n"
        "  do:   this is a bug of tvm-iovt; run again with -vv and report what it prints",
        err=True,
    )
    if "-vv" in arguments:
        _print_trace(error)
    return EXIT_BUG


def _print_trace(error: BaseException) -> None:
    import traceback

    traceback.print_exception(error, file=sys.stderr)
