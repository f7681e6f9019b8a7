"""Which CPUs the stages of a pipeline get."""

from __future__ import annotations

import os

import pytest

from tvm_iovt.errors import UsageError
from tvm_iovt.pipelines.places import CpuShare, share_cpus
from tvm_iovt.types import Stage


@pytest.fixture(autouse=True)
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose CPUs 2 to 9 this process may use."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(2, 10)))


def stages(*threads: int) -> list[Stage]:
    return [
        Stage(index=i, target="host", inputs=(), outputs=(), threads=count)
        for i, count in enumerate(threads)
    ]


def shared(found: dict[int, CpuShare]) -> list[tuple[int, tuple[int, ...]]]:
    return [(found[i].threads, found[i].cpus) for i in range(len(found))]


def test_disjoint_cpus_in_order() -> None:
    found = share_cpus(stages(1, 3, 2), threads=None, cpus=None, sequential=False)
    assert shared(found) == [(1, (2,)), (3, (3, 4, 5)), (2, (6, 7))]
    assert str(found[0]) == "1 thread on CPU 2"
    assert str(found[1]) == "3 threads on CPUs 3-5"


def test_stages_without_a_number_share_equally() -> None:
    found = share_cpus(stages(0, 0, 0), threads=None, cpus=None, sequential=False)
    assert shared(found) == [(2, (2, 3)), (2, (4, 5)), (2, (6, 7))]


def test_what_does_not_fit_is_left_to_the_system() -> None:
    found = share_cpus(stages(6, 6), threads=None, cpus=None, sequential=False)
    assert shared(found) == [(6, ()), (6, ())]
    assert str(found[0]) == "6 threads"


def test_one_stage_at_a_time_needs_no_share() -> None:
    found = share_cpus(stages(4, 0), threads=None, cpus=None, sequential=True)
    assert shared(found) == [(4, ()), (0, ())]
    assert str(found[1]) == "any CPU"
    found = share_cpus(stages(4, 0), threads=2, cpus=(3, 5), sequential=True)
    assert shared(found) == [(2, (3, 5)), (2, (3, 5))]


def test_stated_cpus_and_threads() -> None:
    found = share_cpus(stages(1, 1), threads=2, cpus=(9, 4, 6, 5), sequential=False)
    assert shared(found) == [(2, (9, 4)), (2, (6, 5))]
    assert str(found[1]) == "2 threads on CPUs 5-6"
    found = share_cpus(stages(1, 1, 1), threads=None, cpus=(3, 4), sequential=False)
    assert shared(found) == [(1, (3, 4))] * 3


@pytest.mark.parametrize("cpus", [(), (1,), (2, 10)])
def test_cpus_that_are_not_ours(cpus: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="These CPUs") as caught:
        share_cpus(stages(1), threads=None, cpus=cpus, sequential=False)
    assert "2-9" in caught.value.seen


def test_no_threads() -> None:
    with pytest.raises(UsageError, match="must be positive") as caught:
        share_cpus(stages(1), threads=0, cpus=None, sequential=False)
    assert "one thread or more" in caught.value.do
