"""Tuning a real network on this machine, from the model to a bundle that uses what was found."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import tvm_iovt
from tvm_iovt import _tvm, targets
from tvm_iovt.compiler import CompileOptions, compile_model
from tvm_iovt.errors import TuningError, UsageError
from tvm_iovt.tuner import TuneOptions, tune_model
from tvm_iovt.tuner.options import check_is_reachable
from tvm_iovt.tuning.events import RunStarted, TaskOutcome, TrialDone, TuneOutcome

DIGITS = Path(__file__).resolve().parents[1] / "tvm_iovt" / "zoo" / "digits.onnx"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    logs = tmp_path_factory.mktemp("records") / "tuning_logs"
    events = []
    options = TuneOptions(trials=24, logs=logs, cost_model="random")
    return logs, options, tune_model(DIGITS, options, listen=events.append), events


def test_trials_are_made_and_told(tuned):
    _, _, outcome, events = tuned
    started = next(event for event in events if isinstance(event, RunStarted))
    assert started.peak_flops > 1e9
    assert started.peak_bytes_per_s > 1e8
    assert started.trials_asked == 24
    done = [event for event in events if isinstance(event, TrialDone)]
    assert outcome.trials_done == len(done) <= 24
    assert outcome.trials_valid == sum(not event.failed for event in done) > 0
    assert outcome.complete
    assert events[-1] is outcome


def test_every_trial_says_where_it_is_from(tuned):
    logs, _, outcome, _ = tuned
    lines = [
        json.loads(line)
        for file in logs.glob("*/trials.jsonl")
        for line in file.read_text().splitlines()
    ]
    assert len(lines) == outcome.trials_done
    for line in lines:
        assert line["run"] == outcome.run
        assert line["runner"] == "local"
        assert line["tvm_version"] == "0.27.0.post1"
        assert line["date"].startswith("20")
        assert line["device"]["cpu"]["mcpu"] != "native"
        assert line["failed"] or (line["run_s"] and line["deviation"] < 1e-4)


def test_the_same_command_again_adds_nothing(tuned):
    logs, options, outcome, _ = tuned
    before = sorted(file.read_text() for file in logs.glob("*/trials.jsonl"))
    again = tune_model(DIGITS, options)
    assert again.run == outcome.run
    assert again.trials_done == outcome.trials_done
    assert sorted(file.read_text() for file in logs.glob("*/trials.jsonl")) == before


@pytest.mark.slow
def test_restart_counts_from_zero(tuned):
    logs, _, outcome, _ = tuned
    again = tvm_iovt.tune(DIGITS, trials=3, logs=logs, cost_model="random", restart=True)
    assert again.run != outcome.run
    assert again.trials_done <= 3


def test_a_bundle_uses_the_records_and_says_so(tuned, tmp_path, monkeypatch):
    logs, _, _, _ = tuned
    (file,) = logs.glob("*/choices.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    trials = [json.loads(line) for line in (file.parent / "trials.jsonl").read_text().splitlines()]
    # Which schedule is faster is the machine's affair; that one of a search is used is not.
    trial = next(t for t in trials if t["source"] == "search" and not t["failed"])
    line = next(c for c in lines if c["workload"] == trial["workload"])
    line |= {"trial": trial["key"], "trace": trial["trace"]}
    file.write_text(json.dumps(line) + "\n")
    monkeypatch.setenv("TVM_IOVT_PATH", str(logs.parent))
    steps = []
    options = CompileOptions(output=tmp_path / "digits.iovt")
    made = compile_model(DIGITS, options, progress=steps.append)
    assert any("kernels for host use schedules from tuning records" in s for s in steps)
    # Shipped records may know other kernels of it.
    assert [d for d in made.manifest.decisions if "tuned:" in d.reason]
    assert made.manifest.deployments[0].discrepancy.passed
    steps.clear()
    untuned = CompileOptions(output=tmp_path / "plain.iovt", tuned=False)
    plain = compile_model(DIGITS, untuned, progress=steps.append)
    assert not [d for d in plain.manifest.decisions if "tuned:" in d.reason]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (TuneOptions(), "needs a budget"),
        (TuneOptions(trials=1, tracker="127.0.0.1:9190"), "belong together"),
        (TuneOptions(trials=1, target="arm"), "cannot be measured on this machine"),
        (TuneOptions(trials=1, cost_model="oracle"), "no cost model"),
        (TuneOptions(trials=1, plan=Path("plan.json")), "plans cannot be tuned"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(options, message):
    with pytest.raises(UsageError, match=message):
        tune_model(DIGITS, options)


def test_nothing_valid_is_an_error_with_the_first_messages():
    task = TaskOutcome(
        task="conv",
        weight=1,
        trials=2,
        valid=0,
        template_s=None,
        best_s=None,
        template_network_s=None,
        chosen_network_s=None,
        chosen="template",
        reason="",
    )
    with pytest.raises(TuningError, match="None of 2 trials") as caught:
        TuneOutcome(
            run="r",
            records="",
            tasks=(task,),
            fixed=0,
            trials_asked=2,
            trials_done=2,
            trials_valid=0,
            complete=True,
            errors=("conv, build: no such intrinsic",),
        )
    assert "no such intrinsic" in caught.value.seen
    assert caught.value.exit_code == 7


def device(exist, compute_version="9.0"):
    return lambda kind, number: SimpleNamespace(exist=exist, compute_version=compute_version)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (device(False), "needs a cuda device"),
        (device(True, "8.7"), "is for sm_90, the GPU here is sm_87"),
    ],
)
def test_a_gpu_that_is_not_here_is_refused(monkeypatch, found, message):
    monkeypatch.setattr(_tvm.tvm, "device", found)
    with pytest.raises(UsageError, match="cannot be measured on this machine") as caught:
        check_is_reachable(targets.load("cuda:sm_90"), TuneOptions(trials=1))
    assert message in caught.value.seen


def test_a_gpu_that_is_here_is_tuned_here(monkeypatch):
    monkeypatch.setattr(_tvm.tvm, "device", device(True))
    check_is_reachable(targets.load("cuda:sm_90"), TuneOptions(trials=1))
