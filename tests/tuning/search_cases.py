"""Small tasks, a device and a measurer that needs no device."""

from __future__ import annotations

import contextlib
import hashlib

import tvm
from tvm import te

from tvm_iovt import _tvm, targets
from tvm_iovt.schedules.convolution import Conv2d, conv2d_packed, matmul_packed
from tvm_iovt.schedules.tiles import Tile
from tvm_iovt.tuning.kernel_records import CpuKind
from tvm_iovt.tuning.schedule_records import DeviceKind
from tvm_iovt.tuning.tasks import Task, module_of, workload_key
from tvm_iovt.tuning.trial import RUN, TrialResult, Workload

DEVICE = DeviceKind(
    cpu=CpuKind(mcpu="znver4", triple="x86_64-linux-gnu", vector_bits=512, cores=2), threads=2
)


def host():
    spec = targets.load("host")
    return spec, _tvm.tvm_target(spec)


def conv_function(size=12, channels=16):
    conv = Conv2d(
        batch=1,
        in_size=(size, size),
        in_channels=channels,
        out_channels=40,
        kernel=(3, 3),
        strides=(1, 1),
        padding=(1, 1, 1, 1),
        dilation=(1, 1),
        groups=1,
    )
    tile = Tile(rows=1, cols=12, vectors=1, lanes=16)
    image = te.placeholder((1, size, size, channels))
    weight = te.placeholder((3, 3, 3, channels, 16))
    return with_relu([image, weight], conv2d_packed(image, weight, conv, tile))


def dense_function():
    tile = Tile(rows=1, cols=8, vectors=3, lanes=16)
    matrix, weight = te.placeholder((48, 64)), te.placeholder((2, 64, 48))
    return with_relu([matrix, weight], matmul_packed(matrix, weight, 96, tile))


def softmax_like_function():
    """A function that only TVM's generic rules have spaces for."""
    matrix = te.placeholder((64, 96), name="matrix")
    k = te.reduce_axis((0, 96), "k")
    total = te.compute((64,), lambda i: te.sum(matrix[i, k] * matrix[i, k], axis=k), name="total")
    scaled = te.compute((64, 96), lambda i, j: matrix[i, j] * total[i] + total[i], name="scaled")
    return te.create_prim_func([matrix, scaled])


def with_relu(inputs, result):
    zero = tvm.tirx.const(0, "float32")
    relu = te.compute(result.shape, lambda *i: tvm.tirx.max(result(*i), zero), name="relu")
    return te.create_prim_func([*inputs, relu])


def task_of(function, name="kernel", weight=1):
    module = module_of(function)
    workload = Workload(
        key=workload_key(module), name=name, module=str(tvm.ir.save_json(module)), outputs=1
    )
    return Task(
        workload=workload,
        module=module,
        weight=weight,
        flops=1000,
        moved_bytes=100,
        functions=(name,),
    )


def invented_s(key):
    """Seconds that depend on a trial alone."""
    return 1e-4 * (1 + int(hashlib.sha256(key.encode()).hexdigest()[:4], 16) / 65536)


class FakeMeasurer:
    """Gives every trial an invented time, some at once and some later; `fails` says which fail."""

    def __init__(self, fails=lambda trial: "", slots=4, stop_after=None):
        self.slots = slots
        self.asked = []
        self.closed = False
        self._fails = fails
        self._waiting = []
        self._stop_after = stop_after
        self._given = 0

    def submit(self, trials):
        self.asked += [trial.key for trial in trials]
        self._waiting += trials

    def collect(self, timeout_s):
        if self._stop_after is not None and self._given >= self._stop_after:
            raise KeyboardInterrupt
        done, self._waiting = self._waiting[-3:], self._waiting[:-3]  # in another order
        self._given += len(done)
        return tuple(map(self._result, done))

    def busy(self):
        return contextlib.nullcontext()

    def close(self):
        self.closed = True

    def _result(self, trial):
        error = self._fails(trial)
        if error:
            return TrialResult(key=trial.key, failed=RUN, error=error, runner="fake")
        time_s = invented_s(trial.key)
        return TrialResult(key=trial.key, run_s=(time_s, time_s, 1.1 * time_s), runner="fake")
