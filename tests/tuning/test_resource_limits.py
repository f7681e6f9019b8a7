from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from tvm_iovt.tuning import resource_limits
from tvm_iovt.tuning.resource_limits import address_space_bytes, available_bytes


def test_this_machine_has_memory():
    assert 1 << 20 < available_bytes() < 1 << 50
    assert address_space_bytes() > 1 << 20


@pytest.mark.parametrize(
    ("limit", "used"),
    [
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ],
)
def test_a_container_may_have_less(tmp_path, monkeypatch, limit, used):
    monkeypatch.setattr(resource_limits, "_CGROUP", tmp_path)
    free_bytes = available_bytes()
    for name in (limit, used):
        (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / limit).write_text("3000000\n")
    (tmp_path / used).write_text("1000000\n")
    assert available_bytes() == 2_000_000
    (tmp_path / used).write_text("4000000\n")
    assert available_bytes() == 0
    (tmp_path / limit).write_text("max\n")
    assert available_bytes() > 0.5 * free_bytes


def test_growth_is_limited_for_this_process_and_those_it_starts():
    script = textwrap.dedent("""
        import subprocess, sys
        from tvm_iovt.tuning.resource_limits import limit_growth
        bytearray(1 << 28)
        limit_growth(1 << 27)
        bytearray(1 << 26)
        try:
            bytearray(1 << 28)
        except MemoryError:
            print("limited")
        code = "try:\\n bytearray(1 << 30)\\nexcept MemoryError:\\n print('limited')"
        print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
    """)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["limited", "limited"]
