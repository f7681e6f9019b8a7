"""Cuts along one topological order: exact for chains, and for others within that order.

Where branches lie side by side, a stage between two positions of the order may cross more tensors
than another closed set of units would; see `ideals` for those.
"""

from __future__ import annotations

import numpy as np

from tvm_iovt.partition.cut_points import CutPoints
from tvm_iovt.partition.problem import Problem


def chain_points(problem: Problem) -> CutPoints:
    """One cut point for each position of the topological order: before, between, after units."""
    units = len(problem.graph.units)
    member = np.tri(units + 1, units, -1, dtype=np.bool_)
    return CutPoints.of_sets(problem, member)
