from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.tuning import kernels
from tests.tuning.kernels import trial_of, workload_of
from tests.tuning.test_worker_process import ends, is_running
from tvm_iovt.errors import ToolchainError
from tvm_iovt.tuning import pool as pool_module
from tvm_iovt.tuning.pool import LocalMeasurer
from tvm_iovt.tuning.trial import BUILD, CHECK, RUN, Measurer, Trial

COLLECT_S = 60.0


@pytest.fixture
def measurer(host):
    """Starts pools, and closes them."""
    started = []

    def start(**options):
        chosen = {"jobs": 2, "threads": 1, "run_timeout_s": 30.0, "measure_s": 0.005} | options
        pool = LocalMeasurer(host, **chosen)
        started.append(pool)
        return pool

    yield start
    for pool in started:
        pool.close()


def collected(pool: Measurer, count: int):
    """The results by the trials' keys; each comes once."""
    found = {}
    deadline_s = time.monotonic() + COLLECT_S
    while len(found) < count:
        assert time.monotonic() < deadline_s, f"only {sorted(found)} came back"
        for result in pool.collect(1.0):
            assert result.key not in found
            found[result.key] = result
    assert not pool.collect(0)
    return found


def measured(pool: Measurer, *trials: Trial):
    pool.submit(trials)
    return collected(pool, len(trials))


def good(count, first=0):
    return [trial_of(kernels.doubled, f"good {i}") for i in range(first, first + count)]


@pytest.mark.parametrize("threads", [1, 2])
def test_trials_are_built_checked_and_timed(measurer, threads):
    pool = measurer(threads=threads, cores=2)
    assert pool.slots >= 4
    found = measured(pool, *good(20))
    assert all(result.valid and result.deviation == 0 for result in found.values())
    for result in found.values():
        assert 0 < min(result.run_s) < 1e-3
        assert result.build_s > 0 and result.measure_s > 0
        assert result.runner == "local"


def test_no_fault_costs_more_than_its_trial(measurer):
    """One after another in one worker, so that each follows the damage of the one before."""
    bad = {
        "segfault": (kernels.segfault, RUN, r"its process died of SIGSEGV"),
        "abort": (kernels.abort, RUN, r"its process died of SIGABRT"),
        "hang": (kernels.hang, RUN, r"its process did not answer within 4 s"),
        "killed": (kernels.killed, RUN, r"its process died of SIGKILL"),
        "no number": (kernels.no_number, CHECK, r"its output is not finite"),
        "wrong": (kernels.wrong, CHECK, r"differs from the unscheduled function by 5\..e-03"),
        "incomplete": (kernels.incomplete, CHECK, r"not written, in places"),
        "huge": (kernels.huge, RUN, r"bad_alloc|SIGABRT"),
    }
    pool = measurer(jobs=1, run_timeout_s=4.0)
    trials = []
    for i, (key, (function, _, _)) in enumerate(bad.items()):
        trials += [*good(1, first=i), trial_of(function, key)]
    trials += [Trial(key="garbage", workload=workload_of(), module="{}"), *good(1, first=99)]
    found = measured(pool, *trials)
    for key, (_, stage, reason) in bad.items():
        result = found[key]
        assert not result.valid and not result.run_s
        assert result.failed == stage, result
        assert re.search(reason, result.error), result.error
        assert "\n" not in result.error
    assert found["garbage"].failed == BUILD and "JSON" in found["garbage"].error
    assert all(result.valid for key, result in found.items() if key.startswith("good"))


def test_a_kernel_that_spoils_its_input_does_not_spoil_the_next(measurer):
    pool = measurer(jobs=1)
    found = measured(pool, trial_of(kernels.spoiling, "spoiling"), *good(2))
    assert found["good 0"].valid and found["good 1"].valid
    assert found["spoiling"].error == "ValueError: it changes its inputs"


def test_slow_kernels_are_timed_briefly(measurer):
    pool = measurer(jobs=1, threads=2, measure_s=0.2)
    found = measured(pool, *good(1))
    found |= measured(pool, trial_of(kernels.slow, "slow"))
    assert len(found["slow"].run_s) == 2 < len(found["good 0"].run_s)
    assert min(found["slow"].run_s) > 5e-3


def test_a_workload_without_a_reference_fails_its_trials(measurer):
    pool = measurer()
    crashing = workload_of(kernels.segfault, "crashing")
    senseless = workload_of(kernels.no_number, "senseless")
    found = measured(
        pool,
        trial_of(kernels.doubled, "a", crashing),
        trial_of(kernels.doubled, "b", crashing),
        trial_of(kernels.doubled, "c", senseless),
        *good(1),
    )
    assert {found[key].failed for key in "abc"} == {CHECK}
    assert "the unscheduled function: died of SIGSEGV" in found["a"].error
    assert "does not give numbers" in found["c"].error
    assert found["good 0"].valid


