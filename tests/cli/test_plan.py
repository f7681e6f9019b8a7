"""`plan` as a user calls it: one model, several, and the other plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tvm_iovt.cli.main import run
from tvm_iovt.json_codec import from_json
from tvm_iovt.partition.findings import OperatorSplits, ParetoFront, SharedServer, TraceReplay
from tvm_iovt.planning.plan_file import PlanFile, read_plan
from tvm_iovt.target_profiles import profile_toml
from tvm_iovt.types import DeviceProfile, DtypePeak, KindFit, Roof
from tvm_iovt.unit_laws import TERMS

PAIR = ("--targets", "edge,server", "--link", "server=100MB,10us")

pytestmark = pytest.mark.usefixtures("edge_targets")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text("time_s,bytes_per_s\n0,1e9\n1,100\n2,1e9\n3,1e9\n")
    return path


@pytest.fixture
def plan(capsys: Any):
    """Calls the verb; returns the exit code, stdout and stderr."""

    def called(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(["plan", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return called


def test_one_model_is_planned_for_an_objective(plan: Any, funnel_model: Path, tmp_path: Path):
    output = tmp_path / "plan.json"
    code, out, err = plan(funnel_model, *PAIR, "-o", output)
    assert code == 0, err
    assert "least latency" in out
    assert "Stages" in out
    assert f"wrote {output}" in out
    file = read_plan(output)
    assert file.plan.objective == "latency"
    assert file.links[0].bytes_per_s == 1e8


def test_one_model_as_json(plan: Any, funnel_model: Path):
    code, out, _ = plan(funnel_model, *PAIR, "--objective", "throughput", "--json")
    assert code == 0
    assert from_json(PlanFile, json.loads(out)).plan.objective == "throughput"


def test_a_plan_that_cannot_be_written_is_printed(plan: Any, funnel_model: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "plan.json"
    code, out, err = plan(funnel_model, *PAIR, "-o", output)
    assert code == 2
    assert "Stages" in out
    assert "wrote" not in out
    assert f"Cannot write {output}" in err
    code, out, err = plan(funnel_model, *PAIR, "-o", output, "--json")
    found = json.loads(out)
    assert code == found.pop("error")["exit_code"] == 2
    assert from_json(PlanFile, found).plan.objective == "latency"
    assert f"Cannot write {output}" in err


def measured_with(threads: int) -> str:
    """A server's profile of a law for one number of threads."""
    roof = Roof(
        threads=threads,
        peaks=(DtypePeak(dtype="float32", flops_per_s=20e9 * threads),),
        bandwidth_bytes_per_s=20e9,
    )
    fit = KindFit(
        kind="pointwise",
        threads=threads,
        coefficients=(1.0,) * TERMS,
        median_error=0.1,
        samples=9,
    )
    return profile_toml(DeviceProfile(source="measured", roofs=(roof,), launch_s=1e-6, fits=(fit,)))


@pytest.mark.parametrize(("threads", "notes"), [(1, 1), (4, 0)])
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_threads_that_nobody_measured_are_told_once(
    plan: Any, funnel_model: Path, tmp_path: Path, threads: int, notes: int, more: tuple[str, ...]
):
    file = tmp_path / "share" / "targets" / "server.toml"
    file.write_text(file.read_text() + measured_with(threads))
    code, _, err = plan(funnel_model, "--targets", "server", *more)
    assert code == 0, err
    assert err.count("note: server was measured with 1 thread at most") == notes
    assert err.count("tvm-iovt targets probe server --tracker HOST:PORT --key KEY") == notes


def test_the_front_marks_its_knee(plan: Any, funnel_model: Path, tmp_path: Path):
    output = tmp_path / "knee.json"
    arguments = (funnel_model, *PAIR, "--pareto", "--memory-share", "1.0")
    code, out, err = plan(*arguments, "-o", output)
    assert code == 0, err
    rows = [line for line in out.splitlines() if " + " in line]
    assert sum(line.startswith("*") for line in rows) == 1
    assert "rule      knee" in out
    assert "1.0 MB may be used (100%)" in out
    assert f"compile {funnel_model} --plan {output}" in out
    code, out, _ = plan(*arguments, "--json")
    front = from_json(ParetoFront, json.loads(out))
    assert code == 0
    assert len(front.front) == len(rows)
    knee = front.front[front.chosen]
    assert read_plan(output).plan.prediction.latency_s == pytest.approx(knee.latency_s)


def test_the_edges_memory_has_to_be_known(plan: Any, funnel_model: Path):
    arguments = (funnel_model, "--targets", "server,edge", "--pareto")
    code, _, err = plan(*arguments)
    assert code == 2
    assert "memory_bytes = " in err
    assert "--edge-memory 512MB" in err
    code, out, _ = plan(*arguments, "--edge-memory", "2MB")
    assert code == 0
    assert "200.0 kB of its 2.0 MB may be used (10%)" in out


