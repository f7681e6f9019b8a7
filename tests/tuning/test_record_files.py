"""Records and their files: what cannot be true is no record."""

from __future__ import annotations

import dataclasses

import pytest

from tests.tuning.record_examples import DEVICE, TEMPLATE, choice, trial, workload
from tvm_iovt.errors import IovtError
from tvm_iovt.tuning.record_files import CHOICES, TRIALS, WORKLOADS, device_folder

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("kind", "record"),
    [
        (WORKLOADS, workload()),
        (TRIALS, trial()),
        (TRIALS, trial(source=TEMPLATE)),
        (TRIALS, trial(failed="build", error="line\u2028separator \x85 \U0001f600 \ud83d")),
        (TRIALS, trial(failed="check", deviation=INF)),
        (CHOICES, choice()),
        (CHOICES, choice(network_s=0.0, template_network_s=0.0)),  # the network does not call it
        (CHOICES, choice(trial="", alone_s=INF, template_alone_s=INF, network_s=None)),
    ],
)
def test_a_record_survives_its_line(kind, record):
    line = kind.line(record)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert kind.parse(line) == record


@pytest.mark.parametrize(
    ("kind", "record", "reason"),
    [
        (TRIALS, trial(run_s=(1e-3, NAN)), "runs for nan"),
        (TRIALS, trial(run_s=(INF,)), "runs for inf"),
        (TRIALS, trial(run_s=(1e10,)), "runs for 10000000000"),  # TVM's "nothing was measured"
        (TRIALS, trial(run_s=(0.0,)), "runs for 0.0"),
        (TRIALS, trial(run_s=(-1e-3,)), "runs for -0.001"),
        (TRIALS, trial(run_s=()), "neither times nor a failure"),
        (TRIALS, trial(failed="build", run_s=(1e-3,)), "failed and has times"),
        (TRIALS, trial(failed="lunch"), "nothing fails at 'lunch'"),
        (TRIALS, trial(source="dream", trace=[1]), "'dream' is neither"),
        (TRIALS, trial(trace=None), "its trace is missing"),
        (TRIALS, trial(deviation=NAN), "deviates by nan"),
        (TRIALS, trial(key=""), "no key"),
        (TRIALS, trial(workload=""), "no workload"),
        (CHOICES, choice(alone_s=0.0), "runs for 0.0"),
        (CHOICES, choice(alone_s=INF), "runs for inf"),
        (CHOICES, choice(template_alone_s=NAN), "runs for nan"),
        (CHOICES, choice(network_s=-1.0), "runs for -1.0"),
        (CHOICES, choice(trace=None), "without a trace"),
        (CHOICES, choice(trial="", trace=[1]), "without a trial"),
        (CHOICES, choice(trials=-1), "-1 trials"),
        (CHOICES, choice(workload=""), "no workload"),
        (WORKLOADS, workload(module=""), "no module"),
    ],
)
def test_what_cannot_be_true_is_not_a_record(kind, record, reason):
    with pytest.raises(IovtError, match=reason):
        kind.parse(kind.line(record))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({}, "znver4"),
        ({"gpu": "cuda sm_87"}, "cuda-sm_87"),
        ({"cpu": dataclasses.replace(DEVICE.cpu, mcpu="../../etc")}, "-..-etc"),
        ({"cpu": dataclasses.replace(DEVICE.cpu, mcpu="..")}, "unknown"),
        ({"cpu": dataclasses.replace(DEVICE.cpu, mcpu="")}, "unknown"),
    ],
)
def test_a_device_cannot_name_a_folder_outside(tmp_path, change, name):
    folder = device_folder(tmp_path, dataclasses.replace(DEVICE, **change))
    assert folder == tmp_path / name and folder.resolve().parent == tmp_path.resolve()
