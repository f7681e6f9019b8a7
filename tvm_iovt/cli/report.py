"""`tvm-iovt report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tvm_iovt.cli.options import common_options, print_json
from tvm_iovt.errors import UsageError

if TYPE_CHECKING:
    from tvm_iovt.planning.plan_file import PlanFile


@click.command("report")
@click.argument("path", metavar="BUNDLE|PLAN", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File to write; default: the name of BUNDLE or PLAN with .html, in the working folder.",
)
@common_options
def report_command(path: Path, output: Path | None, as_json: bool, verbosity: int) -> None:
    """Write the report of a bundle, or of a plan that `plan -o` wrote, as one HTML file.

    It shows what was built and verified, the plan with its timeline, and the roofline of every
    device with the network's operators as dots. The file needs neither network nor server.
    """
    from tvm_iovt.atomic_write import write_atomically

    out = output if output is not None else Path(f"{path.absolute().stem}.html")
    _check_output(out, path)
    if path.is_dir():
        title, text = _bundle_report(path)
    else:
        title, text = _plan_report(path)
    write_atomically(out, text.encode())
    if as_json:
        print_json({"report": str(out), "of": title})
    else:
        click.echo(f"wrote {out}: {title}")


def _check_output(out: Path, path: Path) -> None:
    """Refuse to overwrite what is reported on, or a file that a bundle has the checksum of."""
    if out.is_dir():
        raise UsageError(f"{out} is a folder", do="give the name of a file: -o report.html")
    if out.absolute() == path.absolute():
        raise UsageError(f"The report would replace {path}", do="give another name with -o")
    if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
        raise UsageError(
            f"{out} lies in the bundle, whose files have checksums",
            do="write the report beside the bundle: -o report.html",
        )


def _bundle_report(path: Path) -> tuple[str, str]:
    from tvm_iovt.bundle import read_manifest, verify
    from tvm_iovt.planning.plan_file import read_plan
    from tvm_iovt.report.html import html_report

    manifest = read_manifest(path)
    plans: dict[str, PlanFile] = {}
    for deployment in manifest.deployments:
        if deployment.plan_file is not None:
            verify(path, (deployment.plan_file,))
            plans[deployment.name] = read_plan(path / deployment.plan_file.file)
    return f"the bundle of {manifest.model_name}", html_report(manifest, plans)


def _plan_report(path: Path) -> tuple[str, str]:
    from tvm_iovt.planning.plan_file import read_plan
    from tvm_iovt.report.plan_page import plan_page

    if not path.exists():
        raise UsageError(
            f"There is no {path}", do="give a bundle, or a plan that `tvm-iovt plan -o` wrote"
        )
    planned = read_plan(path)
    return f"the plan of {planned.model_name}", plan_page(planned)
