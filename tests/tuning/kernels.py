"""Kernels for the tests of workers: a right one, and all that can be wrong with one."""

from __future__ import annotations

from typing import Any

import tvm
from tvm.script import tirx as T

from tvm_iovt.tuning.trial import Trial, Workload

SIZE = 1024
HUGE = 13_000_000_000
"""Floats: more than 50 GB."""


@T.prim_func(s_tir=True)
def doubled(x: T.Buffer((1024,), "float32"), y: T.Buffer((1024,), "float32")):
    for i in range(1024):
        with T.sblock("y"):
            v = T.axis.spatial(1024, i)
            y[v] = x[v] * T.float32(2)


@T.prim_func(s_tir=True)
def segfault(x: T.Buffer((1024,), "float32"), y: T.Buffer((1024,), "float32")):
    T.evaluate(T.call_extern("int32", "raise", 11))


@T.prim_func(s_tir=True)
def abort(x: T.Buffer((1024,), "float32"), y: T.Buffer((1024,), "float32")):
    T.evaluate(T.call_extern("int32", "abort"))


@T.prim_func(s_tir=True)
def hang(x: T.Buffer((1024,), "float32"), y: T.Buffer((1024,), "float32")):
    for _ in range(T.int64(1152921504606846976)):
        T.evaluate(T.call_extern("int32", "rand"))


@T.prim_func(s_tir=True)
def killed(x: T.Buffer((1024,), "float32"), y: T.Buffer((1024,), "float32")):
    T.evaluate(T.call_extern("int32", "raise", 9))


@T.prim_func(s_tir=True)
def no_number(x: T.Buffer((1024,), "float32"), y: T.Buffer((1024,), "float32")):
    for i in range(1024):
        with T.sblock("y"):
            v = T.axis.spatial(1024, i)
            y[v] = T.sqrt(T.float32(-1) - x[v] * x[v])


@T.prim_func(s_tir=True)
def wrong(x: T.Buffer((1024,), "float32"), y: T.Buffer((1024,), "float32")):
    for i in range(1024):
        with T.sblock("y"):
            v = T.axis.spatial(1024, i)
            y[v] = x[v] * T.float32(2.01)


@T.prim_func(s_tir=True)
def incomplete(x: T.Buffer((1024,), "float32"), y: T.Buffer((1024,), "float32")):
    for i in range(1023):
        with T.sblock("y"):
            v = T.axis.spatial(1023, i)
            y[v] = x[v] * T.float32(2)


@T.prim_func(s_tir=True)
def spoiling(x: T.Buffer((1024,), "float32"), y: T.Buffer((1024,), "float32")):
    """Overwrites its input."""
    for i in range(1024):
        with T.sblock("y"):
            v = T.axis.spatial(1024, i)
            y[v] = x[v] * T.float32(2)
            x[v] = T.float32(3)


@T.prim_func(s_tir=True)
def huge(x: T.Buffer((1024,), "float32"), y: T.Buffer((1024,), "float32")):
    big = T.sblock_alloc_buffer((T.int64(13000000000),), "float32")
    for i in range(T.int64(13000000000)):
        with T.sblock("big"):
            v = T.axis.spatial(T.int64(13000000000), i)
            big[v] = x[v % T.int64(1024)]
    for i in range(T.int64(1024)):
        with T.sblock("y"):
            v = T.axis.spatial(T.int64(1024), i)
            y[v] = big[v * T.int64(2)]


@T.prim_func(s_tir=True)
def slow(x: T.Buffer((1024,), "float32"), y: T.Buffer((1024,), "float32")):
    """Right, after some milliseconds."""
    T.evaluate(T.call_extern("int32", "usleep", 5000))
    for i in range(1024):
        with T.sblock("y"):
            v = T.axis.spatial(1024, i)
            y[v] = x[v] * T.float32(2)


@T.prim_func(s_tir=True)
def drowsy(x: T.Buffer((1024,), "float32"), y: T.Buffer((1024,), "float32")):
    """Right, after two seconds."""
    T.evaluate(T.call_extern("int32", "sleep", 2))
    for i in range(1024):
        with T.sblock("y"):
            v = T.axis.spatial(1024, i)
            y[v] = x[v] * T.float32(2)


def text(function: Any) -> str:
    """A PrimFunc as trials carry it."""
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    return str(tvm.ir.save_json(module))


def workload_of(function: Any = doubled, key: str = "doubled") -> Workload:
    """A workload of a PrimFunc with one output."""
    return Workload(key=key, name=key, module=text(function))


def trial_of(function: Any, key: str, workload: Workload | None = None) -> Trial:
    """A trial of a PrimFunc, by default of what `doubled` computes."""
    return Trial(key=key, workload=workload or workload_of(), module=text(function))
