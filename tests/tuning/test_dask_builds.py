from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tvm

from tests.tuning import kernels
from tests.tuning.kernels import trial_of, workload_of
from tests.tuning.test_worker_process import ends
from tvm_iovt.errors import DeviceError, ToolchainError
from tvm_iovt.tuning.build_pool import Builder, BuildError
from tvm_iovt.tuning.dask_builds import DaskBuilder

WORKERS = 2

needs_dask = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="needs `pip install distributed`"
)


def free_port():
    """A port that nobody listens on, and that the system gives to no connection meanwhile."""
    for port in random.sample(range(20000, 32000), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


@pytest.fixture(scope="module")
def cluster():
    """The address of a scheduler, and its processes: that and two workers."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    address = f"127.0.0.1:{free_port()}"
    host, port = address.split(":")
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    scheduler += ["--host", host, "--port", port, "--no-dashboard"]
    started = [subprocess.Popen(scheduler, **quiet)]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address]
    worker += ["--nthreads", "2", "--no-dashboard", "--no-nanny"]
    started += [subprocess.Popen(worker, **quiet) for _ in range(WORKERS)]
    yield address, started
    for process in started:
        process.terminate()
    for process in started:
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def builder(cluster, host):
    """A builder that waits for all workers."""
    address, _ = cluster
    deadline_s = time.monotonic() + 60
    while True:
        try:
            made = DaskBuilder(host, address, build_timeout_s=120.0)
            break
        except DeviceError:
            assert time.monotonic() < deadline_s
    while made.jobs < 2 * WORKERS and time.monotonic() < deadline_s:
        time.sleep(0.1)
    yield made
    made.close()


def descendants(pid):
    """Processes under one, at any depth."""
    found, pending = [], [pid]
    while pending:
        shown = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(pending.pop())],
            capture_output=True,
            text=True,
            check=False,
        )
        children = [int(word) for word in shown.stdout.split()]
        found += children
        pending += children
    return found


@needs_dask
def test_kernels_are_built_by_the_cluster(builder: Builder, cluster, tmp_path):
    paths = [tmp_path / f"{i}.so" for i in range(8)]
    trials = [trial_of(kernels.doubled, path.stem) for path in paths]
    with ThreadPoolExecutor(builder.jobs) as threads:
        seconds = list(threads.map(builder.build_so, trials, paths))
    assert all(s > 0 for s in seconds)
    reference = builder.reference(workload_of())
    (x,) = builder.inputs(workload_of(), reference.how)
    for path in paths:
        y = tvm.runtime.tensor(np.zeros(1024, np.float32))
        tvm.runtime.load_module(str(path))["main"](tvm.runtime.tensor(x), y)
        np.testing.assert_array_equal(y.numpy(), reference.outputs[0])
    processes = [pid for worker in cluster[1][1:] for pid in descendants(worker.pid)]
    assert len(processes) >= 2 * WORKERS  # each worker has some, guards included
    builder.close()
    assert ends(processes)


@needs_dask
def test_a_kernel_that_crashes_costs_itself_and_not_a_worker(builder, cluster, tmp_path):
    with pytest.raises(BuildError, match=r"its process died of SIGSEGV"):
        builder.reference(workload_of(kernels.segfault, "crash"))
    with pytest.raises(BuildError, match="JSON"):
        builder.build_so(
            kernels.Trial(key="garbage", workload=workload_of(), module="{}"), tmp_path / "a.so"
        )
    assert all(process.poll() is None for process in cluster[1])
    builder.build_so(trial_of(kernels.doubled, "a"), tmp_path / "a.so")


@needs_dask
def test_a_lost_worker_is_replaced_by_the_others(builder, cluster, tmp_path):
    _, processes = cluster
    paths = [tmp_path / f"{i}.so" for i in range(12)]
    trials = [trial_of(kernels.doubled, path.stem) for path in paths]
    with ThreadPoolExecutor(4) as threads:
        futures = list(map(threads.submit, [builder.build_so] * 12, trials, paths))
        time.sleep(0.5)
        processes[-1].send_signal(signal.SIGKILL)
        assert all(future.result() > 0 for future in futures)
    assert all(path.exists() for path in paths)


@needs_dask
def test_without_a_scheduler_it_says_what_to_start(host, monkeypatch):
    monkeypatch.setattr("tvm_iovt.tuning.dask_builds.CONNECT_TIMEOUT_S", 1.0)
    with pytest.raises(DeviceError, match="No worker of a Dask cluster") as caught:
        DaskBuilder(host, f"127.0.0.1:{free_port()}")
    assert "dask scheduler" in caught.value.do and caught.value.exit_code == 5


def test_without_dask_it_says_what_to_install(host, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "distributed" else find_spec(name)
    )
    with pytest.raises(ToolchainError, match="Dask") as caught:
        DaskBuilder(host, "127.0.0.1:8786")
    assert 'pip install "tvm-iovt[dask]"' in caught.value.do
