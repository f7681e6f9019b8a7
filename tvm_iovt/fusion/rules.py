"""The fusion rules: which operators become one, and why others do not.

Each rule looks at the operator that computes one value and says `Fusion`, `Refusal`, or None when
the pattern is not there at all. Rules change nothing; the graph's own rewriter does.
"""

from tvm_iovt.fusion.affine_rule import fold_affine
from tvm_iovt.fusion.costs import OperatorTime
from tvm_iovt.fusion.outcome import Fusion, Outcome, Refusal
from tvm_iovt.fusion.sequence_rule import fuse_sequence
from tvm_iovt.fusion.sum_rule import fuse_sum

__all__ = [
    "Fusion",
    "OperatorTime",
    "Outcome",
    "Refusal",
    "fold_affine",
    "fuse_sequence",
    "fuse_sum",
]
