"""`StageBuilder`: from the module of a stage to its library in a bundle."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_iovt import bundle, host_cpu
from tvm_iovt.errors import BundleError, IovtError
from tvm_iovt.stages.kernels import KernelOptions, Progress, kernel_selector, tuned_schedules
from tvm_iovt.types import Decision, Library, TargetSpec

if TYPE_CHECKING:
    from tvm_iovt.tuning.kernel_choice import KernelSelector
    from tvm_iovt.tuning.tuned import ChosenSchedules

_FULL_BYTES = 64 * 1024


class StageBuilder:
    """Builds stages for a set of targets.

    Whatever of the toolchains is missing is found when it is made, before any slow work.

    Args:
        specs: The targets.
        options: Which kernels to choose.
        cross_compiler: Linker command for targets of another CPU architecture, over those that are
            found.
        progress: Called with a line for each step.

    Raises:
        ToolchainError: No linker, or no CUDA compiler, for one of the targets.
        TargetError: One of them cannot be compiled for, or measured.
    """

    def __init__(
        self,
        specs: Sequence[TargetSpec],
        options: KernelOptions,
        *,
        cross_compiler: str = "",
        progress: Progress = lambda message: None,
    ) -> None:
        from tvm_iovt import _tvm
        from tvm_iovt.build import cuda
        from tvm_iovt.build.link import find_linker

        self._options = options
        self._progress = progress
        self._linkers = {}
        for spec in specs:
            if spec.gpu is not None and spec.gpu.kind == "cuda":
                cuda.enable_codegen()
                cuda.find_compiler(spec.gpu.arch)
            _tvm.tvm_target(spec)
            prefer = spec.cross_compiler
            if spec.cpu.arch != host_cpu.machine():
                prefer = cross_compiler or prefer
            self._linkers[spec.name] = find_linker(spec.cpu, prefer=prefer)
        if options.measure:
            from tvm_iovt.tuning.kernel_choice import check_is_here

            for spec in specs:
                check_is_here(spec)

    def build(
        self, module: Any, spec: TargetSpec, folder: Path, stage: int, file: str
    ) -> tuple[Library, tuple[Decision, ...]]:
        """Compile `main` of a module and link it into a file of a bundle.

        Args:
            module: After the graph passes.
            spec: One of the targets.
            folder: The bundle.
            stage: Index of the stage.
            file: Name of the library in the bundle.

        Returns:
            The library, and what was decided about its kernels.

        Raises:
            ModelError: TVM cannot generate code for it.
            ToolchainError: Linking failed.
            BundleError: The disk is full.
        """
        from tvm_iovt.build.stage import build_stage

        options, progress = self._options, self._progress
        select = kernel_selector(spec, options, progress) if spec.gpu is None else None
        tuned = tuned_schedules(spec, options, progress)
        with _full_disk_is_ours(folder / file), _closing(select):
            notes, parameters = build_stage(
                module,
                spec,
                self._linkers[spec.name],
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
        library = Library(
            stage=stage,
            file=bundle.record(folder, file),
            device="cpu" if spec.gpu is None else spec.gpu.kind,
            parameters_bytes=parameters,
        )
        return library, tuple(
            dataclasses.replace(note, subject=f"{spec.name}: {note.subject}") for note in notes
        )


def new_file(folder: Path, name: str, suffix: str) -> str:
    """A file name for a name, which the folder does not have: `arm/2` and `arm-2` look alike."""
    part = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
    taken = itertools.count(2)
    file = f"{part}{suffix}"
    while (folder / file).exists():
        file = f"{part}~{next(taken)}{suffix}"
    return file


def _closing(select: KernelSelector | None) -> AbstractContextManager[object]:
    return nullcontext() if select is None else closing(select)


def _tell_tuned(tuned: ChosenSchedules, spec: TargetSpec, progress: Progress) -> None:
    for problem in tuned.problems:
        progress(f"warning: {problem}")
    if tuned.used:
        progress(f"{tuned.used} kernels for {spec.name} use schedules from tuning records")


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
