"""What tuning gains on this machine: untuned against tuned bundles, in alternating blocks.

    python bench/tuning.py FOLDER --time 15m --logs tuning_logs --json result.json

Tunes every model (an interrupted benchmark goes on: so do its runs), compiles it with and without
the records, and compares the two with `tvm-iovt bench`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from models import model_files, parser, write_json

SAMPLES = 300


def verb(*words: object, logs: Path) -> list[Any]:
    """Run `tvm-iovt ... --json`; returns the JSON values on stdout, progress goes to stderr."""
    command = [sys.executable, "-m", "tvm_iovt", *map(str, words), "--json"]
    environment = {**os.environ, "TVM_IOVT_PATH": str(logs.parent)}
    found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    decoder, text, values = json.JSONDecoder(), found.stdout.strip(), []
    while text:
        value, end = decoder.raw_decode(text)
        values.append(value)
        text = text[end:].lstrip()
    return values


def measure(model: Path, shapes: list[str], time: str, logs: Path) -> dict[str, Any]:
    logs = logs.absolute()
    outcome = verb("tune", model, *shapes, "--time", time, "--logs", logs, logs=logs)[-1]
    with tempfile.TemporaryDirectory() as folder:
        plain, tuned = Path(folder) / "untuned.iovt", Path(folder) / "tuned.iovt"
        nothing = logs.parent / "nothing" / logs.name  # no measured kernels either
        verb("compile", model, *shapes, "--no-tuned", "-o", plain, logs=nothing)
        verb("compile", model, *shapes, "-o", tuned, logs=logs)
        (bench,) = verb("bench", plain, tuned, "--repeat", SAMPLES, logs=logs)
    before, after = bench["timings"]
    return {
        "kernels": len(outcome["tasks"]),
        "tuned": sum(task["chosen"] == "search" for task in outcome["tasks"]),
        "trials": outcome["trials_done"],
        "failed": outcome["trials_done"] - outcome["trials_valid"],
        "trials_per_s": outcome["trials_done"] / outcome["elapsed_s"],
        "elapsed_s": outcome["elapsed_s"],
        "share_search": outcome["share_search"],
        "share_build": outcome["share_build"],
        "share_measure": outcome["share_measure"],
        "untuned_s": before["device"]["median_s"],
        "tuned_s": after["device"]["median_s"],
        "ratio": after["device_ratio"],
        "discrepancy": after["discrepancy"]["outputs"],
    }


def main() -> None:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--time", default="15m", help="budget of a model")
    options.add_argument("--logs", type=Path, default=Path("tuning-bench") / "tuning_logs")
    given = options.parse_args()
    results = {}
    for model in model_files(given.folder):
        shapes = [o.partition(":")[2] for o in given.input_shape if o.startswith(model.stem + ":")]
        found = measure(model, [f"--input-shape={s}" for s in shapes], given.time, given.logs)
        results[model.stem] = found
        ratio = found["ratio"]
        print(
            f"{model.stem:24} {found['untuned_s'] * 1e3:8.3f} -> {found['tuned_s'] * 1e3:8.3f} ms "
            f"{ratio['median']:6.3f} [{ratio['low']:.3f} .. {ratio['high']:.3f}]  "
            f"{found['tuned']} of {found['kernels']} kernels, {found['trials']} trials, "
            f"{found['failed']} failed, {found['trials_per_s']:.1f}/s",
            flush=True,
        )
        write_json(given.json, results)


if __name__ == "__main__":
    main()
