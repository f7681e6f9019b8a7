"""Searching schedules for a GPU: everything but running them needs none."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tvm_iovt.build import cuda
from tvm_iovt.errors import IovtError

# In a process of its own: the intrinsics of GPUs cannot be imported after those of CPUs alone.
PROGRAM = """
import sys
sys.modules["torch"] = None
from tvm_iovt.tuning.intrinsics import import_intrinsics
import_intrinsics(gpu=True)
from tests.tuning.search_cases import softmax_like_function, task_of
from tvm_iovt import _tvm, targets
from tvm_iovt.build import cuda
from tvm_iovt.build.cuda_pipeline import unbound_kernels
from tvm_iovt.tuning.cost_model import CostModel
from tvm_iovt.tuning.kernel_worker import KernelWorker
from tvm_iovt.tuning.task_search import task_search, template_proposal
spec = targets.load("cuda:sm_90")
cuda.enable_codegen()
target = _tvm.tvm_target(spec)
task = task_of(softmax_like_function())
template = template_proposal(task, spec, target)
found = task_search(task, spec, target, CostModel("random", target), {}, seed=1).propose(3)
assert len({p.trial.key for p in (template, *found)}) == 4
worker = KernelWorker(spec, 1)
for proposal in (template, *found):
    assert not unbound_kernels(_tvm.tvm.ir.load_json(proposal.trial.module))
    assert worker.build(proposal.trial).build_s > 0
print("built", 1 + len(found))
"""


@pytest.mark.slow
def test_what_is_proposed_for_a_gpu_is_bound_and_builds():
    try:
        cuda.find_compiler("sm_90")
    except IovtError as error:
        pytest.skip(f"needs a CUDA compiler: {error.seen}")
    path = [p for p in sys.path if p]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": ":".join(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["built", "4"]
