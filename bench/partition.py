"""Plans against measurements: two stages of one thread each on this machine, and one stage alone.

    tvm-iovt targets probe host/1
    python bench/partition.py FOLDER --json partition.json

For every model: the predicted latency of the whole network on one thread and the measured one; the
predicted period of the best two stages and the measured one; the frame rate of the two against that
of one stage on one core, with quartiles over alternating blocks; and against that of the plan of a
published formula (arXiv 2411.00838), where this is another one than the whole network on one core.
Where the whole network is the best plan, its period is that of calling it, without a pipeline.
`--measure` plans with measured operators.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from models import model_files, parser, write_json

from tvm_iovt import runtime
from tvm_iovt.bundle import load_sample, read_manifest
from tvm_iovt.runtime import libtvm, threads
from tvm_iovt.runtime.local_stage import LocalStage
from tvm_iovt.runtime.pipeline import Pipeline
from tvm_iovt.runtime.pipeline_stage import stages_of

ONE, TWO = "host/1", "host/1,host/1"


def verb(*words: object) -> Any:
    """Run `tvm-iovt ... --json`; what it prints, its progress goes to stderr."""
    command = [sys.executable, "-m", "tvm_iovt", *map(str, words), "--json"]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(found.stdout)


def pipeline(bundle: Path) -> Pipeline:
    """The stages of a bundle's deployment, each on a core of its own with one thread."""
    ffi = libtvm.load(bundle / "lib")
    manifest = read_manifest(bundle)
    (deployment,) = manifest.deployments
    cores = sorted(os.sched_getaffinity(0))

    def stage(index: int) -> LocalStage:
        return LocalStage(bundle, deployment, index, ffi, threads=1, cpus=(cores[index],))

    names = [spec.name for spec in manifest.outputs]
    return Pipeline(stages_of(deployment.plan, stage), names)


def rate(running: Pipeline, frame: dict[str, Any], seconds: float, period_s: float) -> float:
    """Frames a second of a full pipeline."""
    count = max(12, int(seconds / period_s))
    for _ in running.run(itertools.repeat(frame, count)):
        pass
    return running.statistics().frames_per_s


def measure(
    model: Path, shapes: list[str], blocks: int, seconds: float, *, measured: bool
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        one, two, other = (Path(folder) / f"{name}.iovt" for name in ("one", "two", "other"))
        file, published = Path(folder) / "plan.json", Path(folder) / "published.json"
        options = [*shapes, *(["--measure"] if measured else [])]
        alone = verb("plan", model, *options, "--targets", ONE)
        plan = verb(
            "plan", model, *options, "--targets", TWO, "--objective", "throughput", "-o", file
        )
        paper = verb(
            "plan", model, *options, "--targets", TWO, "--objective", "paper", "-o", published
        )
        verb("compile", model, *shapes, "--targets", ONE, "-o", one)
        verb("compile", model, *shapes, "--plan", file, "-o", two)
        whole = len(paper["plan"]["stages"]) == 1
        if not whole:
            verb("compile", model, *shapes, "--plan", published, "-o", other)
        expected = alone["plan"]["prediction"], plan["plan"]["prediction"]
        frame = load_sample(one)[0]
        executor = runtime.load(one)
        found: dict[str, list[float]] = {"latency": [], "one": [], "two": [], "paper": []}
        with (
            pipeline(one) as single,
            pipeline(two) as pair,
            contextlib.nullcontext() if whole else pipeline(other) as theirs,
        ):
            for _ in range(blocks):
                latencies = executor.latencies_s(frame, scope="device", repeat=15, warmup=2)
                found["latency"].append(statistics.median(latencies))
                found["one"].append(rate(single, frame, seconds, expected[0]["latency_s"]))
                found["two"].append(
                    rate(pair, frame, seconds, expected[1]["period_s"])
                    if len(plan["plan"]["stages"]) > 1
                    else 1 / found["latency"][-1]
                )
                found["paper"].append(
                    rate(theirs, frame, seconds, expected[1]["period_s"])
                    if theirs
                    else found["one"][-1]
                )
    return {
        "stages": len(plan["plan"]["stages"]),
        "source": expected[0]["source"],
        "latency_predicted_s": expected[0]["latency_s"],
        "latency_measured_s": statistics.median(found["latency"]),
        "period_predicted_s": expected[1]["period_s"],
        "period_measured_s": 1 / statistics.median(found["two"]),
        "rate_ratios": [b / a for a, b in zip(found["one"], found["two"], strict=True)],
        "paper_stages": len(paper["plan"]["stages"]),
        "paper_ratios": [b / a for a, b in zip(found["paper"], found["two"], strict=True)],
    }


def error(found: dict[str, Any], what: str) -> float:
    predicted, seen = found[f"{what}_predicted_s"], found[f"{what}_measured_s"]
    return float(predicted / seen - 1)


def main() -> None:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--blocks", type=int, default=9, help="alternating runs of each kind")
    options.add_argument("--seconds", type=float, default=0.5, help="of each run")
    options.add_argument("--measure", action="store_true", help="plan with measured operators")
    given = options.parse_args()
    os.environ[threads.COUNT], os.environ[threads.BIND] = "1", "0"
    results = {}
    columns = f"{'latency, 1 thread':>28}   {'period, 2 stages':>28}   rate of 2 : 1"
    print(f"{'':28} {columns}        rate : published")
    for model in model_files(given.folder):
        shapes = [o.partition(":")[2] for o in given.input_shape if o.startswith(model.stem + ":")]
        found = measure(
            model,
            [f"--input-shape={s}" for s in shapes],
            given.blocks,
            given.seconds,
            measured=given.measure,
        )
        results[model.stem] = found
        ratio = statistics.median(found["rate_ratios"])
        cells = [
            f"{found[f'{what}_predicted_s'] * 1e3:8.3f} / {found[f'{what}_measured_s'] * 1e3:8.3f}"
            f" {error(found, what):+7.1%}"
            for what in ("latency", "period")
        ]
        low, _, high = statistics.quantiles(found["rate_ratios"], n=4)
        spread = f"[{low:.2f} .. {high:.2f}]"
        theirs = f"{statistics.median(found['paper_ratios']):.2f} ({found['paper_stages']} stages)"
        print(
            f"{model.stem:28} {cells[0]}   {cells[1]}   {ratio:.2f} {spread}   {theirs}", flush=True
        )
        write_json(given.json, results)
    for what in ("latency", "period"):
        errors = [abs(error(found, what)) for found in results.values()]
        print(f"median |predicted / measured - 1| of the {what}: {statistics.median(errors):.1%}")


if __name__ == "__main__":
    main()
