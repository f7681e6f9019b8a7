"""`compile_model`: from a model file to a verified bundle; the command line prints the result."""

from __future__ import annotations

import dataclasses
import datetime
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_iovt import bundle, host_cpu, precision, targets
from tvm_iovt._version import __version__
from tvm_iovt.discrepancy import compare
from tvm_iovt.errors import BundleError, IovtError, NumericsError, UsageError
from tvm_iovt.roofline import assumed_ceilings
from tvm_iovt.types import (
    Decision,
    Deployment,
    Discrepancy,
    Library,
    Manifest,
    PartitionPlan,
    Preprocess,
    Stage,
    TargetSpec,
    Tolerance,
)

if TYPE_CHECKING:
    from tvm_iovt.build.link import Linker
    from tvm_iovt.frontend.network import Arrays, Network
    from tvm_iovt.tuning.kernel_choice import KernelSelector
    from tvm_iovt.tuning.tuned import ChosenSchedules

Progress = Callable[[str], None]

# Two fp32 implementations of a convolution network that sum in different orders differ by a few
# 1e-6 of the largest activation, and deeper networks by some 1e-5; a wrong kernel is off by 1e-2
# and more. These bounds lie between, and near-zero elements get the absolute one.
FLOAT_TOLERANCE = Tolerance(rtol=1e-3, atol=1e-4)
# Convolutions of quantized networks are computed in exact integers and agree with the reference
# bit for bit. Whatever stays in float32 turns a last-bit difference before a rounding edge into a
# whole step after it, and further layers amplify that: ONNX Runtime's own float32 and integer modes
# are at cosines of 0.98 to 0.99 of each other on MobileNetV2. A wrong kernel is far below.
QUANTIZED_TOLERANCE = dataclasses.replace(FLOAT_TOLERANCE, min_cosine=0.95)
# Half precision has a unit in the last place of 1e-3, and the reference sums in another order (on
# x86 partly in float32): ten to twenty units.
HALF_TOLERANCE = Tolerance(rtol=2e-2, atol=1e-2)
TOLERANCES = {
    "float32": FLOAT_TOLERANCE,
    "float16": HALF_TOLERANCE,
    "quantized": QUANTIZED_TOLERANCE,
}

# bfloat16 has 8 bits of significand: each operand is off by up to 2^-9, and as the roundings are
# independent an output of L layers is off by about sqrt(2 L) / 3 of that in norm, 0.5 % for 20
# layers and 1 % for 100. What amplifies comes on top: of 32 networks on noise 31 have cosines of
# 0.9997 and more, and a text detector, whose sigmoid is near zero everywhere, has 0.993. A wrong
# kernel is far below. Elements beyond the other two bounds are counted only.
BF16_TOLERANCE = Tolerance(rtol=2e-2, atol=5e-3, min_cosine=0.99)
# float16 has 11 bits, but its sums are rounded too: after k additions by about 2^-12 sqrt(k) / 2.5
# in norm, which for the usual 10^3 terms is as much as bfloat16's rounding of the operands.
REDUCED_TOLERANCES = {"bf16": BF16_TOLERANCE, "fp16": BF16_TOLERANCE}

WARMUP, REPEAT = 5, 30

FUSE_MODES = ("always", "auto", "never")

