"""`tvm-iovt compile`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tvm_iovt.cli.options import (
    board_options,
    common_options,
    cross_compiler_option,
    input_shape_option,
    kernel_options,
    plan_options,
    print_json,
)
from tvm_iovt.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from tvm_iovt.compiler import CompileOptions


@click.command("compile")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--targets", show_default="host", help="Comma-separated: host,arm.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Default: MODEL.iovt here.")
@input_shape_option
@plan_options
@click.option(
    "--plan",
    type=click.Path(path_type=Path),
    help="Build this plan, which `tvm-iovt plan -o` wrote; it names the targets.",
)
@click.option(
    "--prepare",
    default=0,
    show_default=True,
    metavar="N",
    help="Also build N plans for slower devices and links, which `run --adapt` chooses among.",
)
@kernel_options
@click.option(
    "--measure",
    is_flag=True,
    help="Time the kernels of each convolution on this machine and use the fastest; remembered for "
    "later compilations. Targets must be this machine's CPU.",
)
@click.option(
    "--tune",
    metavar="BUDGET",
    help="First search faster schedules for each target: a time (10m) or a number of trials (500).",
)
@board_options
@click.option(
    "--tuned/--no-tuned",
    default=True,
    help="Use the schedules that tuning has recorded for this kind of device (default).",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@click.option("--verify/--no-verify", default=True, help="Compare with the reference (default).")
@click.option("--keep", is_flag=True, help="Keep a bundle whose comparison failed (still exit 6).")
@click.option("--emulate", is_flag=True, help="Run foreign CPU targets too, under qemu-user.")
@click.option("--rtol", type=float, help="Relative tolerance of the comparison.")
@click.option("--atol", type=float, help="Absolute tolerance of the comparison.")
@click.option(
    "--sample",
    type=click.Path(path_type=Path),
    help="Image or .npz to verify with and to ship; default: seeded random numbers.",
)
@click.option("--preprocess", default="", help="Image preset to ship; see `tvm-iovt run --help`.")
@cross_compiler_option
@common_options
def compile_command(
    model: Path,
    targets: str | None,
    output: Path | None,
    input_shapes: tuple[str, ...],
    objective: str | None,
    cuts: str,
    links: tuple[str, ...],
    plan: Path | None,
    prepare: int,
    fuse: str,
    precision: str,
    winograd: bool,
    measure: bool,
    tune: str | None,
    tracker: str,
    key: str,
    tuned: bool,
    overwrite: bool,
    verify: bool,
    keep: bool,
    emulate: bool,
    rtol: float | None,
    atol: float | None,
    sample: Path | None,
    preprocess: str,
    cross_compiler: str,
    as_json: bool,
    verbosity: int,
) -> int:
    """Compile MODEL for every target and write one bundle that is proven right.

    MODEL is an .onnx file, or a .pt2 file from torch.export.save. The outputs of every target
    that can run here are compared with the reference; a difference beyond the tolerance is an
    error (exit 6) and leaves no bundle.

    Without --objective, --cuts or --plan every target gets the whole network; with one of them the
    network is cut into stages, one for each target that the plan uses.
    """
    from tvm_iovt.cli.plan import print_notes, print_plan
    from tvm_iovt.cli.progress import steps
    from tvm_iovt.compiler import CompileOptions, compile_model
    from tvm_iovt.frontend.shapes import parse_input_shapes
    from tvm_iovt.json_codec import to_json
    from tvm_iovt.report import tables

    if plan is not None and targets is not None:
        raise UsageError(
            "A plan names its targets itself",
            seen=f"--targets {targets} beside --plan {plan}",
            do="leave --targets out, or plan again for them",
        )
    options = CompileOptions(
        targets=targets or "host",
        input_shapes=parse_input_shapes(input_shapes),
        output=output,
        overwrite=overwrite,
        verify=verify,
        keep=keep,
        emulate=emulate,
        rtol=rtol,
        atol=atol,
        sample=sample,
        preprocess=preprocess,
        cross_compiler=cross_compiler,
        fuse=fuse,
        precision=precision,
        winograd=winograd,
        measure=measure,
        tuned=tuned,
        objective=objective or "",
        cuts=tuple(cut.strip() for cut in cuts.split(",") if cut.strip()),
        plan=plan,
        links=links,
        prepare=prepare,
    )
    if tune is not None:
        code = _tune_first(model, options, tune, tracker, key, as_json=as_json)
        if code != EXIT_OK:
            return code
    elif tracker or key:
        raise UsageError(
            "--tracker and --key are for --tune", do="add --tune 10m, or leave them out"
        )
    with steps() as progress:
        result = compile_model(model, options, progress=progress)
    for file in result.plans[:1]:
        print_notes(file)
    if as_json:
        print_json({"bundle": str(result.path), "manifest": to_json(result.manifest)})
        return EXIT_OK
    for file in result.plans[:1]:
        print_plan(file, verbosity=verbosity)
    tables.render(tables.deployments_table(result.manifest.deployments), sys.stdout)
    if precision != "fp32":
        for deployment in result.manifest.deployments:
            if deployment.discrepancy is not None:
                tables.render(tables.discrepancy_table(deployment.discrepancy), sys.stdout)
    if verbosity:
        tables.render(tables.decisions_table(result.manifest.decisions), sys.stdout)
    click.echo(f"wrote {result.path}  (report: {result.path / 'report.html'})")
    unproven = [d.name for d in result.manifest.deployments if d.discrepancy is None]
    if unproven and verify:
        click.echo(
            f"not verified here: {', '.join(unproven)}; `tvm-iovt verify {result.path} --target "
            f"{unproven[0]}` runs CPU code under qemu-user, and the sample proves it on the device"
        )
    return EXIT_OK


def _tune_first(
    model: Path,
    options: CompileOptions,
    budget: str,
    tracker: str,
    key: str,
    *,
    as_json: bool,
) -> int:
    """Tune for every target of a compilation, whose options decide which kernels there are."""
    from tvm_iovt.cli.durations import parse_duration
    from tvm_iovt.cli.tune import target_names, tune_target
    from tvm_iovt.tuner import TuneOptions

    trials = int(budget) if budget.isdecimal() else None
    time_s = parse_duration(budget) if trials is None else None
    if trials == 0:
        raise UsageError("--tune 0 tunes nothing", do="leave it out, or give 10m or 500")
    for name in target_names(options.targets):
        tuning = TuneOptions(
            target=name,
            input_shapes=options.input_shapes,
            trials=trials,
            time_s=time_s,
            tracker=tracker,
            key=key,
            fuse=options.fuse,
            precision=options.precision,
            winograd=options.winograd,
            cross_compiler=options.cross_compiler,
        )
        code = tune_target(model, tuning, None, stream=False, summary=not as_json)
        if code != EXIT_OK:
            return code
    return EXIT_OK
