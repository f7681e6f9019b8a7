"""From a network's graph and a target to the library of one stage, kernels chosen and tuned."""

from tvm_iovt.stages.graph import run_graph_passes
from tvm_iovt.stages.kernels import KernelOptions, kernel_selector
from tvm_iovt.stages.library import StageBuilder

__all__ = ["KernelOptions", "StageBuilder", "kernel_selector", "run_graph_passes"]
