"""`tvm-iovt run`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from tvm_iovt.cli.options import common_options, print_json
from tvm_iovt.cli.run_pipeline import (
    board_requests,
    pipeline_options,
    refuse_without_pipeline,
    run_frames,
)
from tvm_iovt.errors import UsageError


@click.command("run")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("sources", nargs=-1, type=click.Path(path_type=Path), metavar="INPUT...")
@click.option(
    "--target",
    "--deployment",
    "target",
    help="Deployment to run; default: the one that fits this machine.",
)
@click.option("-k", "--top", default=5, show_default=True, help="Classes to print an image.")
@click.option("--labels", type=click.Path(path_type=Path), help="Text file, one class name a line.")
@click.option("--preprocess", default="", help="Image preset, over the bundle's own.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Write the outputs to a .npz file; with --pipeline, to a folder of them.",
)
@click.option(
    "--threads", type=int, help="Threads to use, with --pipeline in each stage; default: all cores."
)
@click.option(
    "--cpus",
    help="CPUs to run on, such as 0,2-3, with --pipeline divided among the stages; default: the "
    "system decides, or all.",
)
@click.option("--repeat", default=0, help="Also measure the latency over this many runs.")
@pipeline_options
@common_options
def run_command(
    bundle: Path,
    sources: tuple[Path, ...],
    target: str | None,
    top: int,
    labels: Path | None,
    preprocess: str,
    output: Path | None,
    threads: int | None,
    cpus: str | None,
    repeat: int,
    pipeline: bool,
    sequential: bool,
    adapt: bool,
    tracker: str,
    wait_s: float | None,
    timeout_s: float | None,
    boards: tuple[str, ...],
    limit: int | None,
    timeline: Path | None,
    as_json: bool,
    verbosity: int,
) -> None:
    """Run BUNDLE on every INPUT: images, .npz files, or folders of images.

    Without an INPUT the bundle's own sample is run. Networks with one vector of scores print the
    top classes; others print each output's shape and range (--output has the arrays).

    With --pipeline the INPUT is a stream of frames, and the stages of a partitioned bundle work on
    several of them at the same time, here and on boards. Printed are frames/s, latencies and how
    busy each stage was. Frames that are finished stay in --output whatever happens.
    """
    from tvm_iovt.runtime.threads import parse_cpus

    chosen_cpus = parse_cpus(cpus) if cpus is not None else None
    if pipeline:
        if repeat or labels:
            raise UsageError(
                "--repeat and --labels do not belong to --pipeline",
                do="leave them out; --output has the outputs",
            )
        run_frames(
            bundle,
            sources,
            target=target,
            sequential=sequential,
            adapt=adapt,
            boards=board_requests(tracker, boards, wait_s, timeout_s),
            preprocess=preprocess,
            threads=threads,
            cpus=chosen_cpus,
            output=output,
            limit=limit,
            timeline=timeline,
            as_json=as_json,
        )
        return
    refuse_without_pipeline(
        sequential=sequential,
        adapt=adapt,
        tracker=tracker,
        wait=wait_s,
        timeout=timeout_s,
        board=boards,
        limit=limit,
        timeline=timeline,
    )
    from tvm_iovt.inference import run_bundle
    from tvm_iovt.json_codec import to_json
    from tvm_iovt.report import tables

    result = run_bundle(
        bundle,
        sources,
        target=target,
        top=top,
        labels=labels,
        preprocess=preprocess,
        output=output,
        threads=threads,
        cpus=chosen_cpus,
        repeat=repeat,
    )
    if as_json:
        print_json(to_json(result))
        return
    tables.render(tables.inference_table(result), sys.stdout)
    _report_latency(result, tables)


def _report_latency(result: Any, tables: Any) -> None:
    for measurement in result.measurements:
        click.echo(" ".join(tables.latency_lines(measurement)))
