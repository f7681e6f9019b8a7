"""From a model file to recorded schedules; the command line prints the events."""

from tvm_iovt.tuner.options import TuneOptions
from tvm_iovt.tuner.run import tune_model

__all__ = ["TuneOptions", "tune_model"]
