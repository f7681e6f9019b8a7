"""`tvm-iovt targets` and `tvm-iovt targets probe`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tvm_iovt.cli.options import board_options, common_options, print_json
from tvm_iovt.errors import UsageError


@click.command("targets")
@click.argument("words", nargs=-1, metavar="[NAME | probe NAME]")
@board_options
@click.option("--quick", is_flag=True, help="probe: fewer and shorter measurements.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="probe: the target file to write; by default the user's own of that name.",
)
@common_options
def targets_command(
    words: tuple[str, ...],
    tracker: str,
    key: str,
    quick: bool,
    output: Path | None,
    as_json: bool,
    verbosity: int,
) -> None:
    """List the targets, show the one called NAME, or measure it with `probe NAME`.

    Your own targets are TOML files in ~/.config/tvm-iovt/targets, or in the `targets` folder of
    any path in $TVM_IOVT_PATH; a path to a .toml file works too. NAME/2 is two of its threads.

    `probe` measures what predictions rest on: peaks, bandwidths, starts of kernels, links, and how
    far kernels are from the roofline. It writes the target's file with a table [measured].
    """
    if words[:1] == ("probe",):
        if len(words) != 2:
            raise UsageError(
                "`targets probe` takes the name of one target",
                seen=" ".join(words[1:]) or "none",
                do="for example `tvm-iovt targets probe host`",
            )
        _probe(words[1], tracker, key, quick, output, as_json)
        return
    if len(words) > 1:
        raise UsageError(
            "`targets` shows one target",
            seen=" ".join(words),
            do="write `targets NAME`, or `targets probe NAME` to measure it",
        )
    if tracker or key or quick or output is not None:
        raise UsageError(
            "--tracker, --key, --quick and -o are for `targets probe`",
            do="write `targets probe NAME`, or leave them out",
        )
    _show(words[0] if words else "", as_json)


def _show(name: str, as_json: bool) -> None:
    from tvm_iovt import targets, unit_times
    from tvm_iovt.json_codec import to_json
    from tvm_iovt.report import profile_tables, tables

    specs = [targets.load(name)] if name else [targets.load(each) for each in targets.names()]
    if as_json:
        print_json([to_json(spec) for spec in specs])
    elif name:
        tables.render(tables.target_details(specs[0]), sys.stdout)
        click.echo()
        for part in profile_tables.profile_parts(specs[0], unit_times.profile_of(specs[0])):
            tables.render(part, sys.stdout)
    else:
        tables.render(tables.targets_table(specs), sys.stdout)


def _probe(
    name: str, tracker: str, key: str, quick: bool, output: Path | None, as_json: bool
) -> None:
    from tvm_iovt import targets
    from tvm_iovt.cli.progress import steps
    from tvm_iovt.json_codec import to_json
    from tvm_iovt.probe.probe_target import probe_target
    from tvm_iovt.probe.profile_file import user_file, write_profile
    from tvm_iovt.report import profile_tables, tables

    if bool(tracker) != bool(key):
        raise UsageError(
            "A board is named by --tracker and --key together",
            seen=f"--tracker {tracker!r}, --key {key!r}",
            do="give both, or neither to measure this machine",
        )
    spec = targets.load(name)
    base = targets.base_name(name)
    destination = output or (Path(base) if base.endswith(".toml") else user_file(base))
    with steps() as progress:
        result = probe_target(spec, tracker=tracker, key=key, quick=quick, progress=progress)
    write_profile(Path(spec.source), destination, result.profile, result.links)
    if as_json:
        findings = {
            "file": str(destination),
            "findings": to_json(result.findings),
            "profile": to_json(result.profile),
            "links": to_json(result.links),
        }
        print_json(findings)
        return
    for part in profile_tables.findings_parts(name, result.findings, result.profile):
        tables.render(part, sys.stdout)
    click.echo(f"written to {destination}")
