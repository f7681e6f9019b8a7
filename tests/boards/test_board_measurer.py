"""The tuner's measurer on boards: every trial comes back once, whatever happens to the boards."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tuning import kernels
from tests.tuning.kernels import trial_of, workload_of
from tvm_iovt import targets
from tvm_iovt.boards.board_measurer import BoardMeasurer
from tvm_iovt.errors import DeviceError
from tvm_iovt.tuning.build_pool import BuildPool
from tvm_iovt.tuning.trial import BUILD, CHECK, RUN, Trial, TrialResult

COLLECT_S = 120.0
Starter = Callable[..., BoardMeasurer]


@pytest.fixture
def measurer(own_lab: Any) -> Iterator[Starter]:
    """Starts measurers with builders of their own, and closes them."""
    with contextlib.ExitStack() as stack:

        def start(key: str = "any", target: str = "host", **options: Any) -> BoardMeasurer:
            spec = targets.load(target)
            builder = BuildPool(spec, jobs=1)
            stack.callback(builder.close)
            chosen = {
                "cpu": spec.cpu,
                "threads": 1,
                "run_timeout_s": 10.0,
                "measure_s": 0.005,
            } | options
            made = BoardMeasurer(own_lab.tracker, key, builder, **chosen)
            stack.callback(made.close)
            return made

        own_lab.start_tracker()
        yield start


def good(count: int, first: int = 0) -> list[Trial]:
    return [trial_of(kernels.doubled, f"good {i}") for i in range(first, first + count)]


def collected(measurer: BoardMeasurer, count: int) -> dict[str, TrialResult]:
    """The results by the trials' keys; each comes once."""
    found: dict[str, TrialResult] = {}
    deadline_s = time.monotonic() + COLLECT_S
    while len(found) < count:
        assert time.monotonic() < deadline_s, f"only {sorted(found)} came back"
        for result in measurer.collect(1.0):
            assert result.key not in found
            found[result.key] = result
    assert not measurer.collect(0)
    return found


def measured(measurer: BoardMeasurer, trials: list[Trial]) -> dict[str, TrialResult]:
    measurer.submit(trials)
    return collected(measurer, len(trials))


def test_trials_are_shared_by_boards(own_lab: Any, measurer: Starter, processes: Any) -> None:
    own_lab.start_board("any", "--name", "left")
    pool = measurer(measure_s=0.3)
    slots = pool.slots
    own_lab.start_board("any", "--name", "right")
    processes.until(lambda: pool.slots > slots)  # it is taken into service
    slow = workload_of(kernels.slow, "slow")
    found = measured(
        pool, [*good(4), *(trial_of(kernels.slow, f"slow {i}", slow) for i in range(16))]
    )
    for key, result in found.items():
        assert result.valid, result
        assert result.deviation == 0
        assert result.build_s > 0
        assert result.measure_s > 0
        assert (min(result.run_s) > 5e-3) == key.startswith("slow")
        assert min(result.run_s) < 1
    assert {result.runner for result in found.values()} == {"left", "right"}
    assert not list(Path(pool.folder).iterdir())
    pool.close()
    assert not Path(pool.folder).exists()
    processes.until(lambda: own_lab.living("any").sessions == 0)
    with pytest.raises(TimeoutError):  # nothing is left of it
        until_busy(own_lab, 0.5)


