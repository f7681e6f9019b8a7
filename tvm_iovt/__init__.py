"""Compile vision networks for the devices of a video-edge system, on Apache TVM.

>>> import tvm_iovt
>>> result = tvm_iovt.compile("model.onnx", targets="host,arm")
>>> executor = tvm_iovt.load(result.path)
>>> outputs = executor.run({"input": image})

Importing this package imports neither TVM nor torch; the calls do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_iovt._version import __version__

if TYPE_CHECKING:
    from tvm_iovt.compiler import Compilation
    from tvm_iovt.onnx_fusion.fuse_file import FusedModel
    from tvm_iovt.planning.plan_file import PlanFile
    from tvm_iovt.runtime import Executor
    from tvm_iovt.tuning.events import TuneOutcome

__all__ = ["__version__", "compile", "fuse", "load", "plan", "tune"]


def compile(  # the verb's name, as on the command line
    model: str | Path,
    *,
    targets: str = "host",
    output: str | Path | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    **options: Any,
) -> Compilation:
    """Compile a model to a verified bundle; what `tvm-iovt compile` calls.

    Args:
        model: ONNX file or torch.export program.
        targets: Comma-separated target names.
        output: The bundle; by default `<model>.iovt` in the current folder.
        input_shapes: Static shapes of inputs that the model leaves open, by name.
        **options: Further fields of `tvm_iovt.compiler.CompileOptions`.

    Raises:
        IovtError: See `tvm_iovt.errors`.
    """
    from tvm_iovt.compiler import CompileOptions, compile_model

    for name in ("plan", "sample"):
        if options.get(name) is not None:
            options[name] = Path(options[name])
    return compile_model(
        Path(model),
        CompileOptions(
            targets=targets,
            output=None if output is None else Path(output),
            input_shapes=dict(input_shapes or {}),
            **options,
        ),
    )


def fuse(model: str | Path, *, output: str | Path | None = None, **options: Any) -> FusedModel:
    """Write the folded network as ONNX; what `tvm-iovt fuse` calls.

    Args:
        model: ONNX file.
        output: The file to write; by default `<model>.fused.onnx` in the current folder.
        **options: Further fields of `tvm_iovt.onnx_fusion.fuse_file.FuseOptions`.

    Raises:
        IovtError: See `tvm_iovt.errors`.
    """
    from tvm_iovt.onnx_fusion.fuse_file import FuseOptions, fuse_file

    return fuse_file(
        Path(model), FuseOptions(output=None if output is None else Path(output), **options)
    )


def load(path: str | Path, *, target: str | None = None) -> Executor:
    """Load a bundle for this machine; see `tvm_iovt.runtime.load`."""
    from tvm_iovt import runtime

    return runtime.load(path, target=target)


def plan(model: str | Path, *, targets: str, **options: Any) -> PlanFile:
    """Decide where a model is cut, and what runs where; what `tvm-iovt plan` calls.

    `tvm_iovt.planning.plan_file.write_plan` writes the result for `compile(..., plan=FILE)`.

    Args:
        model: ONNX file or torch.export program.
        targets: Comma-separated devices; one may be named several times.
        **options: Further fields of `tvm_iovt.planning.model_plan.PlanOptions`.

    Raises:
        IovtError: See `tvm_iovt.errors`.
    """
    from tvm_iovt.planning.model_plan import PlanOptions, plan_model

    if options.get("cuts"):
        options.setdefault("objective", "")  # cuts stand in place of one
    return plan_model(Path(model), PlanOptions(targets=targets, **options))


def tune(
    model: str | Path,
    *,
    target: str = "host",
    trials: int | None = None,
    time_s: float | None = None,
    **options: Any,
) -> TuneOutcome:
    """Search faster schedules and record them; what `tvm-iovt tune` calls.

    Args:
        model: ONNX file or torch.export program.
        target: Name of one target.
        trials: Stop after so many.
        time_s: Stop after so many seconds. One of the two is needed.
        **options: Further fields of `tvm_iovt.tuner.TuneOptions`.

    Raises:
        IovtError: See `tvm_iovt.errors`.
    """
    from tvm_iovt.tuner import TuneOptions, tune_model

    return tune_model(
        Path(model), TuneOptions(target=target, trials=trials, time_s=time_s, **options)
    )
