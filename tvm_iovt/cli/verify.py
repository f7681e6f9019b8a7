"""`tvm-iovt verify`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tvm_iovt.cli.options import common_options, print_json
from tvm_iovt.errors import NumericsError, UsageError


@click.command("verify")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--target", help="Deployment to verify; another CPU's runs under qemu-user.")
@click.option("--emulate", is_flag=True, help="Run all foreign CPU deployments under qemu-user.")
@click.option("--rtol", type=float, help="Relative tolerance; default: the bundle's own.")
@click.option("--atol", type=float, help="Absolute tolerance; default: the bundle's own.")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="The model that the bundle was compiled from; the reference for --data.",
)
@click.option("--data", type=click.Path(path_type=Path), help="Folder of images to classify.")
@click.option(
    "--labels",
    help="How classes are known: `folders`, `prefix` (NNN_name.jpg), or a file of PATH INDEX.",
)
@click.option("--preprocess", default="", help="Image preset, over the bundle's own.")
@click.option("--limit", type=int, help="Use only the first images.")
@common_options
def verify_command(
    bundle: Path,
    target: str | None,
    emulate: bool,
    rtol: float | None,
    atol: float | None,
    model: Path | None,
    data: Path | None,
    labels: str | None,
    preprocess: str,
    limit: int | None,
    as_json: bool,
    verbosity: int,
) -> None:
    """Check BUNDLE: its files, its outputs on the shipped sample, and its accuracy on data.

    Exits with 6 when an output is outside of the tolerance, or when a class of --data differs
    from the reference's.
    """
    from tvm_iovt.cli.progress import counter, steps
    from tvm_iovt.report import tables
    from tvm_iovt.types import to_json
    from tvm_iovt.verification import Verification, evaluate_data, verify_sample

    if (data is None) != (model is None):
        raise UsageError(
            "--data and --model belong together",
            do="give the images with --data and the model that is the reference with --model",
        )
    with steps() as progress:
        checks = verify_sample(
            bundle, target=target, rtol=rtol, atol=atol, emulate=emulate, progress=progress
        )
    found = None
    if data is not None and model is not None:
        with counter("images") as count:
            found = evaluate_data(
                bundle,
                model,
                data=data,
                labels=labels,
                target=target,
                preprocess=preprocess,
                limit=limit,
                progress=count,
            )
    result = Verification(checks=checks, accuracy=found)
    if as_json:
        print_json({**to_json(result), "passed": result.passed})
    else:
        tables.render(tables.checks_table(result.checks), sys.stdout)
        if found is not None:
            tables.render(tables.accuracy_table(found), sys.stdout)
    _refuse_failure(bundle, result.passed, found.top1_agreement if found else 1.0)


def _refuse_failure(bundle: Path, passed: bool, agreement: float) -> None:
    if not passed:
        raise NumericsError(f"{bundle} computes something else than its reference")
    if agreement < 1.0:
        raise NumericsError(
            f"{bundle} names other classes than the reference",
            seen=f"the same class on {agreement:.2%} of the images",
            do="quantized networks round differently: judge by the accuracy that is printed",
        )
