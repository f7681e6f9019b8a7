"""Checks of a finished bundle: against its sample, its model, and labelled data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tvm_iovt import accuracy, bundle, images, runtime
from tvm_iovt.discrepancy import compare
from tvm_iovt.errors import BundleError, NumericsError
from tvm_iovt.runtime.stage_by_stage import run_stages, why_not_run
from tvm_iovt.types import Deployment, Discrepancy, Manifest

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The outcome for one deployment; `skipped` says why it was not run."""

    deployment: str
    where: str
    discrepancy: Discrepancy | None = None
    skipped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """All checks of a bundle."""

    checks: tuple[Check, ...]
    accuracy: accuracy.Accuracy | None = None

    @property
    def passed(self) -> bool:
        """Whether everything that was run is within tolerance."""
        return all(check.discrepancy is None or check.discrepancy.passed for check in self.checks)


def verify_sample(
    path: Path,
    *,
    target: str | None,
    rtol: float | None,
    atol: float | None,
    emulate: bool,
    progress: Progress = lambda message: None,
) -> tuple[Check, ...]:
    """Run the bundle's sample on every deployment that can run here, or on the named one.

    A deployment for another CPU architecture runs under qemu-user when it is named or `emulate`
    is set.

    Raises:
        BundleError: The bundle is damaged, or nothing in it can be run here.
        ToolchainError: Emulation was asked for and something for it is missing.
    """
    manifest = bundle.check(path)
    if not manifest.reference:
        raise BundleError(
            f"{path} has nothing to be compared with",
            seen="it was compiled with --no-verify, so its sample has no expected outputs",
            do="compile the model again without --no-verify",
        )
    chosen = _chosen(path, manifest, target)
    checks = []
    for deployment in chosen:
        reason = runtime.why_not_here(path, deployment)
        if not reason:
            progress(f"running {deployment.name} on this machine")
            executor = runtime.load(path, target=deployment.name)
            found = executor.self_check(rtol=rtol, atol=atol)
            checks.append(
                Check(deployment=deployment.name, where="this machine", discrepancy=found)
            )
            continue
        reason = why_not_run(path, deployment, emulate=emulate or target is not None)
        if reason:
            checks.append(
                Check(deployment=deployment.name, where="nowhere", skipped=f"it {reason}")
            )
        else:
            checks.append(_by_stages(path, manifest, deployment, rtol, atol, progress))
    if all(check.skipped for check in checks):
        raise BundleError(
            f"Nothing in {path} can be verified on this machine",
            seen="; ".join(f"{check.deployment}: {check.skipped}" for check in checks),
            do="name a CPU target with --target to run it under qemu-user, or verify on the device",
        )
    return tuple(checks)


def _chosen(path: Path, manifest: Manifest, target: str | None) -> tuple[Deployment, ...]:
    chosen = tuple(d for d in manifest.deployments if target in (None, d.name))
    if not chosen:
        raise BundleError(
            f"{path} has no deployment {target!r}",
            seen="it has " + ", ".join(d.name for d in manifest.deployments),
        )
    return chosen


def _by_stages(
    path: Path,
    manifest: Manifest,
    deployment: Deployment,
    rtol: float | None,
    atol: float | None,
    progress: Progress,
) -> Check:
    inputs, expected = bundle.load_sample(path, manifest.sample.file)
    outputs, where = run_stages(path, manifest, deployment, inputs, progress)
    found = compare(
        outputs,
        expected,
        tolerance=manifest.tolerance.stated(rtol, atol),
        reference=manifest.reference,
    )
    return Check(deployment=deployment.name, where=where.removeprefix("under "), discrepancy=found)


def evaluate_data(
    path: Path,
    model: Path,
    *,
    data: Path,
    labels: str | None,
    target: str | None,
    preprocess: str,
    limit: int | None,
    progress: Callable[[int, int], None],
) -> accuracy.Accuracy:
    """Top-1 and top-5 of the bundle and of its model under ONNX Runtime, on the same images.

    Raises:
        NumericsError: `model` is not the one that the bundle was compiled from.
        UsageError: The data or its labels cannot be read.
    """
    from tvm_iovt.frontend.onnx_model import sha256
    from tvm_iovt.frontend.reference import load_reference

    executor = runtime.load(path, target=target)
    manifest = executor.manifest
    if sha256(model) != manifest.model_sha256:
        raise NumericsError(
            f"{model.name} is not the model that {path} was compiled from",
            seen=f"SHA-256 {sha256(model)[:16]}..., the bundle records "
            f"{manifest.model_sha256[:16]}...",
            do="give the same file, or compile again",
        )
    recipe = images.preset(preprocess) if preprocess else manifest.preprocess
    samples = accuracy.read_labels(data, labels)[:limit]
    return accuracy.evaluate(
        executor.run,
        load_reference(model, {spec.name: spec.shape for spec in manifest.inputs}),
        samples,
        lambda file: images.load_inputs(file, manifest.inputs, recipe),
        progress=progress,
    )
