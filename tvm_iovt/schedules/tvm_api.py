"""The TVM names that this package uses beyond those of `tvm_iovt._tvm`, in one place.

They have moved between TVM versions (`tvm.tir` became `tvm.s_tir` and `tvm.tirx`).
"""

from __future__ import annotations

from tvm import te, topi
from tvm.ir import GenericConst
from tvm.ir.expr import TensorLoad
from tvm.ir.utils import derived_object
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.s_tir import SBlock, SBlockRealize, Schedule, TensorIntrin, meta_schedule
from tvm.s_tir.meta_schedule.mutator import PyMutator
from tvm.s_tir.schedule import Trace
from tvm.script import from_source
from tvm.target.codegen import llvm_cpu_has_features

from tvm_iovt._tvm import relax, tirx, tvm

__all__ = [
    "GenericConst",
    "PyExprMutator",
    "PyMutator",
    "SBlock",
    "SBlockRealize",
    "Schedule",
    "TensorIntrin",
    "TensorLoad",
    "Trace",
    "derived_object",
    "from_source",
    "llvm_cpu_has_features",
    "meta_schedule",
    "mutator",
    "relax",
    "te",
    "tirx",
    "topi",
    "tvm",
]