def test_a_trace_is_replayed(plan: Any, funnel_model: Path, trace: Path):
    arguments = (funnel_model, *PAIR, "--trace", trace, "--frame-interval", "50ms")
    code, out, err = plan(*arguments)
    assert code == 0, err
    assert "61, one every 50.0 ms" in out
    for words in ("dynamic", "oracle", "all on edge", "all on server", "over time"):
        assert words in out
    code, out, _ = plan(*arguments, "--json")
    assert code == 0
    found = from_json(TraceReplay, json.loads(out))
    assert found.frames == 61
    assert found.oracle_mean_s <= found.dynamic_mean_s


def test_frames_come_30_times_a_second_by_default(plan: Any, funnel_model: Path, trace: Path):
    code, out, _ = plan(funnel_model, *PAIR, "--trace", trace, "--json")
    assert code == 0
    assert json.loads(out)["frames"] == 91


def test_several_models_share_the_server(plan: Any, funnel_model: Path, small_model: Path):
    arguments = (funnel_model, small_model, *PAIR)
    code, out, err = plan(*arguments, "--objective", "latency")
    assert code == 0, err
    assert "of 4 cores are used" in out
    assert "funnel" in out
    assert "small" in out
    code, out, _ = plan(*arguments, "--json")
    assert code == 0
    found = from_json(SharedServer, json.loads(out))
    assert [model.model_name for model in found.models] == ["funnel", "small"]


def test_convolutions_are_split_or_not(plan: Any, funnel_model: Path):
    arguments = (funnel_model, "--targets", "edge,server", "--split")
    code, out, err = plan(*arguments, "--link", "server=1kB")
    assert code == 0, err
    assert "0 of 3 convolutions" in out
    assert "Better whole: 3 convolutions; -v tells why." in out
    _, out, _ = plan(*arguments, "--link", "server=1kB", "-v")
    assert "not applied" in out
    code, out, _ = plan(*arguments, "--link", "server=1kB", "--json")
    assert code == 0
    assert len(from_json(OperatorSplits, json.loads(out)).refused) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--pareto", "--split"), "--pareto and --split are different plans"),
        (("--pareto", "--trace", "t.csv"), "different plans"),
        (("other.onnx", "--split"), "--split and several models are different plans"),
        (("--pareto", "--objective", "latency"), "--objective with --pareto"),
        (("--split", "--cuts", "a"), "--cuts with --split"),
        (("--split", "-o", "plan.json"), "--output with --split"),
        (("--trace", "t.csv", "-o", "plan.json"), "--output with --trace"),
        (("other.onnx", "-o", "plan.json"), "--output with several models"),
        (("other.onnx", "--objective", "throughput"), "frame rate of its own"),
        (("other.onnx", "--cuts", "a"), "--cuts with several models"),
        (("--memory-share", "0.5"), "--memory-share without --pareto"),
        (("--edge-memory", "1GB"), "--edge-memory without --pareto"),
        (("--frame-interval", "1s"), "--frame-interval without --trace"),
        (("--pareto", "--edge-memory", "much"), "size could not be read"),
        (("--pareto", "--memory-share", "2"), "above 0 and up to 1"),
        (("--trace", "t.csv", "--frame-interval", "1h"), "interval could not be read"),
        (("--trace", "gone.csv"), "Cannot read the trace gone.csv"),
        (("--link", "edge=1MB", "--pareto"), "one link"),
        (("--link", "server=5MB"), "2 things of the way to server"),
        (("--cuts", ""), "--cuts names no operator"),
    ],
)
def test_what_makes_no_sense_is_refused(plan: Any, arguments: tuple[str, ...], words: str):
    code, out, err = plan("gone.onnx", *PAIR, *arguments)
    assert code == 2
    assert words in err
    assert not out


def test_a_model_is_needed(plan: Any):
    code, _, err = plan(*PAIR)
    assert code == 2
    assert "MODEL" in err


def test_help_has_headings(plan: Any):
    code, out, _ = plan("--help")
    assert code == 0
    headings = [line for line in out.splitlines() if line and line[0] != " " and line[-1] == ":"]
    assert headings == ["Options:", "Other plans:", "The network:", "Output:"]
    last = out[out.index("Output:") :]
    for option in ("--output", "--json", "--config", "--help"):
        assert option in last
    first_words = [line[2:].split()[0] for line in out.splitlines() if line.startswith("  -")]
    assert len(first_words) == len(set(first_words))
    assert {"--targets", "--pareto", "--trace", "--split", "--fuse", "-h,"} <= set(first_words)
