from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tvm_iovt.errors import UsageError
from tvm_iovt.runtime.threads import parse_cpus, set_cpus


def test_cpus_are_written_as_taskset_writes_them() -> None:
    assert parse_cpus("0") == (0,)
    assert parse_cpus("0,2-4, 7") == (0, 2, 3, 4, 7)
    assert parse_cpus("1,1-2") == (1, 2)


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "0;1", "1.5", "1-2-3", "0-9999999999"])
def test_other_lists_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="list of CPUs"):
        parse_cpus(text)


@pytest.mark.parametrize("cpus", [(), (100_000,)])
def test_cpus_must_exist(cpus: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="cannot be used") as failure:
        set_cpus(cpus)
    assert "this process may use" in str(failure.value)


BOUND = """
import os, sys
from tvm_iovt.runtime.threads import COUNT, set_cpus
os.environ[COUNT] = sys.argv[2]
set_cpus((int(sys.argv[1]),))
print(sorted(os.sched_getaffinity(0)), os.environ[COUNT])
"""


@pytest.mark.parametrize("count", ["", "1", "64", "many"])
def test_the_calling_thread_is_bound_and_the_pool_is_as_large(count: str) -> None:
    last = max(os.sched_getaffinity(0))
    command = [sys.executable, "-c", BOUND, str(last), count]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == f"[{last}] 1"
