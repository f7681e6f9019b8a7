"""Where the planner cuts as a link gets narrower, and whether the measured frame rate follows.

    sudo python bench/links.py MODEL --rates 1000Mbit,200Mbit,50Mbit,10Mbit --json links.json

Makes a network namespace that stands for a second machine: a board serves there on one core, behind
a pair of virtual interfaces whose rate `tc` limits. For each rate the network is planned for this
machine's other core and that board, compiled, and run as a pipeline, in turns with the whole
network on this machine's core alone. Needs root, `ip` and `tc`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models import write_json

from tvm_iovt import resources

SPACE, NEAR, FAR = "iovt-far", "iovt-near0", "iovt-far0"
HERE, THERE, PORT = "10.77.0.1", "10.77.0.2", 9199
LATENCY_MS = 1
ROUNDS = 3


def run(*words: object) -> None:
    """Run a command of the system."""
    subprocess.run(list(map(str, words)), check=True)


def verb(folder: Path, *words: object) -> Any:
    """Run `tvm-iovt ... --json`."""
    found = subprocess.run(
        [sys.executable, "-m", "tvm_iovt", *map(str, words), "--json"],
        env={**os.environ, "TVM_IOVT_PATH": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(found.stdout)


@contextlib.contextmanager
def second_machine() -> Iterator[None]:
    """The namespace and the interfaces, gone again at the end."""
    run("ip", "netns", "add", SPACE)
    try:
        run("ip", "link", "add", NEAR, "type", "veth", "peer", "name", FAR)
        run("ip", "link", "set", FAR, "netns", SPACE)
        run("ip", "addr", "add", f"{HERE}/24", "dev", NEAR)
        run("ip", "link", "set", NEAR, "up")
        inside = ("ip", "netns", "exec", SPACE, "ip")
        run(*inside, "addr", "add", f"{THERE}/24", "dev", FAR)
        run(*inside, "link", "set", FAR, "up")
        run(*inside, "link", "set", "lo", "up")
        yield
    finally:
        subprocess.run(["ip", "link", "del", NEAR], check=False)
        subprocess.run(["ip", "netns", "del", SPACE], check=False)


def limit(rate: str) -> None:
    """Limit both directions."""
    shape = ("root", "tbf", "rate", rate, "burst", "64kb", "latency", "400ms")
    run("tc", "qdisc", "replace", "dev", NEAR, *shape)
    run("ip", "netns", "exec", SPACE, "tc", "qdisc", "replace", "dev", FAR, *shape)


@contextlib.contextmanager
def board(folder: Path) -> Iterator[None]:
    """A tracker here and a board there, on the last core."""
    program = [sys.executable, "-m", "tvm_iovt"]
    core = str(max(os.sched_getaffinity(0)))
    log = (folder / "board.log").open("w")
    tracker = [*program, "tracker", "--host", HERE, "--port", PORT]
    serve = ["ip", "netns", "exec", SPACE, "taskset", "-c", core, *program, "board"]
    serve += ["--tracker", f"{HERE}:{PORT}", "--key", "far", "--bind", THERE]
    environment = {**os.environ, "TVM_NUM_THREADS": "1", "TVM_BIND_THREADS": "0"}
    children = []
    try:
        for command in (tracker, serve):
            children.append(
                subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, env=environment)
            )
            time.sleep(5)
        yield
    finally:
        for child in reversed(children):
            child.send_signal(signal.SIGTERM)
            child.wait(20)
        log.close()


def describe_far(folder: Path) -> None:
    """A target file: this machine's CPU, measured if `host` was, as another machine."""
    source = next(
        path for base in resources.search_path("targets") if (path := base / "host.toml").is_file()
    )
    (folder / "targets").mkdir()
    (folder / "targets" / "far.toml").write_text(f'machine = "far"\n{source.read_text()}')


def measure(model: Path, rate: str, shapes: list[str], frames: int, folder: Path) -> dict[str, Any]:
    limit(rate)
    file, bundle = folder / f"{rate}.json", folder / f"{rate}.iovt"
    link = f"far/1={rate},{LATENCY_MS}ms"
    common = (*shapes, "--targets", "host/1,far/1", "--objective", "throughput", "--link", link)
    plan = verb(folder, "plan", model, *common, "-o", file)["plan"]
    verb(folder, "compile", model, *shapes, "--plan", file, "--link", link, "-o", bundle)
    stages = plan["stages"]
    boards = ["--tracker", f"{HERE}:{PORT}", "--board", "far/1=far"]
    used = any(stage["target"] == "far/1" for stage in stages)
    periods: dict[str, list[float]] = {"planned": [], "alone": []}
    for _ in range(ROUNDS):
        periods["planned"].append(period_s(folder, bundle, frames, *(boards if used else ())))
        periods["alone"].append(period_s(folder, folder / "alone.iovt", frames))
    alone = verb(folder, "plan", model, *shapes, "--targets", "host/1")["plan"]["prediction"]
    return {
        "stages": [(stage["target"], len(stage["units"])) for stage in stages],
        "bytes_over_link": [s["bytes_in"] for s in plan["prediction"]["stages"]],
        "cut": plan["reasons"],
        "period_predicted_s": plan["prediction"]["period_s"],
        "period_measured_s": statistics.median(periods["planned"]),
        "alone_predicted_s": alone["period_s"],
        "alone_measured_s": statistics.median(periods["alone"]),
        "rounds": periods,
    }


def period_s(folder: Path, bundle: Path, frames: int, *options: str) -> float:
    """Seconds between two frames of a run."""
    ran = verb(folder, "run", bundle, f"sample:{frames}", "--pipeline", *options)
    return float(1 / ran["statistics"]["frames_per_s"])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("model", type=Path)
    options.add_argument("--rates", default="1000Mbit,200Mbit,50Mbit,10Mbit")
    options.add_argument("--frames", type=int, default=100)
    options.add_argument("--input-shape", action="append", default=[])
    options.add_argument("--json", type=Path, metavar="FILE")
    given = options.parse_args()
    shapes = [f"--input-shape={shape}" for shape in given.input_shape]
    results = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary, second_machine():
        folder = Path(temporary)
        describe_far(folder)
        whole = ("--targets", "host/1", "-o", folder / "alone.iovt")
        verb(folder, "compile", given.model, *shapes, *whole)
        with board(folder):
            for rate in given.rates.split(","):
                found = measure(given.model, rate, shapes, given.frames, folder)
                results[rate] = found
                parts = " | ".join(f"{target} {count} units" for target, count in found["stages"])
                print(
                    f"{rate:>10} {parts:40} predicted {found['period_predicted_s'] * 1e3:8.2f} ms, "
                    f"measured {found['period_measured_s'] * 1e3:8.2f} ms a frame; "
                    f"alone {found['alone_measured_s'] * 1e3:8.2f} ms",
                    flush=True,
                )
                write_json(given.json, results)


if __name__ == "__main__":
    main()
