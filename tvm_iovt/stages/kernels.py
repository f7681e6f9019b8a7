"""Which kernels a network is made of: what was asked for, measured or tuned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_iovt.types import TargetSpec

if TYPE_CHECKING:
    from tvm_iovt.tuning.kernel_choice import KernelSelector
    from tvm_iovt.tuning.tuned import ChosenSchedules

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelOptions:
    """What decides between kernels; the attributes are those of `CompileOptions`."""

    precision: str = "fp32"
    winograd: bool = True
    measure: bool = False
    tuned: bool = True


def kernel_selector(
    spec: TargetSpec,
    options: KernelOptions,
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


def tuned_schedules(
    spec: TargetSpec, options: KernelOptions, progress: Progress
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
