"""What the records of a target hold for."""

from __future__ import annotations

from tvm_iovt.tuning.kernel_choice import setting_of
from tvm_iovt.tuning.kernel_records import CpuKind
from tvm_iovt.tuning.schedule_records import DeviceKind
from tvm_iovt.types import TargetSpec

ANY_CPU = CpuKind(mcpu="any", triple="any", vector_bits=0, cores=0)


def device_kind(spec: TargetSpec) -> DeviceKind:
    """The kind of device that a target is, for the records."""
    if spec.gpu is not None:  # its kernels take the same time whatever launches them
        return DeviceKind(cpu=ANY_CPU, gpu=f"{spec.gpu.kind} {spec.gpu.arch}")
    setting = setting_of(spec, winograd=True)
    return DeviceKind(cpu=setting.target, threads=setting.threads)
