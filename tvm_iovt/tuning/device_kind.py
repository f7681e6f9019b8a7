"""What the records of a target hold for."""

from __future__ import annotations

from tvm_iovt.tuning.kernel_choice import setting_of
from tvm_iovt.tuning.schedule_records import DeviceKind
from tvm_iovt.types import TargetSpec


def device_kind(spec: TargetSpec) -> DeviceKind:
    """The kind of device that a target is, for the records."""
    setting = setting_of(spec, winograd=True)
    if spec.gpu is None:
        return DeviceKind(cpu=setting.target, threads=setting.threads)
    return DeviceKind(cpu=setting.target, gpu=f"{spec.gpu.kind} {spec.gpu.arch}")
