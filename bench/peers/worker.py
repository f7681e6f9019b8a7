"""One network in one runtime in a process of its own, driven by JSON lines on its pipes.

    python worker.py JOB.json INPUTS.npz

The first line on stdout tells how loading and the first inference went. Then each line on stdin is
a request that one line answers:

    {"do": "run", "count": 20, "skip": 2}   a block of inferences -> medians of wall and CPU time
    {"do": "save", "file": "out.npz"}       the outputs of one inference, in order

The end of stdin ends the process.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from other_load import CpuTime, other_cores
from runtimes import LOADERS, Job, Loaded


def peak_resident_bytes() -> int:
    """Of this process. `ru_maxrss` would include the parent's memory before exec."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def block(run: Callable[[], object], count: int, skip: int) -> dict[str, float]:
    """Medians over `count` inferences; the caches are cold during the first `skip`, uncounted."""
    wall_s, cpu_s = [], []
    before, began_s, began_cpu_s = CpuTime.now(), time.perf_counter(), time.process_time()
    for _ in range(skip + count):
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        run()
        cpu_s.append(time.process_time() - start_cpu_s)
        wall_s.append(time.perf_counter() - start_s)
    own_s, elapsed_s = time.process_time() - began_cpu_s, time.perf_counter() - began_s
    return {
        "wall_s": statistics.median(wall_s[skip:]),
        "cpu_s": statistics.median(cpu_s[skip:]),
        "other_cores": other_cores(before, CpuTime.now(), own_s, elapsed_s),
    }


def start(job_file: str, inputs_file: str) -> tuple[Loaded, dict[str, Any]]:
    began_s = time.perf_counter()
    job = Job(**json.loads(Path(job_file).read_text(encoding="utf-8")))
    with np.load(inputs_file) as stored:
        inputs = dict(zip(job.input_names, stored.values(), strict=True))
    loaded = LOADERS[job.runtime](job, inputs)
    loaded_s = time.perf_counter()
    loaded.run()
    return loaded, {
        "load_s": loaded_s - began_s,
        "first_s": time.perf_counter() - loaded_s,
        "cpu_s": time.process_time(),
        "peak_resident_bytes": peak_resident_bytes(),
        "precision": loaded.precision,
    }


def serve(loaded: Loaded, answers: TextIO) -> None:
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, float] = {}
        if request["do"] == "run":
            answer = block(loaded.run, request["count"], request["skip"])
        else:
            np.savez(request["file"], *loaded.run())
        print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    # Runtimes print to stdout too; the protocol keeps the original for itself.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        loaded, started = start(*sys.argv[1:3])
    except Exception as error:  # whatever a runtime raises is its result here
        traceback.print_exc()
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(json.dumps({"error": first_line[:300]}), file=answers, flush=True)
        sys.exit(1)
    print(json.dumps(started), file=answers, flush=True)
    serve(loaded, answers)


if __name__ == "__main__":
    main()