def until_busy(lab: Any, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        status = lab.status("any")
        if status and status.sessions:
            return
        time.sleep(0.05)
    raise TimeoutError


@pytest.mark.slow
def test_no_fault_costs_more_than_its_trial(own_lab: Any, measurer: Starter) -> None:
    own_lab.start_board("any", "--memory-limit", "1G")
    bad = {
        "segfault": (kernels.segfault, RUN, "SIGSEGV"),
        "killed": (kernels.killed, RUN, "lost 2 boards"),
        "hang": (kernels.hang, RUN, "no answer within 2 s"),
        "no number": (kernels.no_number, CHECK, "not finite"),
        "wrong": (kernels.wrong, CHECK, "differs from the unscheduled function"),
        "incomplete": (kernels.incomplete, CHECK, "not written, in places"),
        "spoiling": (kernels.spoiling, CHECK, "changes its inputs"),
        "huge": (kernels.huge, RUN, "."),
    }
    pool = measurer(run_timeout_s=2.0)
    trials = []
    for i, (key, (function, _, _)) in enumerate(bad.items()):
        trials += [*good(1, first=i), trial_of(function, key)]
    trials += [Trial(key="garbage", workload=workload_of(), module="{}"), *good(1, first=99)]
    found = measured(pool, trials)
    for key, (_, stage, reason) in bad.items():
        result = found[key]
        assert not result.valid
        assert not result.run_s
        assert result.failed == stage, result
        assert reason in result.error or reason == ".", result.error
        assert "\n" not in result.error
    assert found["garbage"].failed == BUILD
    assert [found[key] for key in found if key.startswith("good") and not found[key].valid] == []


def test_a_lost_board_costs_no_trial(own_lab: Any, measurer: Starter) -> None:
    board = own_lab.start_board("any", "--name", "first")
    pool = measurer()
    slow = workload_of(kernels.slow, "slow")
    pool.submit([trial_of(kernels.slow, f"slow {i}", slow) for i in range(12)])
    first = pool.collect(60)
    assert first
    board.end(signal.SIGKILL)
    own_lab.services.remove(board)
    own_lab.start_board("any", "--name", "second")
    found = {result.key: result for result in first} | collected(pool, 12 - len(first))
    assert len(found) == 12
    assert all(result.valid for result in found.values())
    assert {result.runner for result in found.values()} == {"first", "second"}


def test_without_boards_patience_ends(own_lab: Any, measurer: Starter) -> None:
    pool = measurer("nobody", patience_s=2.0)
    began_s = time.monotonic()
    assert pool.collect(0.1) == ()  # there is nothing to do, so that nobody is missed
    pool.submit(good(2))
    with pytest.raises(DeviceError, match="No board of key nobody") as caught:
        pool.collect(60)
    assert time.monotonic() - began_s >= 2
    assert "no board of key nobody" in caught.value.seen
    assert "tvm-iovt board" in caught.value.do


def test_boards_of_another_kind_are_refused(own_lab: Any, measurer: Starter) -> None:
    own_lab.start_board("any", "--name", "stranger")
    pool = measurer(target="arm")
    pool.submit(good(1))
    with pytest.raises(DeviceError, match=r"stranger .* is not what is tuned for") as caught:
        for _ in range(60):
            pool.collect(1)
    assert "is for aarch64" in caught.value.seen


@pytest.mark.slow
@pytest.mark.arm
def test_an_emulated_board(own_lab: Any, measurer: Starter, arm_root: dict[str, str]) -> None:
    own_lab.start_emulated_board("any", arm_root)
    trials = [*good(2), trial_of(kernels.wrong, "wrong"), trial_of(kernels.segfault, "segfault")]
    found = measured(measurer(target="arm", run_timeout_s=60.0), [*trials, *good(1, first=9)])
    assert found["wrong"].failed == CHECK
    assert found["segfault"].failed == RUN
    valid = [key for key, result in found.items() if result.valid]
    assert sorted(valid) == ["good 0", "good 1", "good 9"]
    assert {found[key].runner for key in valid} == {"emulated"}


def soak(own_lab: Any, measurer: Starter, count: int, pause_s: float) -> None:
    """Three boards of which one is killed now and then, in all the ways that boards die."""
    for _ in range(3):
        own_lab.start_board("any")
    pool = measurer()
    end = threading.Event()
    kills = []

    def kill_boards() -> None:
        rng = random.Random(5)
        while not end.wait(pause_s):
            board = rng.choice([s for s in own_lab.services if "any" in s.log.name])
            ours = own_lab.server_and_sessions(board)
            if ours:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(ours), signal.SIGKILL)
                    kills.append(board)

    killer = threading.Thread(target=kill_boards)
    killer.start()
    try:
        found: dict[str, TrialResult] = {}
        trials = good(count)
        while len(found) < count:
            while trials and len(found) + pool.slots > count - len(trials):
                pool.submit([trials.pop()])
            for result in pool.collect(60):
                assert result.key not in found
                found[result.key] = result
    finally:
        end.set()
        killer.join()
    assert len(found) == count
    assert len(kills) >= 2
    failed = [result for result in found.values() if not result.valid]
    assert all("lost 2 boards" in result.error for result in failed)
    assert len(failed) <= len(kills) / 2


@pytest.mark.slow
def test_boards_that_are_killed_in_turn(own_lab: Any, measurer: Starter) -> None:
    soak(own_lab, measurer, count=60, pause_s=2.0)


@pytest.mark.slow
def test_a_thousand_trials_with_dying_boards(own_lab: Any, measurer: Starter) -> None:
    soak(own_lab, measurer, count=1000, pause_s=10.0)
