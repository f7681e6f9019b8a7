"""`tvm-iovt logs`: what has been tuned, in one place, without ballast, elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tvm_iovt.cli.options import common_options, print_json

if TYPE_CHECKING:
    from tvm_iovt.tuning.record_merge import MergeOutcome

_new_devices_option = click.option(
    "--new-devices",
    is_flag=True,
    help="Also take devices and TVM versions that the destination has no records of.",
)


@click.group("logs")
def logs() -> None:
    """Show, merge, prune and share tuning records.

    A FOLDER is that of a device, or one with folders of several, such as tuning_logs.
    """


@logs.command("stat")
@click.argument("folders", metavar="[FOLDER]...", nargs=-1, type=click.Path(path_type=Path))
@common_options
def stat_command(folders: tuple[Path, ...], as_json: bool, verbosity: int) -> None:
    """Show what FOLDERs hold; by default, all that `compile` looks into.

    One line for each device kind and version of TVM: tuned kernels, valid and failed trials,
    kernels with a schedule that was found and those that keep the template's, convolutions whose
    kernel was measured, first and last date. Then the runs, and every damaged line by its number.
    """
    from tvm_iovt import resources
    from tvm_iovt.json_codec import to_json
    from tvm_iovt.report import log_tables, tables
    from tvm_iovt.tuning.kernel_records import FOLDER
    from tvm_iovt.tuning.record_folder import record_folders
    from tvm_iovt.tuning.record_stat import stat

    roots = folders or tuple(root for root in resources.search_path(FOLDER) if root.is_dir())
    stats = [stat(folder) for root in roots for folder in record_folders(root)]
    if as_json:
        print_json({"folders": to_json(stats)})
        return
    if not stats:
        where = roots or resources.search_path(FOLDER)
        click.echo(f"no tuning records in {', '.join(map(str, where))}")
        return
    tables.render(log_tables.stat_tables(stats), sys.stdout)


@logs.command("merge")
@click.argument(
    "sources", metavar="SRC...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--into",
    "destination",
    metavar="DST",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder such as tuning_logs; has, or gets, one folder for each device.",
)
@_new_devices_option
@common_options
def merge_command(
    sources: tuple[Path, ...],
    destination: Path,
    new_devices: bool,
    as_json: bool,
    verbosity: int,
) -> None:
    """Add the records of SRC folders to those in DST.

    Records of another kind of device, or of another version of TVM, than DST holds for that device
    are refused. Of two records of one trial one is kept; of two choices for a kernel, the one that
    is faster in the same network, else alone, else the newer one.
    """
    from tvm_iovt.errors import UsageError
    from tvm_iovt.tuning.record_folder import read_folder, record_folders
    from tvm_iovt.tuning.record_merge import merge

    found = [folder for source in sources for folder in record_folders(source)]
    if not found:
        raise UsageError(
            f"There are no tuning records in {', '.join(map(str, sources))}",
            do="name folders such as tuning_logs, or those of devices in them",
        )
    records = [read_folder(folder) for folder in found]
    _print_merge(merge(records, destination, new_devices=new_devices), as_json)


@logs.command("prune")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option(
    "--keep",
    default=3,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="Fastest trials to keep for each kernel, beside the chosen one and the template's.",
)
@click.option("--failed", is_flag=True, help="Drop no valid trial.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be dropped.")
@common_options
def prune_command(
    folder: Path | None, keep: int, failed: bool, dry_run: bool, as_json: bool, verbosity: int
) -> None:
    """Drop what is no longer needed from FOLDER; by default, from the user's own records.

    Failed and slow trials go, replaced choices, kernels that nothing refers to, and lines that
    cannot be read. A tuning run that was not complete repeats its dropped trials when it is
    resumed.
    """
    from tvm_iovt.json_codec import to_json
    from tvm_iovt.report import log_tables, tables
    from tvm_iovt.tuning.record_folder import record_folders
    from tvm_iovt.tuning.record_prune import prune
    from tvm_iovt.tuning.record_store import user_root

    folders = record_folders(folder or user_root())
    outcomes = prune(folders, keep=keep, failed_only=failed, dry_run=dry_run)
    if as_json:
        print_json({"dry_run": dry_run, "folders": to_json(outcomes)})
        return
    tables.render(log_tables.prune_table(outcomes, dry_run=dry_run), sys.stdout)


@logs.command("export")
@click.argument("device")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write; default: DEVICE.iovt-logs.",
)
@click.option(
    "--from",
    "root",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Folder with that of the device; default: the first with it that `compile` looks into.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@common_options
def export_command(
    device: str,
    output: Path | None,
    root: Path | None,
    overwrite: bool,
    as_json: bool,
    verbosity: int,
) -> None:
    """Write the records of DEVICE (`znver4`, `cuda-sm_87`) to one file, to be imported elsewhere.

    \b
    tvm-iovt logs export znver4
    scp znver4.iovt-logs other: && ssh other tvm-iovt logs import znver4.iovt-logs
    """  # noqa: D301 -- click wants the control character
    from tvm_iovt import resources
    from tvm_iovt.errors import UsageError
    from tvm_iovt.json_codec import to_json
    from tvm_iovt.report.units import format_bytes
    from tvm_iovt.tuning.kernel_records import FOLDER
    from tvm_iovt.tuning.record_archive import SUFFIX, export
    from tvm_iovt.tuning.record_folder import record_folders

    roots = (root,) if root else tuple(r for r in resources.search_path(FOLDER) if r.is_dir())
    there = [folder for each in roots for folder in record_folders(each)]
    folder = next((each for each in there if each.name == device), None)
    if folder is None:
        raise UsageError(
            f"There are no tuning records of {device}",
            seen=f"records of {', '.join(sorted({f.name for f in there})) or 'nothing'} in "
            f"{', '.join(map(str, roots)) or 'no folder'}",
            do="name one of them, or another folder with --from",
        )
    out = output or Path(f"{device}{SUFFIX}")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists", do="name another file with -o, or add --overwrite")
    manifest, records = export(folder, out)
    if as_json:
        print_json({"file": str(out), "folder": str(folder), **to_json(manifest)})
        return
    for problem in records.problems:
        click.echo(f"left out: {problem}", err=True)
    counts = (
        f"{len(records.workloads.records)} kernels, {len(records.trials.records)} trials, "
        f"{len(records.choices.records)} choices, {len(records.kernels.records)} convolutions"
    )
    click.echo(f"{out}: {counts} of {folder} ({format_bytes(out.stat().st_size)})")


@logs.command("import")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--into",
    "destination",
    metavar="DST",
    type=click.Path(path_type=Path),
    help="Folder such as tuning_logs; default: the user's own.",
)
@_new_devices_option
@common_options
def import_command(
    path: Path, destination: Path | None, new_devices: bool, as_json: bool, verbosity: int
) -> None:
    """Check a FILE of `logs export` and merge what it holds.

    Exits with 7 when it is damaged or of another version. Nothing in it is executed.
    """
    from tvm_iovt.tuning.record_archive import read_archive
    from tvm_iovt.tuning.record_merge import merge
    from tvm_iovt.tuning.record_store import installed_tvm, user_root

    manifest, records = read_archive(path)
    outcomes = merge([records], destination or user_root(), new_devices=new_devices)
    _print_merge(outcomes, as_json)
    others = [version for version in manifest.tvm_versions if version != installed_tvm()]
    if others:
        click.echo(
            f"note: records of apache-tvm {', '.join(others)} are not used with the installed "
            f"{installed_tvm()}",
            err=True,
        )


def _print_merge(outcomes: tuple[MergeOutcome, ...], as_json: bool) -> None:
    from tvm_iovt.errors import TuningError
    from tvm_iovt.json_codec import to_json
    from tvm_iovt.report import log_tables, tables

    taken = sum(o.known + o.trials + o.choices + o.kernels for o in outcomes)
    refused = [line for outcome in outcomes for line in outcome.refused]
    if not taken:
        problems = [line for outcome in outcomes for line in outcome.problems]
        raise TuningError(
            "Nothing was merged",
            seen="; ".join((refused + problems)[:3]) or "no usable record",
            do="--new-devices takes other devices and versions as well"
            if refused
            else "`tvm-iovt logs stat` shows what the source holds",
        )
    if as_json:
        print_json({"folders": to_json(outcomes)})
        return
    tables.render(log_tables.merge_tables(outcomes), sys.stdout)
