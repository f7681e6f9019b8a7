from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

from tests.tuning.test_worker_process import ends
from tvm_iovt.errors import ToolchainError
from tvm_iovt.schedules.selection import candidates, kernel_name
from tvm_iovt.tuning import convolution_worker, kernel_bench
from tvm_iovt.tuning.convolution_worker import ConvolutionWorker
from tvm_iovt.tuning.deviation import MAX_DEVIATION, deviation
from tvm_iovt.tuning.kernel_bench import KernelBench
from tvm_iovt.tuning.worker_process import WorkerLost

VICTIM = "TEST_VICTIM"
"""Variable that names a kernel which `Fragile` does not survive, and how."""


class Fragile(ConvolutionWorker):
    """Dies of one kernel, or hangs."""

    def build(self, conv, weights, kernels):
        name, _, how = os.environ.get(VICTIM, "").partition("|")
        if name in map(kernel_name, kernels):
            if how == "hang":
                time.sleep(1000)
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().build(conv, weights, kernels)


@pytest.fixture
def kernels(conv, weights, host):
    return [c.kernel for c in candidates(conv, weights, host.cpu)]


@pytest.fixture
def bench(host, request):
    bench = KernelBench(host, 1, build_timeout_s=getattr(request, "param", 60.0))
    yield bench
    bench.close()


@pytest.fixture
def fragile(monkeypatch):
    monkeypatch.setattr(kernel_bench, "SERVICE", f"{__name__}:Fragile")


def test_kernels_are_built_run_and_timed(bench, conv, weights, kernels):
    found = bench.build(conv, weights, kernels)
    names = [kernel.name for kernel in found.kernels]
    assert names == list(map(kernel_name, kernels))
    assert not found.dropped
    for kernel in found.kernels:
        assert deviation(kernel.output, found.kernels[-1].output) < MAX_DEVIATION
    times = bench.time(names[:2])
    assert len(times) == 2 and all(0 < t.median_s < 1 for t in times)
    again = bench.build(conv, -weights, kernels[:1])
    assert not np.array_equal(again.kernels[0].output, found.kernels[0].output)


@pytest.mark.parametrize(
    ("how", "reason", "bench"),
    [
        ("crash", "its process died of SIGSEGV", 60.0),
        ("hang", "its process did not answer within 3 s", 3.0),
    ],
    indirect=["bench"],
)
def test_a_kernel_that_kills_costs_itself(
    fragile, bench, conv, weights, kernels, monkeypatch, how, reason
):
    good, bad = kernels[:2]
    monkeypatch.setenv(VICTIM, f"{kernel_name(bad)}|{how}")
    found = bench.build(conv, weights, [bad, good])
    assert [k.name for k in found.kernels] == [kernel_name(good)]
    assert found.dropped == ((kernel_name(bad), reason),)
    assert len(bench.time([found.kernels[0].name])) == 1


def test_a_crash_while_timing_is_told_and_the_next_convolution_is_measured(
    bench, conv, weights, kernels
):
    found = bench.build(conv, weights, kernels[:1])
    os.kill(bench._process.pid, signal.SIGKILL)
    with pytest.raises(WorkerLost, match="SIGKILL"):
        bench.time([found.kernels[0].name])
    assert bench.build(conv, weights, kernels[:1]).kernels


def test_close_ends_the_process(host, conv, weights, kernels):
    bench = KernelBench(host, 1)
    bench.close()
    bench.build(conv, weights, kernels[:1])
    pid = bench._process.pid
    bench.close()
    assert ends([pid])


def test_a_process_that_does_not_start_is_an_error(bench, conv, weights, kernels, monkeypatch):
    monkeypatch.setattr(kernel_bench, "SERVICE", f"{convolution_worker.__name__}:NoSuchClass")
    with pytest.raises(ToolchainError, match="cannot be started") as caught:
        bench.build(conv, weights, kernels)
    assert "NoSuchClass" in caught.value.seen
