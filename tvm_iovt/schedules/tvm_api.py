"""The TVM names that this package uses beyond those of `tvm_iovt._tvm`, in one place.

They have moved between TVM versions (`tvm.tir` became `tvm.s_tir` and `tvm.tirx`).
"""

from __future__ import annotations

from tvm import te, topi
from tvm.ir import GenericConst
from tvm.ir.expr import TensorLoad
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.s_tir import Schedule

from tvm_iovt._tvm import relax, tirx, tvm

__all__ = [
    "GenericConst",
    "PyExprMutator",
    "Schedule",
    "TensorLoad",
    "mutator",
    "relax",
    "te",
    "tirx",
    "topi",
    "tvm",
]