def busy(pool: LocalMeasurer, seconds: float, count: int = 2) -> tuple[int, ...]:
    """Processes of the pool, once it has worked for a while."""
    deadline_s = time.monotonic() + COLLECT_S
    while len(pool.pids) < count or not all(map(is_running, pool.pids)):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    time.sleep(seconds)
    return pool.pids


def test_workers_that_are_killed_lose_nothing(measurer):
    pool = measurer(measure_s=0.05)
    pool.submit(good(24))
    seen = set()
    for delay_s in (0.3, 0.7):
        pids = busy(pool, delay_s)
        seen |= set(pids)
        os.kill(pids[0], signal.SIGKILL)
    found = collected(pool, 24)
    assert all(result.valid for result in found.values()), found
    assert len(seen | set(pool.pids)) > 2


def test_a_reference_whose_worker_is_killed_is_computed_again(measurer):
    pool = measurer(jobs=1)
    pool.submit([trial_of(kernels.doubled, "a", workload_of(kernels.drowsy, "drowsy"))])
    (pid,) = busy(pool, 1.0, count=1)
    os.kill(pid, signal.SIGKILL)
    assert collected(pool, 1)["a"].valid


def test_an_idle_worker_that_was_killed_is_replaced(measurer):
    pool = measurer(jobs=2)
    measured(pool, *good(4))
    killed = pool.pids
    for pid in killed:
        os.kill(pid, signal.SIGTERM)
    found = measured(pool, *good(8, first=10))
    assert not set(killed) & set(pool.pids)
    assert all(result.valid for result in found.values()), found


def test_building_has_a_deadline(measurer):
    pool = measurer(build_timeout_s=0.001)
    (result,) = measured(pool, *good(1)).values()
    assert result.failed == BUILD
    assert result.error == "its process did not answer within 0.001 s"


def test_close_ends_everything_in_the_middle_of_work(measurer):
    pool = measurer(measure_s=1.0)
    pool.submit(good(10))
    pids = busy(pool, 0.3)
    began_s = time.monotonic()
    pool.close()
    pool.close()
    assert time.monotonic() - began_s < 60
    assert ends(pids)


def test_a_pool_whose_workers_do_not_start_says_so(host, monkeypatch):
    monkeypatch.setattr(pool_module, "SERVICE", "no_such_module:Worker")
    pool = LocalMeasurer(host, jobs=2, threads=1)
    try:
        pool.submit(good(2))
        with pytest.raises(ToolchainError, match="cannot be started") as caught:
            pool.collect(60.0)
        assert "No module named 'no_such_module'" in caught.value.seen
    finally:
        pool.close()


def test_nothing_outlives_a_parent_that_is_killed():
    script = textwrap.dedent("""
        import time
        from tests.tuning import kernels
        from tvm_iovt import targets
        from tvm_iovt.tuning.pool import LocalMeasurer
        pool = LocalMeasurer(targets.load("host"), jobs=2, threads=1)
        pool.submit([kernels.trial_of(kernels.hang, str(i)) for i in range(4)])
        while len(pool.pids) < 2:
            time.sleep(0.05)
        time.sleep(1)
        print(*pool.pids, flush=True)
        time.sleep(1000)
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])},
    )
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 2 and all(map(is_running, pids))
    process.kill()
    process.wait()
    process.stdout.close()
    assert ends(pids)


def test_nothing_is_measured_while_the_caller_is_busy(measurer):
    pool = measurer(jobs=2, threads=2, cores=2)
    measured(pool, *good(2))
    with pool.busy():
        pool.submit(good(4, first=10))
        assert not pool.collect(2.0)  # built, but not measured
    found = {}
    while len(found) < 4:
        found |= {result.key: result for result in pool.collect(20.0)}
    assert all(result.valid for result in found.values())


def test_being_busy_does_not_hold_what_leaves_cores_free(measurer):
    pool = measurer(jobs=2, threads=1, cores=2)
    with pool.busy():
        found = measured(pool, *good(2))
    assert all(result.valid for result in found.values())


def test_the_caller_is_busy_between_measurements(measurer):
    """However often it asks: neither side waits for ever."""
    pool = measurer(jobs=2, threads=2, cores=2)
    pool.submit(good(24))
    done = []
    while len(done) < 24:
        with pool.busy():
            assert not pool._turns.measuring
        done += pool.collect(0.01)
    assert all(result.valid for result in done)
