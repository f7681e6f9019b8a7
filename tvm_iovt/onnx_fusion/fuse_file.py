"""`fuse_file`: from an ONNX file to that of the fused network, proven equal before it appears."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_iovt import targets
from tvm_iovt.atomic_write import write_atomically
from tvm_iovt.errors import ModelError, NumericsError, UsageError
from tvm_iovt.frontend.onnx_model import LARGEST_WEIGHTS_BYTES, load_onnx, weights_bytes
from tvm_iovt.frontend.reference import OnnxReference
from tvm_iovt.fusion.rules import OperatorTime
from tvm_iovt.onnx_fusion.attributes import operator_name
from tvm_iovt.onnx_fusion.fuse_model import fuse_onnx
from tvm_iovt.onnx_fusion.verification import OutputCheck, check_fused
from tvm_iovt.roofline import assumed_ceilings
from tvm_iovt.types import Decision

if TYPE_CHECKING:
    import onnx

Progress = Callable[[str], None]

FUSE_MODES = ("always", "auto")


@dataclass(frozen=True, slots=True, kw_only=True)
class FuseOptions:
    """What `fuse` can be told.

    Attributes:
        output: The file to write; by default `<model>.fused.onnx` in the current folder.
        overwrite: Replace an existing file.
        fuse: `always` (whatever is exact) or `auto` (what saves time by the target's roofline).
        target: Name of the target that `auto` decides for.
        verify: Compare with the original before the file is written.
        input_shapes: Shapes for the comparison, of inputs that the model leaves open.
        rtol: Allowed difference as a share of an output's largest number, over the default.
        atol: Allowed difference besides.
    """

    output: Path | None = None
    overwrite: bool = False
    fuse: str = "auto"
    target: str = "host"
    verify: bool = True
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    rtol: float | None = None
    atol: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedModel:
    """A written model.

    Attributes:
        path: The file.
        nodes_before: Number of nodes of each type.
        nodes_after: The same after the fusion.
        decisions: Every fusion made, and what was refused.
        checks: All outputs on all inputs of the comparison; empty if there was none.
        reference: What ran both models; empty if nothing did.
    """

    path: Path
    nodes_before: Mapping[str, int]
    nodes_after: Mapping[str, int]
    decisions: tuple[Decision, ...]
    checks: tuple[OutputCheck, ...]
    reference: str

    @property
    def fusions(self) -> int:
        """How many fusions were made."""
        return sum(decision.applied for decision in self.decisions)

    @property
    def worst(self) -> OutputCheck | None:
        """The check with the largest relative difference."""
        return max(self.checks, key=lambda check: check.severity, default=None)


def fuse_file(
    model: Path, options: FuseOptions, *, progress: Progress = lambda message: None
) -> FusedModel:
    """Fold what is linear in an ONNX model, compare, and write the result.

    A model in which nothing can be fused is written as it is. Weights of more than 2 GB go to a
    file of their own beside the output, `<output>.data`; those of smaller models go inside.

    Args:
        model: An ONNX file, external data beside it.
        options: See `FuseOptions`.
        progress: Called with a line for each step.

    Raises:
        UsageError: The output exists or cannot be written, or the comparison lacks a shape.
        ModelError: The model cannot be read, or ONNX Runtime cannot run it.
        TargetError: There is no such target.
        NumericsError: The fused model computes something else; nothing is written.
    """
    time = _time(options)
    out = options.output or Path(f"{model.stem}.fused.onnx")
    _refuse_existing(out, overwrite=options.overwrite)
    progress(f"reading {model.name}")
    original = _load(model)
    if options.verify:
        _refuse_too_large(original)
    progress("fusing")
    decisions: list[Decision] = []
    fused = fuse_onnx(original, time=time, on_decision=decisions.append)
    before, after = _node_counts(original), _node_counts(fused)
    checks: tuple[OutputCheck, ...] = ()
    if options.verify:
        progress(f"comparing in {OnnxReference.name()}")
        checks = check_fused(
            original, fused, options.input_shapes, rtol=options.rtol, atol=options.atol
        )
    result = FusedModel(
        path=out,
        nodes_before=before,
        nodes_after=after,
        decisions=tuple(decisions),
        checks=checks,
        reference=OnnxReference.name() if options.verify else "",
    )
    _refuse_wrong(result, model)
    progress(f"writing {out}")
    _write(fused, out)
    return result


def _load(model: Path) -> onnx.ModelProto:
    if model.suffix == ".pt2":
        raise ModelError(
            f"{model} is not an ONNX model",
            seen="a torch.export program",
            do="export it with torch.onnx.export; `tvm-iovt compile` reads it as it is",
        )
    return load_onnx(model)


def _time(options: FuseOptions) -> OperatorTime | None:
    if options.fuse not in FUSE_MODES:
        raise UsageError(
            f"There is no fusion mode {options.fuse!r}", do=f"use one of: {', '.join(FUSE_MODES)}"
        )
    if options.fuse == "always":
        return None
    return assumed_ceilings(targets.load(options.target)).time_s


def _refuse_existing(out: Path, *, overwrite: bool) -> None:
    if out.is_dir():
        raise UsageError(f"{out} is a folder", do="give the name of a file with -o")
    if out.exists() and not overwrite:
        raise UsageError(
            f"{out} exists", do="give another name with -o, or replace it with --overwrite"
        )


def _node_counts(model: onnx.ModelProto) -> Mapping[str, int]:
    return dict(sorted(Counter(map(operator_name, model.graph.node)).items()))


def _refuse_too_large(model: onnx.ModelProto) -> None:
    size = weights_bytes(model)
    if size > LARGEST_WEIGHTS_BYTES:
        raise ModelError(
            "The model is too large to be compared in memory",
            seen=f"{size / 1e9:.1f} GB of weights; the limit is 2 GB",
            do="--no-verify writes the fused model without a comparison",
        )


def _refuse_wrong(result: FusedModel, model: Path) -> None:
    worst = result.worst
    if worst is None or worst.passed:
        return
    output = worst.discrepancy.outputs[0]
    raise NumericsError(
        f"The fused model differs from {model.name}; nothing was written",
        seen=f"output {worst.name!r} on the input {worst.sample!r}: {output.violations} of "
        f"{output.elements} elements are off by up to {worst.max_abs:.3g}, {worst.limit} "
        f"is allowed (largest number {worst.largest:.3g}, cosine {output.cosine:.6f})",
        do="if the outputs are classes or boxes, near ties may flip: judge by --rtol and --atol "
        "or compare on data of your own after --no-verify; otherwise please report it",
    )


def _write(model: onnx.ModelProto, out: Path) -> None:
    if weights_bytes(model) <= LARGEST_WEIGHTS_BYTES:
        write_atomically(out, model.SerializeToString())
        return
    import onnx

    data = f"{out.name}.data"
    with _staging(out) as folder:
        # Small constants stay inside: shape inference reads them.
        onnx.save_model(
            model,
            str(folder / out.name),
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location=data,
            size_threshold=1024,
        )
        (folder / data).replace(out.with_name(data))
        (folder / out.name).replace(out)


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A folder beside a file, gone in the end; what the disk refuses is a `UsageError`."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{out.name}.{os.getpid()}.", dir=out.parent
        ) as name:
            yield Path(name)
    except OSError as error:
        raise UsageError(f"Cannot write {out}", seen=str(error)) from error
