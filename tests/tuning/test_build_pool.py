from __future__ import annotations

import os
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tvm

from tests.tuning import kernels
from tests.tuning.kernels import trial_of, workload_of
from tests.tuning.test_worker_process import ends
from tvm_iovt import targets
from tvm_iovt.build.link import elf_machine
from tvm_iovt.errors import ToolchainError
from tvm_iovt.tuning import build_pool
from tvm_iovt.tuning.build_pool import Builder, BuildError, BuildPool


@pytest.fixture
def pool_of():
    """Makes pools, and closes them."""
    made = []

    def pool_of(name="host", **options):
        pool = BuildPool(targets.load(name), **{"jobs": 1, "build_timeout_s": 30.0} | options)
        made.append(pool)
        return pool

    yield pool_of
    for pool in made:
        pool.close()


def test_threads_share_a_builder(pool_of, tmp_path):
    pool: Builder = pool_of(jobs=2)
    paths = [tmp_path / f"{i}.so" for i in range(6)]
    trials = [trial_of(kernels.doubled, path.stem) for path in paths]
    with ThreadPoolExecutor(6) as threads:
        seconds = list(threads.map(pool.build_so, trials, paths))
    assert all(0 < s < 30 for s in seconds)
    x = np.arange(1024, dtype=np.float32)
    for path in paths:
        y = tvm.runtime.tensor(np.zeros(1024, np.float32))
        tvm.runtime.load_module(str(path))["main"](tvm.runtime.tensor(x), y)
        np.testing.assert_array_equal(y.numpy(), 2 * x)


def test_kernels_of_other_devices_have_references_of_this_machine(pool_of, tmp_path):
    pool = pool_of("arm", cross_compiler="")
    workload = workload_of()
    reference = pool.reference(workload)
    (inputs,) = pool.inputs(workload, reference.how)
    np.testing.assert_array_equal(reference.outputs[0], 2 * inputs)
    path = tmp_path / "arm.so"
    try:
        pool.build_so(trial_of(kernels.doubled, "a"), path)
    except BuildError as error:
        assert "No linker for aarch64" in error.what
        pytest.skip(error.what)
    assert elf_machine(path) == "aarch64"


def test_a_trial_that_cannot_be_built_says_why(pool_of, tmp_path):
    pool = pool_of(cross_compiler="no-such-linker")
    with pytest.raises(BuildError, match="no-such-linker"):
        pool.build_so(trial_of(kernels.doubled, "a"), tmp_path / "a.so")
    with pytest.raises(BuildError, match=r"its process died of SIGSEGV"):
        pool.reference(workload_of(kernels.segfault, "crash"))
    assert pool.reference(workload_of()).outputs[0].shape == (1024,)


def hanging_linker(folder):
    path = folder / "linker"
    path.write_text("#!/bin/sh\necho $$ >> pids\nsleep 1000 &\necho $! >> pids\nwait\n")
    path.chmod(0o755)
    return path


def test_a_linker_that_hangs_is_ended_with_all_it_has_started(pool_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pool = pool_of(cross_compiler=str(hanging_linker(tmp_path)), build_timeout_s=5.0)
    pool.reference(workload_of())  # starts the process, which the deadline does not include
    with pytest.raises(BuildError, match="did not answer within 5 s"):
        pool.build_so(trial_of(kernels.doubled, "a"), tmp_path / "a.so")
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2 and ends(pids)


def test_a_process_that_is_killed_is_replaced(pool_of, tmp_path):
    pool = pool_of()
    pool.reference(workload_of())
    (worker,) = pool._idle
    os.kill(worker.pid, signal.SIGKILL)
    pool.build_so(trial_of(kernels.doubled, "a"), tmp_path / "a.so")
    assert (tmp_path / "a.so").exists()


def test_close_ends_who_waits(pool_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pool = pool_of(cross_compiler=str(hanging_linker(tmp_path)))
    failures = []

    def build():
        with pytest.raises(BuildError) as caught:
            pool.build_so(trial_of(kernels.doubled, "a"), tmp_path / "a.so")
        failures.append(caught.value.what)

    thread = threading.Thread(target=build)
    thread.start()
    while not (tmp_path / "pids").exists() or len((tmp_path / "pids").read_text().split()) < 2:
        assert thread.is_alive()
        subprocess.run(["sleep", "0.05"], check=True)
    pool.close()
    thread.join(60)
    assert failures == ["its process was ended"]
    with pytest.raises(BuildError, match="closed"):
        pool.reference(workload_of())
    assert ends([int(line) for line in (tmp_path / "pids").read_text().split()])


def test_a_pool_that_cannot_start_says_so(pool_of, monkeypatch):
    monkeypatch.setattr(build_pool, "SERVICE", "no_such_module:Worker")
    with pytest.raises(ToolchainError, match="cannot be started"):
        pool_of().reference(workload_of())
