"""`tvm-iovt targets`."""

from __future__ import annotations

import sys

import click

from tvm_iovt.cli.options import common_options, print_json


@click.command("targets")
@click.argument("name", required=False)
@common_options
def targets_command(name: str | None, as_json: bool, verbosity: int) -> None:
    """List the targets, or show the one called NAME with everything that is known of it.

    Your own targets are TOML files in ~/.config/tvm-iovt/targets, or in the `targets` folder of
    any path in $TVM_IOVT_PATH; a path to a .toml file works too.
    """
    from tvm_iovt import targets
    from tvm_iovt.report import tables
    from tvm_iovt.types import to_json

    specs = [targets.load(name)] if name else [targets.load(each) for each in targets.names()]
    if as_json:
        print_json([to_json(spec) for spec in specs])
    elif name:
        tables.render(tables.target_details(specs[0]), sys.stdout)
    else:
        tables.render(tables.targets_table(specs), sys.stdout)
