from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
import tvm
from tvm import te

from tests.tuning import kernels
from tests.tuning.kernels import text, trial_of, workload_of
from tvm_iovt import targets
from tvm_iovt.build import cuda
from tvm_iovt.build.link import elf_machine
from tvm_iovt.errors import ToolchainError
from tvm_iovt.schedules.convolution import conv2d_packed
from tvm_iovt.schedules.cpu import schedule_function
from tvm_iovt.schedules.tiles import Tile
from tvm_iovt.tuning.kernel_inputs import NORMAL, POSITIVE
from tvm_iovt.tuning.kernel_worker import KernelWorker
from tvm_iovt.tuning.trial import CHECK, RUN, Trial, Workload


@pytest.fixture(scope="module")
def worker(host):
    """In this process: what it is given here does not crash."""
    before = dict(os.environ)
    yield KernelWorker(host, 1)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def convolution(conv):
    image, weight = te.placeholder((1, 12, 12, 32)), te.placeholder((1, 3, 3, 32, 32))
    result = conv2d_packed(image, weight, conv, Tile(rows=1, cols=6, vectors=2, lanes=16))
    return te.create_prim_func([image, weight, result])


def measure(worker, trial, **options):
    worker.prepare(trial.workload, worker.reference(trial.workload))
    return worker.measure(worker.build(trial).handle, budget_s=0.005, **options)


def test_a_scheduled_convolution_is_right_and_faster(worker, host, convolution):
    workload = Workload(key="conv", name="conv", module=text(convolution))
    scheduled, decision = schedule_function(convolution, host.cpu, "conv")
    assert decision.applied
    plain = measure(worker, Trial(key="plain", workload=workload, module=text(convolution)))
    fast = measure(worker, Trial(key="fast", workload=workload, module=text(scheduled)))
    assert not plain.failed and not fast.failed
    assert fast.deviation < 1e-4
    assert min(fast.run_s) < min(plain.run_s) / 4


def test_the_reference_is_what_the_function_computes(worker, convolution):
    workload = Workload(key="conv", name="conv", module=text(convolution))
    reference = worker.reference(workload)
    image, weight = worker.inputs(workload, reference.how)
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), axis=(1, 2)
    )
    expected = np.einsum("nhwcij,ijco->nhwo", windows, weight[0])
    (output,) = reference.outputs
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)
    assert 0.5 < output.std() < 2
    assert reference.how == NORMAL and reference.seconds > 0


def test_functions_of_positive_numbers_get_some(worker):
    x = te.placeholder((64,), name="x")
    root = te.compute((64,), lambda i: te.log(x[i]), name="log")
    workload = workload_of(te.create_prim_func([x, root]), "log")
    reference = worker.reference(workload)
    assert reference.how == POSITIVE
    (values,) = worker.inputs(workload, reference.how)
    np.testing.assert_allclose(reference.outputs[0], np.log(values), atol=1e-6)


def test_several_outputs_are_all_checked(worker):
    x = te.placeholder((64,), name="x")
    once = te.compute((64,), lambda i: x[i] * te.const(2, "float32"), name="once")
    twice = te.compute((64,), lambda i: x[i] * te.const(4, "float32"), name="twice")
    wrong = te.compute((64,), lambda i: x[i] * te.const(5, "float32"), name="twice")
    function = te.create_prim_func([x, once, twice])
    workload = dataclasses.replace(workload_of(function, "two"), outputs=2)
    assert not measure(worker, trial_of(function, "right", workload)).failed
    found = measure(worker, trial_of(te.create_prim_func([x, once, wrong]), "wrong", workload))
    assert found.failed == CHECK and found.error.startswith("output 1 differs")
    assert found.deviation == pytest.approx(0.25)


def test_parts_of_an_output_that_the_workload_leaves_alone_may_hold_anything(worker):
    workload = workload_of(kernels.incomplete, "incomplete")
    assert not measure(worker, trial_of(kernels.incomplete, "same", workload)).failed


def test_errors_of_a_kernel_are_its_own(worker):
    x, y = te.placeholder((7,), name="x"), te.placeholder((7,), name="y")
    both = te.compute((7,), lambda i: x[i] + y[i], name="both")
    found = measure(worker, trial_of(te.create_prim_func([x, y, both]), "other parameters"))
    assert found.failed == RUN and found.error
    with pytest.raises(Exception, match="JSON"):
        worker.build(dataclasses.replace(trial_of(kernels.doubled, "x"), module="{}"))


def test_kernels_are_forgotten(worker):
    handle = worker.build(trial_of(kernels.doubled, "a")).handle
    worker.drop(handle)
    with pytest.raises(KeyError):
        worker.drop(handle)


def test_the_pool_of_threads_is_as_asked(worker):
    assert tvm.get_global_func("runtime.NumThreads")() == 1


@pytest.mark.parametrize("name", ["host", "arm", "armv7"])
def test_kernels_are_linked_for_their_target(name, tmp_path, host):
    spec = targets.load(name)
    worker = KernelWorker(spec, 1)
    path = tmp_path / "kernel.so"
    try:
        assert worker.export(trial_of(kernels.doubled, "a"), path) > 0
    except ToolchainError as error:
        pytest.skip(error.what)
    assert elf_machine(path) == spec.cpu.arch
    if name == "host":
        x, y = (tvm.runtime.tensor(np.ones(1024, np.float32)) for _ in range(2))
        tvm.runtime.load_module(str(path))["main"](x, y)
        assert (y.numpy() == 2).all()


def on_gpu(function):
    """The same in blocks of 128 threads."""
    schedule = tvm.s_tir.Schedule(tvm.IRModule({"main": function}))
    (loop,) = schedule.get_loops(schedule.get_sblock("y"))
    block, thread = schedule.split(loop, [None, 128])
    schedule.bind(block, "blockIdx.x")
    schedule.bind(thread, "threadIdx.x")
    return schedule.mod["main"]


def test_kernels_of_gpus_are_compiled_for_their_architecture(tmp_path):
    spec = targets.load("cuda:sm_87")
    try:
        cuda.find_compiler("sm_87")
        cuda.enable_codegen()
    except ToolchainError as error:
        pytest.skip(error.what)
    path = tmp_path / "kernel.so"
    KernelWorker(spec, 1).export(trial_of(on_gpu(kernels.doubled), "a"), path)
    cuda.check_embedded(path, "sm_87")


@pytest.mark.cuda
def test_kernels_of_gpus_are_checked_and_timed():
    device = tvm.cuda(0)
    if not device.exist:
        pytest.skip("there is no NVIDIA GPU")
    arch = "sm_" + device.compute_version.replace(".", "")
    worker = KernelWorker(targets.load(f"cuda:{arch}"), 1)
    found = measure(worker, trial_of(on_gpu(kernels.doubled), "right"))
    assert not found.failed and 0 < min(found.run_s) < 1e-3
    assert measure(worker, trial_of(on_gpu(kernels.wrong), "wrong")).failed == CHECK


def test_a_linker_may_be_named(worker, tmp_path):
    with pytest.raises(ToolchainError, match="no-such-linker"):
        worker.export(trial_of(kernels.doubled, "a"), tmp_path / "a.so", "no-such-linker")