REPORT = "report.html"
_FULL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileOptions:
    """What `compile` can be told.

    Attributes:
        targets: Comma-separated target names, see `targets.load_all`.
        input_shapes: Static shapes of inputs that the model leaves open.
        output: The bundle to write; by default `<model>.iovt` in the current folder.
        overwrite: Replace an existing bundle.
        verify: Compare with the reference before the bundle is written.
        keep: Write the bundle even if the comparison fails (which still is an error).
        emulate: Also run targets of another CPU architecture, under qemu-user.
        rtol: Relative tolerance of the comparison, over the default.
        atol: Absolute tolerance of the comparison, over the default.
        sample: Input to verify with (image or .npz); by default seeded random numbers.
        preprocess: Name of an image preset, over what the model's file says.
        cross_compiler: Linker command for targets of another CPU architecture, over those that
            are found.
        fuse: Which operators with constant weights become one: `always` (whatever is exact),
            `auto` (what saves time by the target's roofline) or `never`.
        precision: What convolutions and matrix products with constant weights compute in: `fp32`
            (as the model says: float32, or integers in a quantized model), `bf16` or `fp16`
            (operands rounded), or `int8` (requires a quantized model and integer instructions).
        winograd: Whether convolutions may use Winograd's algorithm where it is predicted to be
            faster. Its rounding errors are larger than those of direct sums, within bounds that
            are checked layer by layer.
        measure: Decide between kernels of a convolution by measuring them, where no record of an
            earlier measurement does; every target must be the CPU of this machine.
        tuned: Use the schedules that `tune` has recorded for the target's kind of device.
    """

    targets: str = "host"
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    output: Path | None = None
    overwrite: bool = False
    verify: bool = True
    keep: bool = False
    emulate: bool = False
    rtol: float | None = None
    atol: float | None = None
    sample: Path | None = None
    preprocess: str = ""
    cross_compiler: str = ""
    fuse: str = "auto"
    precision: str = "fp32"
    winograd: bool = True
    measure: bool = False
    tuned: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilation:
    """A written bundle."""

    path: Path
    manifest: Manifest


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
    specs = targets.load_all(options.targets)
    precision.check_targets(options.precision, specs)
    destination = options.output or Path(f"{model.stem}.iovt")
    if destination.exists() and not options.overwrite:
        raise BundleError(
            f"{destination} exists",
            do="give another name with -o, or replace it with --overwrite",
        )
    progress("loading the compiler")
    linkers = _toolchains(specs, options)
    if options.measure:
        _check_measurable(specs)

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
        deployments, decisions = _build_all(network, specs, linkers, folder, options, progress)
        bundle.save_sample(folder, inputs, expected)
        manifest = _manifest(network, deployments, decisions, preprocess, options, folder)
        manifest = _write(folder, manifest)
        if options.verify:
            checked = [
                _verify(folder, deployment, inputs, expected, network, options, progress)
                for deployment in manifest.deployments
            ]
            manifest = dataclasses.replace(manifest, deployments=tuple(checked))
            manifest = _write(folder, manifest)
            failed = _first_failure(manifest)
            if failed is not None and not options.keep:
                raise _wrong_numerics(failed, destination, kept=False)
    if failed is not None:
        raise _wrong_numerics(failed, destination, kept=True)
    return Compilation(path=destination, manifest=manifest)


def _toolchains(specs: tuple[TargetSpec, ...], options: CompileOptions) -> dict[str, Linker]:
    """A linker for each target; whatever is missing is found before the slow work begins."""
    from tvm_iovt import _tvm
    from tvm_iovt.build import cuda
    from tvm_iovt.build.link import find_linker

    linkers = {}
    for spec in specs:
        if spec.gpu is not None and spec.gpu.kind == "cuda":
            cuda.enable_codegen()
            cuda.find_compiler(spec.gpu.arch)
        _tvm.tvm_target(spec)
        prefer = spec.cross_compiler
        if spec.cpu.arch != host_cpu.machine():
            prefer = options.cross_compiler or prefer
        linkers[spec.name] = find_linker(spec.cpu, prefer=prefer)
    return linkers


def _check_measurable(specs: tuple[TargetSpec, ...]) -> None:
    from tvm_iovt.tuning.kernel_choice import check_is_here

    for spec in specs:
        check_is_here(spec)


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


