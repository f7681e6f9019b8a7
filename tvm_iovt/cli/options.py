"""The options that all verbs share, each defined once."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from tvm_iovt.errors import IovtError, UsageError

F = TypeVar("F", bound=Callable[..., Any])


def _load_config(ctx: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
    """Make the verb's table of a TOML file the defaults of its flags."""
    if value is None:
        return
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        with value.open("rb") as stream:
            tables = tomllib.load(stream)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"Cannot read the configuration {value}", seen=str(error)) from error
    table = tables.get(ctx.info_name or "", {})
    options = [p for p in ctx.command.params if isinstance(p, click.Option)]
    known = {p.name for p in options if p.name != "config"}
    flags = {key.replace("-", "_"): item for key, item in table.items()}
    unknown = sorted(set(flags) - set(known))
    if unknown:
        raise UsageError(
            f"{value}: [{ctx.info_name}] has an unknown key {unknown[0]!r}",
            do="the keys are the verb's flags: " + ", ".join(sorted(filter(None, known))),
        )
    ctx.default_map = {**(ctx.default_map or {}), **flags}


config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    is_eager=True,
    expose_value=False,
    callback=_load_config,
    help="TOML file with a table named after the verb; its keys are the verb's flags.",
)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on stdout."
)

verbose_option = click.option(
    "-v",
    "verbosity",
    count=True,
    help="Explain decisions; twice: show the trace of an error.",
)

input_shape_option = click.option(
    "--input-shape",
    "input_shapes",
    multiple=True,
    metavar="NAME=D0xD1x...",
    help="Static shape of an input that the model leaves open; repeat for each input.",
)

cross_compiler_option = click.option(
    "--cross-compiler", default="", help="Linker command for foreign CPU targets."
)


def board_options(function: F) -> F:
    """`--tracker` and `--key`: where to measure, if not here."""
    tracker = click.option(
        "--tracker", default="", metavar="HOST:PORT", help="Measure on boards of this tracker."
    )
    key = click.option("--key", default="", help="The kind of board, as `board --key` names it.")
    return tracker(key(function))


def kernel_options(function: F) -> F:
    """`--fuse`, `--precision`, `--winograd`: which kernels a network is made of."""
    for option in (
        click.option(
            "--winograd/--no-winograd",
            default=True,
            help="Winograd's algorithm for convolutions, where it is faster and accurate enough "
            "(default).",
        ),
        click.option(
            "--precision",
            type=click.Choice(["fp32", "bf16", "fp16", "int8"]),
            default="fp32",
            show_default=True,
            help="Of convolutions and matrix products. fp32: as the model says, so a quantized "
            "model computes in integers; bf16: operands rounded, sums in float32; fp16: sums too; "
            "int8: integers for a quantized model, an error for others.",
        ),
        click.option(
            "--fuse",
            type=click.Choice(["always", "auto", "never"]),
            default="auto",
            show_default=True,
            help="Fold branches, batch norms and sequences: all that is exact, what saves time, "
            "or none.",
        ),
    ):
        function = option(function)
    return function


def _stated_cuts(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str:
    """The stated cuts; empty without the option, which itself may not be empty."""
    if value is not None and not value.replace(",", "").strip():
        raise UsageError(
            "--cuts names no operator",
            seen=f"--cuts {value!r}",
            do="name the operators to cut behind, or leave --cuts out",
        )
    return value or ""


def plan_options(function: F) -> F:
    """`--objective`, `--cuts`, `--link`: how a network is cut onto several devices."""
    for option in (
        click.option(
            "--link",
            "links",
            multiple=True,
            metavar="TARGET=RATE[,LATENCY]",
            help="The way between the caller and a target, such as arm=100Mbit/s,2ms; over what "
            "the target's file says. Repeat for each.",
        ),
        click.option(
            "--cuts",
            callback=_stated_cuts,
            metavar="OP[,OP...]",
            help="Cut behind these operators; the targets get the parts in order.",
        ),
        click.option(
            "--objective",
            type=click.Choice(["latency", "throughput", "memory", "energy", "paper"]),
            help="Cut the network onto the targets so that this is best: time of one frame, frames "
            "a second of a pipeline, the largest stage's memory, joules, or what the formula of "
            "arXiv 2411.00838 says.",
        ),
    ):
        function = option(function)
    return function


def common_options(function: F) -> F:
    """`--json`, `-v` and `--config`, in that order in the help."""
    for option in (config_option, verbose_option, json_option):
        function = option(function)
    return function


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))


@contextlib.contextmanager
def print_json_after(fields: dict[str, Any]) -> Iterator[None]:
    """Print a result as JSON after the block, which writes files of it.

    Where they cannot be written, the result is not lost: the error is one more field of the same
    document, and on stderr, and the verb exits with the error's code.
    """
    try:
        yield
    except IovtError as error:
        told = {"what": error.what, "seen": error.seen, "do": error.do}
        print_json({**fields, "error": {**told, "exit_code": error.exit_code}})
        click.echo(click.style("error: ", fg="red", bold=True) + str(error), err=True)
        raise click.exceptions.Exit(error.exit_code) from error
    print_json(fields)
