from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te
from tvm.s_tir import Schedule

from tvm_iovt.build import cpu_pipeline

ALLOCATOR = "TVMBackendAllocWorkspace"


def kernel(elements: int) -> Any:
    """Copies rows of `elements` numbers through a local buffer that is read backwards."""
    data = te.placeholder((4, elements), name="data")
    half = te.compute((4, elements), lambda i, j: data[i, j] * 2.0, name="half")
    out = te.compute((4, elements), lambda i, j: half[i, elements - 1 - j] + 1.0, name="out")
    schedule = Schedule(te.create_prim_func([data, out]).with_attr("global_symbol", "kernel"))
    block = schedule.get_sblock("half")
    schedule.compute_at(block, schedule.get_loops(schedule.get_sblock("out"))[0])
    schedule.set_scope(block, 0, "local")
    return schedule.mod


def built(elements: int, pipeline: str) -> Any:
    target = tvm.target.Target("llvm")
    with target:
        return tvm.tirx.build(kernel(elements), target=target, pipeline=pipeline)


def test_tvm_would_call_its_allocator() -> None:
    """If this fails, TVM keeps small buffers on the stack by itself and the pass can go."""
    assert ALLOCATOR in built(64, "default").inspect_source("ll")


@pytest.mark.parametrize("elements", [1, 64, cpu_pipeline.MAX_STACK_BYTES // 4])
def test_small_buffers_are_on_the_stack(elements: int) -> None:
    library = built(elements, cpu_pipeline.register())
    assert ALLOCATOR not in library.inspect_source("ll")
    data = np.random.default_rng(0).standard_normal((4, elements), dtype=np.float32)
    out = tvm.runtime.tensor(np.zeros_like(data))
    library["kernel"](tvm.runtime.tensor(data), out)
    np.testing.assert_array_equal(out.numpy(), data[:, ::-1] * 2 + 1)


def test_large_buffers_are_not() -> None:
    library = built(cpu_pipeline.MAX_STACK_BYTES // 4 + 1, cpu_pipeline.register())
    assert ALLOCATOR in library.inspect_source("ll")


def test_registering_again_changes_nothing() -> None:
    assert cpu_pipeline.register() == cpu_pipeline.register()