def _build_all(
    network: Network,
    specs: tuple[TargetSpec, ...],
    linkers: Mapping[str, Linker],
    folder: Path,
    options: CompileOptions,
    progress: Progress,
) -> tuple[tuple[Deployment, ...], tuple[Decision, ...]]:
    from tvm_iovt.build.stage import build_stage

    decisions = list(network.decisions)
    deployments = []
    for number, spec in enumerate(specs, start=1):
        progress(f"building for {spec.name} ({number} of {len(specs)})")
        module, made = run_graph_passes(network, spec, options)
        # What is decided alike for several targets is told once.
        decisions += [decision for decision in made if decision not in decisions]
        file = f"stage0.{_file_part(spec.name)}.so"
        select = kernel_selector(spec, options, progress) if spec.gpu is None else None
        tuned = _tuned_schedules(spec, options, progress)
        with _full_disk_is_ours(folder / file), _closing(select):
            notes, parameters = build_stage(
                module,
                spec,
                linkers[spec.name],
                folder / file,
                options.precision,
                select,
                tuned,
            )
        if select is not None:
            notes = (*notes, *select.decisions)
            if options.measure or select.measured:
                progress(select.summary)
        if tuned is not None:
            _tell_tuned(tuned, spec, progress)
        decisions += [
            dataclasses.replace(note, subject=f"{spec.name}: {note.subject}") for note in notes
        ]
        library = Library(
            stage=0,
            file=bundle.record(folder, file),
            device="cpu" if spec.gpu is None else spec.gpu.kind,
            parameters_bytes=parameters,
        )
        deployments.append(_whole_network(network, spec, library))
    return tuple(deployments), tuple(decisions)


def _closing(select: KernelSelector | None) -> AbstractContextManager[object]:
    return nullcontext() if select is None else closing(select)


def kernel_selector(
    spec: TargetSpec,
    options: CompileOptions,
    progress: Progress,
    folders: Sequence[Path] | None = None,
) -> KernelSelector:
    """What chooses the kernels of convolutions for a CPU target.

    Args:
        spec: The target.
        options: Of the compilation.
        progress: Called with a line for each step.
        folders: Of records; by default those that `resources` finds.

    Returns:
        It must be closed if `options.measure` is set.
    """
    from tvm_iovt.runtime import threads
    from tvm_iovt.tuning import kernel_choice
    from tvm_iovt.tuning.kernel_records import Records

    threads.set_defaults()  # measurements use the pool as the bundle will
    setting = kernel_choice.setting_of(spec, winograd=options.winograd)
    records = Records(setting, folders)
    for problem in records.problems:
        progress(f"warning: {problem}")
    measure = None
    if options.measure:
        measure = kernel_choice.KernelMeasurer(spec, setting.threads, progress)
    return kernel_choice.KernelSelector(spec.cpu, setting, records, measure)


def _tuned_schedules(
    spec: TargetSpec, options: CompileOptions, progress: Progress
) -> ChosenSchedules | None:
    """The schedules that tuning has found for a target; None if they are not to be used."""
    if not options.tuned:
        return None
    from tvm_iovt.tuning.device_kind import device_kind
    from tvm_iovt.tuning.record_store import find_choices
    from tvm_iovt.tuning.tuned import ChosenSchedules

    found = find_choices(device_kind(spec))
    for problem in found.problems:
        progress(f"warning: {problem}")
    if not found.choices:
        for reason in found.refused:
            progress(f"tuning records are not used: {reason}")
    return ChosenSchedules(found.choices)


def _tell_tuned(tuned: ChosenSchedules, spec: TargetSpec, progress: Progress) -> None:
    for problem in tuned.problems:
        progress(f"warning: {problem}")
    if tuned.used:
        progress(f"{tuned.used} kernels for {spec.name} use schedules from tuning records")


def run_graph_passes(
    network: Network, spec: TargetSpec, options: CompileOptions
) -> tuple[Any, tuple[Decision, ...]]:
    """The network's module after the graph passes for a target, and what they decided."""
    import relay_passes
    from tvm_iovt import _tvm

    decisions: list[Decision] = []
    time = assumed_ceilings(spec).time_s if options.fuse == "auto" else None
    passes = relay_passes.graph_passes(decisions.append, fuse=options.fuse != "never", time=time)
    module = _tvm.tvm.transform.Sequential(passes)(network.module)
    return module, tuple(decisions)


def _whole_network(network: Network, spec: TargetSpec, library: Library) -> Deployment:
    stage = Stage(
        index=0,
        target=spec.name,
        inputs=network.inputs,
        outputs=network.outputs,
    )
    plan = PartitionPlan(
        stages=(stage,), objective="whole", reason=f"the whole network on {spec.name}"
    )
    return Deployment(
        name=spec.name,
        targets=(dataclasses.replace(spec, source=Path(spec.source).name),),
        plan=plan,
        libraries=(library,),
        verified="not verified (--no-verify)",
    )


