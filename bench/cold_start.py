"""Process start to first result of a bundle, and the peak resident memory of the process."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from models import write_json

CHILD = """
import sys
from tvm_iovt import bundle, runtime
executor = runtime.load(sys.argv[1])
inputs, _ = bundle.load_sample(__import__("pathlib").Path(sys.argv[1]))
executor.run(inputs)
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("bundle", type=Path)
    arguments.add_argument("--repeat", type=int, default=9)
    arguments.add_argument("--json", type=Path, metavar="FILE")
    options = arguments.parse_args()
    command = [sys.executable, "-c", CHILD, str(options.bundle)]
    seconds, peak_bytes = [], 0
    for _ in range(options.repeat):
        began_s = time.perf_counter()
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        seconds.append(time.perf_counter() - began_s)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{options.bundle} did not run: exit {process.returncode}")
        peak_bytes = max(peak_bytes, usage.ru_maxrss * 1024)
    seconds.sort()
    print(f"process start to exit   median {statistics.median(seconds):.3f} s")
    print(
        f"                        [{seconds[0]:.3f} .. {seconds[-1]:.3f} s], {len(seconds)} starts"
    )
    print(f"peak resident memory    {peak_bytes / 1e6:.0f} MB")
    write_json(
        options.json, {"median_s": statistics.median(seconds), "peak_resident_bytes": peak_bytes}
    )


if __name__ == "__main__":
    main()
