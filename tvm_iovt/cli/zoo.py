"""`tvm-iovt zoo`."""

from __future__ import annotations

from pathlib import Path

import click

from tvm_iovt.cli.options import common_options, print_json


@click.group("zoo")
def zoo() -> None:
    """List and export networks with known accuracy, ready to be compiled."""


@zoo.command("list")
@common_options
def list_command(as_json: bool, verbosity: int) -> None:
    """List the networks, where their weights come from, and what they need to be installed."""
    from tvm_iovt.json_codec import to_json
    from tvm_iovt.zoo import ENTRIES

    if as_json:
        print_json([to_json(entry) for entry in ENTRIES])
        return
    width = max(len(entry.name) for entry in ENTRIES)
    for entry in ENTRIES:
        click.echo(f"{entry.name:<{width}}  {entry.description}")
        details = (
            (
                "input",
                "x".join(map(str, entry.input_shape)) + f" float32, images: {entry.preprocess}",
            ),
            ("origin", entry.origin),
            ("licence", entry.licence),
            ("needs", entry.install or "nothing more"),
        )
        for key, value in details:
            click.echo(f"{'':<{width}}  {key + ':':<9}{value}")


@zoo.command("export")
@click.argument("name")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The ONNX file to write; by default NAME.onnx in the current folder.",
)
@common_options
def export_command(name: str, output: Path | None, as_json: bool, verbosity: int) -> None:
    """Write the network NAME as ONNX, with its preprocessing and class names inside.

    Then: tvm-iovt compile NAME.onnx
    """
    from tvm_iovt.json_codec import to_json
    from tvm_iovt.zoo import export, find

    entry = find(name)
    model = export(name, output or Path(f"{name}.onnx"))
    if as_json:
        print_json(
            {
                "path": str(model.path),
                "preprocess": to_json(model.preprocess),
                "labels": list(model.labels),
                "licence": entry.licence,
            }
        )
        return
    classes = f"{len(model.labels)} class names" if model.labels else "class indices only"
    click.echo(f"{model.path}  (images: {model.preprocess.name}; {classes}; {entry.licence})")
