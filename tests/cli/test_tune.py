"""The command line of `tvm-iovt tune`; the tuner behind it is a list of events."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tvm_iovt.cli.main import run
from tvm_iovt.errors import DeviceError, TuningError
from tvm_iovt.json_codec import from_json
from tvm_iovt.tuning import events

CLASSES = {
    cls.SCHEMA: cls
    for cls in (
        events.RunStarted,
        events.TrialDone,
        events.TaskEnded,
        events.Note,
        events.TuneOutcome,
    )
}


@dataclasses.dataclass
class Tuner:
    """Plays events, notes the options it was given, and fails where it is told to."""

    play: Callable[[Any], list[events.Event]]
    options: list[Any] = dataclasses.field(default_factory=list)
    error: BaseException | None = None
    stop_after: int | None = None
    tells_outcome: bool = True

    def __call__(self, model: Path, options: Any, *, listen: events.Listener) -> Any:
        self.options.append(options)
        told = self.play(options)
        for event in told[: self.stop_after]:
            if self.tells_outcome or not isinstance(event, events.TuneOutcome):
                listen(event)
        if self.error is not None:
            raise self.error
        return told[-1]


@pytest.fixture
def tuner(monkeypatch: pytest.MonkeyPatch, tune_run: Any, tmp_path: Path) -> Tuner:
    from tvm_iovt import tuner as real

    made = Tuner(play=lambda options: tune_run(records=str(tmp_path / "records")))
    monkeypatch.setattr(real, "tune_model", made)
    return made


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["tune", "small.onnx", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_options_reach_the_tuner(tuner: Tuner, capsys: Any, tmp_path: Path) -> None:
    code, _, err = call(
        capsys,
        *("--target", "arm", "--trials", "50", "--time", "1h30m", "--tracker", "localhost:9190"),
        *("--key", "rpi4", "--jobs", "3", "--dask", "localhost:8786", "--logs", str(tmp_path)),
        *("--restart", "--input-shape", "x=1x3x8x8", "--fuse", "never", "--precision", "bf16"),
        *("--no-winograd", "--plan", "plan.json", "--cost-model", "random"),
        *("--cross-compiler", "my-gcc", "--build-timeout", "1m", "--run-timeout", "5s"),
    )
    assert code == 0, err
    (options,) = tuner.options
    expected = {
        "target": "arm",
        "trials": 50,
        "time_s": 5400.0,
        "tracker": "localhost:9190",
        "key": "rpi4",
        "jobs": 3,
        "dask": "localhost:8786",
        "logs": tmp_path,
        "restart": True,
        "input_shapes": {"x": (1, 3, 8, 8)},
        "fuse": "never",
        "precision": "bf16",
        "winograd": False,
        "plan": Path("plan.json"),
        "cost_model": "random",
        "cross_compiler": "my-gcc",
        "build_timeout_s": 60.0,
        "run_timeout_s": 5.0,
    }
    assert {name: getattr(options, name) for name in expected} == expected


def test_budgets(tuner: Tuner, capsys: Any) -> None:
    assert call(capsys)[0] == 0
    assert call(capsys, "--trials", "7")[0] == 0
    assert call(capsys, "--time", "90s")[0] == 0
    budgets = [(options.trials, options.time_s) for options in tuner.options]
    assert budgets == [(None, 600.0), (7, None), (None, 90.0)]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--trials", "0"],
        ["--trials", "many"],
        ["--time", "20"],
        ["--time", "0s"],
        ["--build-timeout", "soon"],
        ["--target", ","],
        ["--target", "host,host"],
        ["--jobs", "-1"],
        ["--cost-model", "guess"],
        ["--input-shape", "x"],
    ],
)
def test_wrong_arguments_exit_with_2_before_anything_begins(
    tuner: Tuner, capsys: Any, arguments: list[str]
) -> None:
    code, out, err = call(capsys, *arguments)
    assert code == 2
    assert not tuner.options
    assert not out
    assert "Traceback" not in err


def test_flags_may_come_from_a_file(tuner: Tuner, capsys: Any, tmp_path: Path) -> None:
    config = tmp_path / "iovt.toml"
    config.write_text('[tune]\ntarget = "arm"\ntime = "2m"\ncost-model = "random"\n')
    assert call(capsys, "--config", str(config))[0] == 0
    (options,) = tuner.options
    assert (options.target, options.time_s, options.cost_model) == ("arm", 120.0, "random")


def test_the_end_tells_what_was_gained(tuner: Tuner, capsys: Any, tmp_path: Path) -> None:
    code, out, err = call(capsys, "--trials", "120", "--precision", "bf16")
    assert code == 0
    for word in ("conv0", "depthwise", "dense", "400 µs -> ", "tuned 3 of 3 kernels"):
        assert word in out, word
    (line,) = [line for line in out.splitlines() if line.startswith("network: ")]
    before, after = 933.3, tuner.play(None)[-1].tuned_network_s * 1e6
    assert line.startswith(f"network: 933 µs -> {after:.0f} µs, {after / before:.2f}x +- 0.01; ")
    assert "120 trials, 6 failed; 5.0 trials/s" in line
    assert "70.0% measuring, 15.0% building, 10.0% searching" in out
    assert "failed (6): build: LLVM gave up after" in out
    assert f"records: {tmp_path / 'records'}" in out
    assert "`tvm-iovt compile small.onnx --targets host --precision bf16` uses them" in out
    page = tmp_path / "records" / "runs" / "run-1.html"
    assert str(page) in err
    assert "small.onnx" in page.read_text()


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("tuning_logs", "`TVM_IOVT_PATH={parent} tvm-iovt compile small.onnx --targets host` uses"),
        ("mine", "`tvm-iovt logs merge {parent}/mine --into {parent}/home/tuning_logs` puts them"),
        ("home/tuning_logs", "`tvm-iovt compile small.onnx --targets host` uses them by itself"),
    ],
)
def test_records_elsewhere_are_told_how_to_use(
    tuner: Tuner,
    capsys: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
    expected: str,
) -> None:
    monkeypatch.setenv("TVM_IOVT_PATH", str(tmp_path / "home"))
    _, out, _ = call(capsys, "--logs", str(tmp_path / folder))
    assert expected.format(parent=tmp_path) in out


def test_a_run_without_gains_says_so(
    tuner: Tuner, capsys: Any, tune_run: Any, tmp_path: Path
) -> None:
    tuner.play = lambda _: tune_run(gained=False, failing=0, records=str(tmp_path))
    code, out, _ = call(capsys)
    assert code == 0
    assert "nothing gained: every kernel keeps its template" in out
    assert "nothing was faster: 3 kernels" in out
    assert "tuned 0 of 3 kernels, 3 keep their template" in out
    assert "1.00x +- 0.01 (no more than the noise), so none is used" in out
    assert "uses them by itself" not in out


def test_nothing_to_tune_is_no_failure(tuner: Tuner, capsys: Any, tmp_path: Path) -> None:
    outcome = events.TuneOutcome(
        run="r",
        records=str(tmp_path),
        tasks=(),
        fixed=4,
        trials_asked=9,
        trials_done=0,
        trials_valid=0,
        complete=True,
    )
    begun = events.RunStarted(
        run="r",
        model="m",
        target="host",
        device="d",
        tasks=(),
        fixed=4,
        trials_asked=9,
        time_asked_s=0,
        resumed_trials=0,
        runners=(),
        peak_flops=0,
        peak_bytes_per_s=0,
    )
    tuner.play = lambda _: [begun, outcome]
    code, out, _ = call(capsys)
    assert code == 0
    assert "nothing to tune" in out
    assert "tuned 0 of 0 kernels, 0 keep their template; 4 have no choices" in out


def test_json_is_a_line_an_event_and_nothing_else(
    tuner: Tuner, capsys: Any, tmp_path: Path
) -> None:
    code, out, err = call(capsys, "--json")
    assert code == 0
    heard = [json.loads(line) for line in out.splitlines()]
    told = tuner.play(None)
    assert [from_json(CLASSES[line["schema"]], line) for line in heard] == told
    assert heard[-1]["schema"] == events.TuneOutcome.SCHEMA
    assert "trials" in err  # progress goes on, elsewhere


def test_the_outcome_is_told_once_whoever_tells_it(tuner: Tuner, capsys: Any) -> None:
    tuner.tells_outcome = False
    _, out, _ = call(capsys, "--json")
    schemas = [json.loads(line)["schema"] for line in out.splitlines()]
    assert schemas.count(events.TuneOutcome.SCHEMA) == 1
    assert schemas[-1] == events.TuneOutcome.SCHEMA


def test_targets_are_tuned_one_after_another(tuner: Tuner, capsys: Any, tmp_path: Path) -> None:
    report = tmp_path / "out" / "report.html"
    code, out, _ = call(capsys, "--target", "host, cuda:sm_87", "--report", str(report))
    assert code == 0
    assert [options.target for options in tuner.options] == ["host", "cuda:sm_87"]
    assert sorted(path.name for path in report.parent.iterdir()) == [
        "report-cuda-sm_87.html",
        "report-host.html",
    ]
    assert "--targets 'cuda:sm_87'" in out or "--targets cuda:sm_87" in out


def test_an_interrupt_tells_what_is_safe(tuner: Tuner, capsys: Any, tmp_path: Path) -> None:
    tuner.error, tuner.stop_after = KeyboardInterrupt(), 41
    report = tmp_path / "report.html"
    code, out, err = call(capsys, "--report", str(report))
    assert code == 130
    assert "interrupted: 40 trials are safe; run the same command to go on" in err
    assert not out
    assert "not finished" in report.read_text()


def test_an_interrupt_inside_of_tvm_is_one(tuner: Tuner, capsys: Any) -> None:
    tuner.error, tuner.stop_after = RuntimeError("InterruptedByUser: "), 11
    code, _, err = call(capsys)
    assert code == 130
    assert "10 trials are safe" in err


def test_an_interrupt_before_the_begin_loses_nothing(tuner: Tuner, capsys: Any) -> None:
    tuner.error, tuner.stop_after = KeyboardInterrupt(), 0
    code, _, err = call(capsys)
    assert code == 130
    assert "nothing was left half-written" in err


@pytest.mark.parametrize(("error", "expected"), [(TuningError, 7), (DeviceError, 5)])
def test_failures_have_their_exit_code_and_leave_the_report(
    tuner: Tuner, capsys: Any, tmp_path: Path, error: type[Exception], expected: int
) -> None:
    tuner.error, tuner.stop_after = error("None of 12 trials could be measured"), 31
    report = tmp_path / "report.html"
    code, out, err = call(capsys, "--json", "--report", str(report))
    assert code == expected
    assert "None of 12 trials" in err
    assert "Traceback" not in err
    assert json.loads(out.splitlines()[-1])["error"]["exit_code"] == expected
    assert "LLVM gave up" in report.read_text()


def test_a_report_that_cannot_be_written_beside_the_records_is_only_noted(
    tuner: Tuner, capsys: Any, tune_run: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    tuner.play = lambda _: tune_run(records=str(tmp_path / "file"))
    code, out, err = call(capsys)
    assert code == 0
    assert "note: Cannot write" in err
    assert "tuned 3 of 3" in out


def test_a_resumed_run_draws_what_came_before(
    tuner: Tuner, capsys: Any, tune_run: Any, tmp_path: Path
) -> None:
    tuner.play = lambda _: tune_run(resumed=30, trials=60, records=str(tmp_path))
    code, _, err = call(capsys)
    assert code == 0
    assert "resumed after 30 trials" in err
    assert "before it was resumed" in (tmp_path / "runs" / "run-1.html").read_text()


@pytest.mark.slow
def test_a_real_run_is_interrupted_and_goes_on(small_model: Path, tmp_path: Path) -> None:
    logs = tmp_path / "tuning_logs"
    command = [sys.executable, "-m", "tvm_iovt", "tune", str(small_model)]
    command += ["--trials", "24", "--logs", str(logs), "--json"]
    environment = {**os.environ, "TVM_IOVT_PATH": str(tmp_path)}
    first = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert first.stdout is not None
    trials = 0
    for line in first.stdout:
        trials += json.loads(line)["schema"] == events.TrialDone.SCHEMA
        if trials == 8:
            break
    first.send_signal(signal.SIGINT)
    rest, err = first.communicate(timeout=60)
    assert first.returncode == 130, err
    trials += sum(
        json.loads(line)["schema"] == events.TrialDone.SCHEMA for line in rest.split("\n") if line
    )
    assert f"interrupted: {trials} trials are safe; run the same command to go on" in err

    second = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert second.returncode == 0, second.stderr
    heard = [json.loads(line) for line in second.stdout.splitlines()]
    told = [from_json(CLASSES[line["schema"]], line) for line in heard]
    started = next(event for event in told if isinstance(event, events.RunStarted))
    outcome = told[-1]
    assert isinstance(outcome, events.TuneOutcome)
    assert started.resumed_trials == trials
    numbers = [event.number for event in told if isinstance(event, events.TrialDone)]
    assert numbers == list(range(trials + 1, outcome.trials_done + 1))
    assert outcome.trials_done == 24 or all(task.reason for task in outcome.tasks)
    page = (Path(outcome.records) / "runs" / f"{outcome.run}.html").read_text()
    assert "before it was resumed" in page
