"""Comparing what was built with the reference, wherever it can be run."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_iovt.compiler.options import CompileOptions
from tvm_iovt.compiler.tolerances import tolerance_of
from tvm_iovt.discrepancy import compare
from tvm_iovt.errors import NumericsError
from tvm_iovt.types import Deployment, Discrepancy, Manifest

if TYPE_CHECKING:
    from tvm_iovt.frontend.network import Arrays, Network

Progress = Callable[[str], None]

WARMUP, REPEAT = 5, 30


class Checker:
    """Runs deployments on the sample and compares their outputs with the reference's.

    Args:
        folder: The bundle.
        network: The imported network.
        options: Of the compilation.
        inputs: The sample.
        expected: What the reference makes of it.
        progress: Called with a line for each run.
    """

    def __init__(
        self,
        folder: Path,
        network: Network,
        options: CompileOptions,
        inputs: Arrays,
        expected: Arrays,
        progress: Progress,
    ) -> None:
        self._folder = folder
        self._network = network
        self._options = options
        self._inputs = inputs
        self._expected = expected
        self._progress = progress

    def check(self, manifest: Manifest, deployment: Deployment) -> Deployment:
        """The deployment with the result of running it, or with the reason why it was not run."""
        from tvm_iovt import runtime

        if runtime.why_not_here(self._folder, deployment):
            return self._elsewhere(manifest, deployment)
        self._progress(f"running {deployment.name} on this machine")
        executor = runtime.load(self._folder, target=deployment.name)
        outputs = executor.run(self._inputs)
        discrepancy = self._compare(outputs)
        device, _ = executor.benchmark(self._inputs, warmup=WARMUP, repeat=REPEAT)
        return dataclasses.replace(
            deployment,
            verified=f"on this machine, against {self._network.reference_name}",
            discrepancy=discrepancy,
            measurement=device,
        )

    def _elsewhere(self, manifest: Manifest, deployment: Deployment) -> Deployment:
        from tvm_iovt.runtime.stage_by_stage import run_stages, why_not_run

        reason = why_not_run(self._folder, deployment, emulate=self._options.emulate)
        if reason:
            return dataclasses.replace(deployment, verified=f"not run here: it {reason}")
        outputs, where = run_stages(
            self._folder, manifest, deployment, self._inputs, self._progress
        )
        return dataclasses.replace(
            deployment,
            verified=f"{where}, against {self._network.reference_name}",
            discrepancy=self._compare(outputs),
        )

    def check_cut(self, manifest: Manifest, deployment: Deployment, annotated: Any) -> Deployment:
        """A partitioned deployment that cannot run here, with its cut checked all the same.

        The same stages are built for this machine's CPU and compared with the reference: that
        proves what passes between them, not the kernels of the other targets.

        Args:
            manifest: Of the bundle.
            deployment: That was not run.
            annotated: The network's graph with the costs of its units.

        Raises:
            NumericsError: The stages do not make the network.
        """
        from tvm_iovt import targets
        from tvm_iovt.runtime.stage_by_stage import run_stages
        from tvm_iovt.stages.deployment import build_plan
        from tvm_iovt.stages.library import StageBuilder

        self._progress(f"checking the cut of {deployment.name} with this machine's kernels")
        host = targets.load("host")
        stages = tuple(
            dataclasses.replace(stage, target=host.name) for stage in deployment.plan.stages
        )
        with tempfile.TemporaryDirectory(prefix="tvm-iovt-cut-") as temporary:
            folder = Path(temporary)
            stand_in, _ = build_plan(
                f"{deployment.name} on {host.name}",
                annotated,
                dataclasses.replace(deployment.plan, stages=stages),
                (host,),
                StageBuilder((host,), self._options.kernels),
                folder,
            )
            outputs, _ = run_stages(folder, manifest, stand_in, self._inputs, lambda _: None)
        discrepancy = self._compare(outputs)
        if not discrepancy.passed:
            failed = dataclasses.replace(stand_in, discrepancy=discrepancy)
            raise wrong_numerics(failed, self._folder, kept=False)
        error = max(output.max_abs for output in discrepancy.outputs)
        return dataclasses.replace(
            deployment,
            verified=f"{deployment.verified}; its cut with this machine's kernels: passed, max abs "
            f"{error:.2g}",
        )

    def _compare(self, outputs: Arrays) -> Discrepancy:
        return compare(
            outputs,
            self._expected,
            tolerance=tolerance_of(self._network, self._options),
            reference=self._network.reference_name,
        )


def first_failure(manifest: Manifest) -> Deployment | None:
    """The first deployment whose outputs are not near enough to the reference."""
    for deployment in manifest.deployments:
        if deployment.discrepancy is not None and not deployment.discrepancy.passed:
            return deployment
    return None


def wrong_numerics(failed: Deployment, destination: Path, *, kept: bool) -> NumericsError:
    """The error of a deployment that failed its comparison."""
    discrepancy = failed.discrepancy
    assert discrepancy is not None
    worst = discrepancy.worst
    outcome = f"{destination} was kept" if kept else "no bundle was written"
    return NumericsError(
        f"The outputs of {failed.name} differ from {discrepancy.reference}; {outcome}",
        seen=f"output {worst.name!r} breaks {discrepancy.tolerance}: {worst.violations} of "
        f"{worst.elements} elements outside, max abs {worst.max_abs:.3g}, "
        f"max rel {worst.max_rel:.3g}, cosine {worst.cosine:.6f}",
        do="try a realistic input with --sample; state your own --rtol and --atol; --keep writes "
        "the bundle all the same, to look into it",
    )
