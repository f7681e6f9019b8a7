"""`tvm-iovt bundle`: check a bundle's files, or pack it for a board without Python."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tvm_iovt.cli.options import common_options, print_json


@click.group("bundle")
def bundle() -> None:
    """Check a bundle, or pack it for a board without Python."""


@bundle.command("check")
@click.argument("path", metavar="BUNDLE", type=click.Path(path_type=Path))
@common_options
def check_command(path: Path, as_json: bool, verbosity: int) -> None:
    """Compare every file of BUNDLE with the size and SHA-256 that its manifest records.

    Loads nothing: a bundle for another machine is checked as well. Exits with 8 when a file is
    damaged, missing or exchanged.
    """
    from tvm_iovt import bundle as bundles
    from tvm_iovt.json_codec import to_json
    from tvm_iovt.report import tables

    manifest = bundles.check(path)
    records = bundles.files(manifest)
    if as_json:
        print_json(
            {
                "bundle": str(path),
                "model": manifest.model_name,
                "deployments": [deployment.name for deployment in manifest.deployments],
                "files": to_json(records),
            }
        )
        return
    tables.render(tables.files_table(records), sys.stdout)
    click.echo(f"{path}: {len(records)} files, all as recorded")


@bundle.command("pack")
@click.argument("path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--target", help="Pack this deployment alone; default: all of one architecture.")
@click.option("--arch", help="Architecture of the board, as `uname -m` prints it.")
@click.option(
    "--wheels",
    type=click.Path(path_type=Path),
    help="Folder with the board's wheels of apache-tvm and apache-tvm-ffi; default: download.",
)
@click.option("--compiler", default="", help="C++ compiler command for the runner.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it is a bundle.")
@common_options
def pack_command(
    path: Path,
    out: Path,
    target: str | None,
    arch: str | None,
    wheels: Path | None,
    compiler: str,
    overwrite: bool,
    as_json: bool,
    verbosity: int,
) -> None:
    """Make a folder OUT of BUNDLE that runs on a board with neither Python nor TVM.

    It holds the board's libraries, a C++ runner, TVM's runtime and `run.sh`, which runs the
    sample and compares the outputs:

    \b
    tvm-iovt bundle pack model.iovt packed --arch aarch64
    scp -r packed board: && ssh board packed/run.sh
    """  # noqa: D301 -- click wants the control character
    from tvm_iovt import bundle as bundles
    from tvm_iovt.cli.progress import steps
    from tvm_iovt.json_codec import to_json
    from tvm_iovt.report import tables
    from tvm_iovt.report.units import format_bytes
    from tvm_iovt.runtime.pack import choose_architecture, pack

    arch = choose_architecture(bundles.read_manifest(path), arch=arch, target=target)
    with steps() as progress:
        packed = pack(
            path,
            out,
            arch=arch,
            wheels=wheels,
            target=target,
            compiler=compiler,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        print_json(to_json(packed))
        return
    needs = ", ".join(packed.needs) or "nothing"
    facts = (
        ("folder", f"{packed.path} ({format_bytes(packed.size_bytes)})"),
        ("deployments", ", ".join(packed.deployments)),
        ("architecture", packed.arch),
        ("runner built with", packed.compiler),
        ("needs on the board", f"glibc {packed.glibc} or newer, {needs}"),
        ("run", f"{packed.path}/run.sh"),
    )
    tables.render(tables.facts_table(facts), sys.stdout)
