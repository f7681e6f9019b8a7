"""`tvm-iovt doctor`."""

from __future__ import annotations

import sys

import click

from tvm_iovt.cli.options import common_options, print_json
from tvm_iovt.errors import ToolchainError


@click.command("doctor")
@common_options
def doctor_command(as_json: bool, verbosity: int) -> None:
    """Tell what this machine can build and run, and what is missing for the rest.

    Exits with 4 when not even this machine's own CPU can be compiled for.
    """
    from tvm_iovt.doctor import examine
    from tvm_iovt.json_codec import to_json
    from tvm_iovt.report import tables

    findings = examine()
    if as_json:
        print_json([to_json(finding) for finding in findings])
    else:
        tables.render(tables.findings_table(findings), sys.stdout)
    broken = [finding for finding in findings if finding.required and not finding.ok]
    if broken:
        raise ToolchainError(
            "This machine cannot compile models",
            seen="; ".join(f"{finding.name}: {finding.detail}" for finding in broken),
            do=broken[0].cure,
        )
