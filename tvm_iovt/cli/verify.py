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
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Share of the images on which bundle and reference must name the same class.",
)
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
    min_agreement: float,
    as_json: bool,
    verbosity: int,
) -> None:
    """Check BUNDLE: its files, its outputs on the shipped sample, and its accuracy on data.

    Exits with 6 when an output is outside of the tolerance, or when too many classes of --data
    differ from the reference's.
    """
    from tvm_iovt.cli.progress import counter, steps
    from tvm_iovt.json_codec import to_json
    from tvm_iovt.report import tables
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
    if not result.passed:
        raise NumericsError(
            f"{bundle} computes something else than its reference",
            seen="outputs outside of the tolerance, see the table",
            do="compile the model again, or state your own --rtol and --atol",
        )
    if found is not None and found.top1_agreement < min_agreement:
        raise NumericsError(
            f"{bundle} names other classes than the reference",
            seen=f"the same class on {found.top1_agreement:.2%} of the images; "
            f"{min_agreement:.2%} are asked for",
            do="judge by the accuracies in the table; --min-agreement accepts less",
        )
