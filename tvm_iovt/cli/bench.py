"""`tvm-iovt bench`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tvm_iovt.cli.options import board_options, common_options, print_json
from tvm_iovt.errors import UsageError


@click.command("bench")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@board_options
@click.option("--target", help="Deployment to measure; default: the one that suits the machine.")
@click.option("--wait", "wait_s", default=10.0, show_default=True, help="Seconds for a free board.")
@click.option(
    "--timeout", "timeout_s", default=60.0, show_default=True, help="Seconds a step with the board."
)
@click.option("--warmup", default=3, show_default=True, help="Runs before the measured ones.")
@click.option("--repeat", default=30, show_default=True, help="Samples of each scope.")
@click.option("--number", default=1, show_default=True, help="Runs averaged in a device sample.")
@click.option("--threads", type=int, help="Threads to use here; default: all cores.")
@common_options
def bench_command(
    bundles: tuple[Path, ...],
    tracker: str,
    key: str,
    target: str | None,
    wait_s: float,
    timeout_s: float,
    warmup: int,
    repeat: int,
    number: int,
    threads: int | None,
    as_json: bool,
    verbosity: int,
) -> None:
    """Measure the latency of BUNDLES, on this machine or on a board of a tracker.

    The outputs are compared with each bundle's sample first. Two scopes are measured: on the
    device, copies excluded, and end to end, from arrays here to arrays here. Several bundles take
    turns, so that their ratios can be trusted.
    """
    from tvm_iovt.boards.bench import BenchOptions
    from tvm_iovt.cli.progress import steps
    from tvm_iovt.json_codec import to_json
    from tvm_iovt.report import tables
    from tvm_iovt.report.bench_table import bench_table

    options = BenchOptions(warmup=warmup, repeat=repeat, number=number, timeout_s=timeout_s)
    with steps() as progress:
        if not tracker:
            if key:
                raise UsageError("--key needs a tracker", do="give --tracker HOST:PORT as well")
            from tvm_iovt.boards.bench_here import bench_here

            bench = bench_here(bundles, options, target=target, threads=threads, progress=progress)
        else:
            if not key or threads is not None:
                raise UsageError(
                    "A board is asked for by its key" if not key else "--threads is for here",
                    do="give --key with --tracker"
                    if not key
                    else "set TVM_NUM_THREADS where `tvm-iovt board` is started",
                )
            from tvm_iovt.boards.address import parse_address
            from tvm_iovt.boards.bench_board import bench_board

            bench = bench_board(
                bundles,
                options,
                tracker=parse_address(tracker, what="tracker"),
                key=key,
                wait_s=wait_s,
                target=target,
                progress=progress,
            )
    if as_json:
        print_json(to_json(bench))
        return
    tables.render(bench_table(bench), sys.stdout)
