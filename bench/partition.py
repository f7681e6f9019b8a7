"""Plans against measurements: two stages of one thread each on this machine, and one stage alone.

    tvm-iovt targets probe host/1
    python bench/partition.py FOLDER --json partition.json

For every model: the predicted latency of the whole network on one thread and the measured one; the
predicted period of the best two stages and the measured one; and the frame rate of the two against
that of one stage on one core, in alternating blocks. `--measure` plans with measured operators.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from models import model_files, parser, write_json

ONE, TWO = "host/1", "host/1,host/1"


def verb(*words: object) -> Any:
    """Run `tvm-iovt ... --json`; what it prints, its progress goes to stderr."""
    command = [sys.executable, "-m", "tvm_iovt", *map(str, words), "--json"]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(found.stdout)


def rate(bundle: Path, frames: int, *words: str) -> dict[str, Any]:
    """Statistics of a pipelined run over the sample."""
    run = verb("run", bundle, f"sample:{frames}", "--pipeline", *words)
    return dict(run["statistics"])


def measure(
    model: Path, shapes: list[str], blocks: int, seconds: float, *, measured: bool
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder) / "one.iovt", Path(folder) / "two.iovt"
        file = Path(folder) / "plan.json"
        options = [*shapes, *(["--measure"] if measured else [])]
        alone = verb("plan", model, *options, "--targets", ONE)
        plan = verb(
            "plan", model, *options, "--targets", TWO, "--objective", "throughput", "-o", file
        )
        verb("compile", model, *shapes, "--targets", ONE, "-o", one)
        verb("compile", model, *shapes, "--plan", file, "-o", two)
        expected = alone["plan"]["prediction"], plan["plan"]["prediction"]
        frames = max(40, int(seconds / expected[0]["latency_s"]))
        singles, pairs, latencies = [], [], []
        for _ in range(blocks):
            singles.append(rate(one, frames)["frames_per_s"])
            pairs.append(rate(two, frames)["frames_per_s"])
            latencies.append(rate(one, frames, "--sequential")["latency_p50_s"])
    return {
        "stages": len(plan["plan"]["stages"]),
        "source": expected[0]["source"],
        "latency_predicted_s": expected[0]["latency_s"],
        "latency_measured_s": statistics.median(latencies),
        "period_predicted_s": expected[1]["period_s"],
        "period_measured_s": 1 / statistics.median(pairs),
        "rate_ratios": [pair / single for pair, single in zip(pairs, singles, strict=True)],
    }


def error(found: dict[str, Any], what: str) -> float:
    predicted, seen = found[f"{what}_predicted_s"], found[f"{what}_measured_s"]
    return float(predicted / seen - 1)


def main() -> None:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--blocks", type=int, default=3, help="alternating runs of each kind")
    options.add_argument("--seconds", type=float, default=2.0, help="of each run")
    options.add_argument("--measure", action="store_true", help="plan with measured operators")
    given = options.parse_args()
    results = {}
    print(f"{'':28} {'latency, 1 thread':>28}   {'period, 2 stages':>28}   rate of 2 : 1")
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
        spread = f"[{min(found['rate_ratios']):.2f} .. {max(found['rate_ratios']):.2f}]"
        print(f"{model.stem:28} {cells[0]}   {cells[1]}   {ratio:.2f} {spread}", flush=True)
        write_json(given.json, results)
    for what in ("latency", "period"):
        errors = [abs(error(found, what)) for found in results.values()]
        print(f"median |predicted / measured - 1| of the {what}: {statistics.median(errors):.1%}")


if __name__ == "__main__":
    main()
