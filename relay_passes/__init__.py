"""Relax passes for vision networks, one a file, each usable on its own in any TVM program.

>>> import relay_passes
>>> mod = relay_passes.FuseParallelConvs()(mod)

The folder is named for Relay, which left TVM in 0.20; the passes are written for its successor.
"""

from relay_passes.annotate_cost import AnnotateCost, cost_graph, read_costs
from relay_passes.dequantize_after_conv import DequantizeAfterConv
from relay_passes.fold_clip import FoldClip
from relay_passes.fuse_batch_norm import FuseBatchNorm
from relay_passes.fuse_parallel_convs import FuseParallelConvs
from relay_passes.fuse_sequential_convs import FuseSequentialConvs
from relay_passes.partition_by_plan import PartitionByPlan
from relay_passes.pipeline import graph_passes
from relay_passes.reparameterize import Reparameterize
from relay_passes.restore_clip import RestoreClip
from relay_passes.restore_pad import RestorePad
from relay_passes.split_convolution import SplitConvolution
from relay_passes.stages import StageInterface, StageModule, stage_interfaces, stage_module

__all__ = [
    "AnnotateCost",
    "DequantizeAfterConv",
    "FoldClip",
    "FuseBatchNorm",
    "FuseParallelConvs",
    "FuseSequentialConvs",
    "PartitionByPlan",
    "Reparameterize",
    "RestoreClip",
    "RestorePad",
    "SplitConvolution",
    "StageInterface",
    "StageModule",
    "cost_graph",
    "graph_passes",
    "read_costs",
    "stage_interfaces",
    "stage_module",
]
