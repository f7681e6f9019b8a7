from __future__ import annotations

import json

import pytest
import tvm_ffi

from tests.tuning.search_cases import conv_function, dense_function, host
from tvm_iovt.errors import IovtError
from tvm_iovt.schedules.design_space import search_spaces
from tvm_iovt.schedules.tvm_api import Schedule
from tvm_iovt.tuning.tasks import module_of
from tvm_iovt.tuning.traces import replayed, trace_json, trial_key


@pytest.fixture(scope="module")
def spaces():
    spec, target = host()
    module = module_of(conv_function())
    return module, search_spaces(Schedule(module, debug_mask="none"), spec.cpu, target)


def test_a_trace_survives_json(spaces):
    module, found = spaces
    for space in found:
        trace = json.loads(json.dumps(trace_json(space.trace)))
        assert tvm_ffi.structural_equal(replayed(module, trace).mod, space.mod)


def test_keys_tell_schedules_and_workloads_apart(spaces):
    _, found = spaces
    traces = [trace_json(space.trace) for space in found]
    keys = {trial_key("a", trace) for trace in traces}
    assert len(keys) == len(found) > 1
    assert not keys & {trial_key("b", trace) for trace in traces}
    assert trial_key("a", None) not in keys
    assert trial_key("a", json.loads(json.dumps(traces[0]))) in keys


def test_a_trace_of_another_kernel_is_an_error(spaces):
    _, found = spaces
    with pytest.raises(IovtError, match="cannot be replayed"):
        replayed(module_of(dense_function()), trace_json(found[0].trace))


@pytest.mark.parametrize("trace", [[], "nonsense", [[["NoSuchStep", [], [], []]], []]])
def test_nonsense_is_an_error_or_nothing(trace):
    module = module_of(dense_function())
    with pytest.raises(IovtError, match="cannot be replayed"):
        replayed(module, trace)
