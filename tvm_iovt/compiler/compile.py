"""`compile_model`: from a model file to a verified bundle; the command line prints the result."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tvm_iovt import bundle, precision
from tvm_iovt._version import __version__
from tvm_iovt.compiler.checks import Checker, first_failure, wrong_numerics
from tvm_iovt.compiler.contents import (
    Contents,
    build_plans,
    build_whole_networks,
    is_one_board,
    specs_of,
    with_board_plan,
)
from tvm_iovt.compiler.options import FUSE_MODES, CompileOptions
from tvm_iovt.compiler.tolerances import tolerance_of
from tvm_iovt.errors import BundleError, NumericsError, UsageError
from tvm_iovt.planning.plan_file import PlanFile, read_plan
from tvm_iovt.stages.library import StageBuilder
from tvm_iovt.types import Deployment, Manifest, Preprocess

if TYPE_CHECKING:
    from tvm_iovt.frontend.network import Arrays, Network

Progress = Callable[[str], None]

REPORT = "report.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilation:
    """A written bundle.

    Attributes:
        path: Its folder.
        manifest: Its manifest.
        plans: Of its partitioned deployments, the chosen one first.
    """

    path: Path
    manifest: Manifest
    plans: tuple[PlanFile, ...] = ()


def compile_model(
    model: Path, options: CompileOptions, *, progress: Progress = lambda message: None
) -> Compilation:
    """Compile a model for every target of `options` and write one bundle.

    Nothing is written unless everything succeeded, the comparison with the reference included;
    an existing bundle stays as it was until then.

    Args:
        model: ONNX file or torch.export program.
        options: See `CompileOptions`.
        progress: Called with a line for each step.

    Raises:
        IovtError: One of its subclasses, each with its exit code.
    """
    if options.fuse not in FUSE_MODES:
        raise UsageError(
            f"There is no fusion mode {options.fuse!r}", do=f"use one of: {', '.join(FUSE_MODES)}"
        )
    planned = None if options.plan is None else read_plan(options.plan)
    specs = specs_of(options, planned)
    precision.check_targets(options.precision, specs)
    destination = options.output or Path(f"{model.stem}.iovt")
    if destination.exists() and not options.overwrite:
        raise BundleError(
            f"{destination} exists",
            do="give another name with -o, or replace it with --overwrite",
        )
    progress("loading the compiler")
    builder = StageBuilder(
        specs, options.kernels, cross_compiler=options.cross_compiler, progress=progress
    )

    from tvm_iovt.frontend.load import load_network

    progress(f"reading {model.name}")
    network = load_network(model, options.input_shapes)
    precision.check_model(options.precision, network.arithmetic, model.name)
    preprocess = _preprocess(options, network)
    inputs = _sample(options, network, preprocess)
    expected: Arrays = {}
    if options.verify:
        progress(f"running the reference, {network.reference_name}")
        expected = network.reference(inputs)
        _refuse_nan(expected, network)

    failed: Deployment | None = None
    with bundle.staging(destination, overwrite=options.overwrite) as folder:
        if options.is_partitioned:
            built = build_plans(network, specs, planned, builder, folder, options, progress)
        else:
            built = build_whole_networks(network, specs, builder, folder, options, progress)
            if is_one_board(specs):
                built = with_board_plan(built, network, specs, builder, folder, options, progress)
        bundle.save_sample(folder, inputs, expected)
        manifest = _manifest(network, built, preprocess, options, folder)
        manifest = _write(folder, manifest, built)
        if options.verify:
            checker = Checker(folder, network, options, inputs, expected, progress)
            checked = [checker.check(manifest, deployment) for deployment in manifest.deployments]
            checked = [
                checker.check_cut(manifest, deployment, built.annotated)
                if deployment.discrepancy is None and len(deployment.plan.stages) > 1
                else deployment
                for deployment in checked
            ]
            manifest = dataclasses.replace(manifest, deployments=tuple(checked))
            manifest = _write(folder, manifest, built)
            failed = first_failure(manifest)
            if failed is not None and not options.keep:
                raise wrong_numerics(failed, destination, kept=False)
    if failed is not None:
        raise wrong_numerics(failed, destination, kept=True)
    return Compilation(path=destination, manifest=manifest, plans=built.plans)


def _preprocess(options: CompileOptions, network: Network) -> Preprocess | None:
    if not options.preprocess:
        return network.preprocess
    from tvm_iovt import images

    return images.preset(options.preprocess)


def _sample(options: CompileOptions, network: Network, preprocess: Preprocess | None) -> Arrays:
    from tvm_iovt import images
    from tvm_iovt.frontend.network import sample_inputs

    if options.sample is None:
        return sample_inputs(network.inputs)
    return images.load_inputs(options.sample, network.inputs, preprocess)


def _refuse_nan(expected: Arrays, network: Network) -> None:
    for name, value in expected.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise NumericsError(
                f"The reference itself gives NaN or infinity in output {name!r}",
                seen=f"{network.reference_name} on the sample input",
                do="verify with a realistic input: --sample IMAGE or --sample FILE.npz",
            )


def _manifest(
    network: Network,
    built: Contents,
    preprocess: Preprocess | None,
    options: CompileOptions,
    folder: Path,
) -> Manifest:
    from tvm_iovt import _tvm

    placeholder = folder / REPORT
    placeholder.write_text("", encoding="utf-8")
    return Manifest(
        tool_version=__version__,
        tvm_version=_tvm.installed_version("apache-tvm"),
        tvm_ffi_version=_tvm.installed_version("apache-tvm-ffi"),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        model_name=network.name,
        model_sha256=network.sha256,
        inputs=network.inputs,
        outputs=network.outputs,
        deployments=built.deployments,
        sample=bundle.record(folder, bundle.SAMPLE),
        reference=network.reference_name if options.verify else "",
        tolerance=tolerance_of(network, options),
        report=bundle.record(folder, REPORT),
        operators=network.operators,
        decisions=built.decisions,
        preprocess=preprocess,
        labels=network.labels,
        precision=options.precision,
    )


def _write(folder: Path, manifest: Manifest, built: Contents) -> Manifest:
    """Write the report, then the manifest that records it; returns that."""
    from tvm_iovt.report.html import html_report

    (folder / REPORT).write_text(html_report(manifest, built.plan_of), encoding="utf-8")
    recorded = dataclasses.replace(manifest, report=bundle.record(folder, REPORT))
    bundle.save_manifest(folder, recorded)
    return recorded