def _manifest(
    network: Network,
    deployments: tuple[Deployment, ...],
    decisions: tuple[Decision, ...],
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
        deployments=deployments,
        sample=bundle.record(folder, bundle.SAMPLE),
        reference=network.reference_name if options.verify else "",
        tolerance=_tolerance(network, options),
        report=bundle.record(folder, REPORT),
        operators=network.operators,
        decisions=decisions,
        preprocess=preprocess,
        labels=network.labels,
        precision=options.precision,
    )


def _write(folder: Path, manifest: Manifest) -> Manifest:
    """Write the report, then the manifest that records it; returns that."""
    from tvm_iovt.report.html import html_report

    (folder / REPORT).write_text(html_report(manifest), encoding="utf-8")
    recorded = dataclasses.replace(manifest, report=bundle.record(folder, REPORT))
    bundle.save_manifest(folder, recorded)
    return recorded


def _verify(
    folder: Path,
    deployment: Deployment,
    inputs: Arrays,
    expected: Arrays,
    network: Network,
    options: CompileOptions,
    progress: Progress,
) -> Deployment:
    """The deployment with the result of running it, or with the reason why it was not run."""
    from tvm_iovt import runtime

    reason = runtime.why_not_here(folder, deployment)
    if reason:
        return _verify_elsewhere(folder, deployment, expected, network, options, progress, reason)
    progress(f"running {deployment.name} on this machine")
    executor = runtime.load(folder, target=deployment.name)
    outputs = executor.run(inputs)
    discrepancy = _compare(outputs, expected, network, options)
    device, _ = executor.benchmark(inputs, warmup=WARMUP, repeat=REPEAT)
    return dataclasses.replace(
        deployment,
        verified=f"on this machine, against {network.reference_name}",
        discrepancy=discrepancy,
        measurement=device,
    )


def _verify_elsewhere(
    folder: Path,
    deployment: Deployment,
    expected: Arrays,
    network: Network,
    options: CompileOptions,
    progress: Progress,
    reason: str,
) -> Deployment:
    if not options.emulate:
        return dataclasses.replace(deployment, verified=f"not run here: it {reason}")
    from tvm_iovt.runtime.emulate import emulate_deployment

    progress(f"running {deployment.name} under emulation")
    outputs, emulator = emulate_deployment(folder, deployment.name)
    return dataclasses.replace(
        deployment,
        verified=f"under {emulator}, against {network.reference_name}",
        discrepancy=_compare(outputs, expected, network, options),
    )


def _tolerance(network: Network, options: CompileOptions) -> Tolerance:
    tolerance = TOLERANCES[network.arithmetic]
    if network.arithmetic == "float32":
        tolerance = REDUCED_TOLERANCES.get(options.precision, tolerance)
    return tolerance.stated(options.rtol, options.atol)


def _compare(
    outputs: Arrays, expected: Arrays, network: Network, options: CompileOptions
) -> Discrepancy:
    tolerance = _tolerance(network, options)
    return compare(outputs, expected, tolerance=tolerance, reference=network.reference_name)


def _first_failure(manifest: Manifest) -> Deployment | None:
    for deployment in manifest.deployments:
        if deployment.discrepancy is not None and not deployment.discrepancy.passed:
            return deployment
    return None


def _wrong_numerics(failed: Deployment, destination: Path, *, kept: bool) -> NumericsError:
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


@contextmanager
def _full_disk_is_ours(path: Path) -> Iterator[None]:
    """A library that does not fit: linkers report it in their own words."""
    try:
        yield
    except IovtError as error:
        free_bytes = shutil.disk_usage(path.parent).free
        if "No space left" in error.seen or free_bytes < _FULL_BYTES:
            raise BundleError(
                f"The disk filled up while {path.name} was written to {path.parent}",
                seen=f"no space left on the device; {free_bytes} bytes are free without that file",
                do="free some space, or write the bundle elsewhere with -o",
            ) from error
        raise


def _file_part(name: str) -> str:
    """A target name as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)
