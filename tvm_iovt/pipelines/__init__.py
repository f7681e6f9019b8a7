"""Bundles on streams of frames: `run_pipeline`."""

from tvm_iovt.pipelines.run import PipelineError, PipelineOutcome, run_pipeline

__all__ = ["PipelineError", "PipelineOutcome", "run_pipeline"]
