"""Latency of our bundles against other inference runtimes.

Each runtime is a process of its own that idles while another one is measured. With one thread the
CPU time of an inference is compared, with more the wall time of undisturbed blocks.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import chart
import cold
import environment
import latency_table
from contestants import Contestant, choose, distributions, missing
from latency_run import convert, measure_network
from problem import NETWORKS_CACHE, Problem, prepare
from results import NetworkResult

from tvm_iovt import resources
from tvm_iovt.errors import EXIT_INTERRUPTED, IovtError, UsageError
from tvm_iovt.frontend.shapes import parse_input_shapes

Entry = tuple[Problem, dict[str, Path], NetworkResult]
"""A network, what each contestant loads for it, and what is found out."""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python bench/peers", description=__doc__)
    made.add_argument(
        "models",
        type=Path,
        nargs="*",
        help="ONNX files, or folders of them (default: what networks.py beside this file writes)",
    )
    made.add_argument("--threads", default="1,2", help="comma-separated (default: 1,2)")
    made.add_argument("--rounds", type=int, default=15, help="blocks a runtime (default: 15)")
    made.add_argument(
        "--peers",
        default="",
        metavar="A,B",
        help="default: onnxruntime,openvino,ncnn,mnn,openvino-default; the first is always in",
    )
    made.add_argument(
        "--ours",
        action="append",
        default=[],
        metavar="'NAME: OPTIONS'",
        help="a variant of ours, with options of `tvm-iovt compile`; repeat",
    )
    made.add_argument(
        "--input-shape",
        action="append",
        default=[],
        metavar="FILE:NAME=D0xD1x...",
        help="static shape of an input of one model (file name without .onnx); repeat",
    )
    made.add_argument(
        "--wait",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="longest wait for a quiet machine before a block (default: 1)",
    )
    made.add_argument(
        "--cold", action="store_true", help="measure process start to first result instead"
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write everything here")
    made.add_argument("--svg", type=Path, metavar="FILE", help="draw the latencies here")
    made.add_argument(
        "--work", type=Path, metavar="FOLDER", help="for converted networks (default: a cache)"
    )
    return made


def main() -> None:
    options = parser().parse_args()
    try:
        run(options)
    except IovtError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def run(options: argparse.Namespace) -> None:
    thread_counts = parse_threads(options.threads)
    if options.rounds < 1:
        raise UsageError("There must be at least one round", seen=f"--rounds {options.rounds}")
    contestants = present(choose(options.peers, options.ours))
    work = options.work or resources.cache("peers")
    problems = [
        prepare(path, shapes_of(options.input_shape, path), work)
        for path in model_files(options.models or [resources.cache(NETWORKS_CACHE)])
    ]
    described = environment.describe(distributions(contestants))
    print(environment.one_line(described))
    results = [NetworkResult(name=problem.name) for problem in problems]
    # Before anything is measured: converters would disturb it, and every table is of one state of
    # our compiler.
    made = []
    for index, (problem, result) in enumerate(zip(problems, results, strict=True), start=1):
        print(f"converting {problem.name} ({index} of {len(problems)})", file=sys.stderr)
        made.append(convert(problem, contestants, result))
    entries = list(zip(problems, made, results, strict=True))
    report: dict[str, Any] = {"environment": described}
    report["settings"] = {"rounds": options.rounds, "wait_s": options.wait}
    if options.cold:
        report["cold"] = cold_starts(entries, contestants, max(thread_counts))
        write_json(options.json, report)
    else:
        for threads in thread_counts:
            for _ in latencies(entries, contestants, threads, options):
                # After every network: a long run that is interrupted has measured something.
                report["networks"] = [dataclasses.asdict(result) for result in results]
                write_json(options.json, report)
        print(f"\n{latency_table.LEGEND}")
        print("\n".join(["", *latency_table.differences(results, contestants)]))
        if options.svg:
            drawn = chart.draw(results, contestants, described["cpu"])
            options.svg.write_text(drawn, encoding="utf-8")
    print("\n".join(latency_table.notes(results)))


def latencies(
    entries: Sequence[Entry],
    contestants: Sequence[Contestant],
    threads: int,
    options: argparse.Namespace,
) -> Iterator[NetworkResult]:
    """Print a table, a row whenever a network is measured; yields the latter."""
    print(f"\n{latency_table.title(threads)}\n{latency_table.header(contestants)}", flush=True)
    for problem, made, result in entries:
        try:
            measure_network(
                problem,
                contestants,
                made,
                result,
                threads=threads,
                rounds=options.rounds,
                wait_s=options.wait,
            )
        except IovtError as error:
            print(f"{problem.name}: {error.what}: {error.seen}")
            continue
        print("\n".join(latency_table.rows(result, threads, contestants)), flush=True)
        yield result
    results = [result for _, _, result in entries]
    print("\n".join(latency_table.means(results, threads, contestants)))


def cold_starts(
    entries: Sequence[Entry],
    contestants: Sequence[Contestant],
    threads: int,
) -> dict[str, Any]:
    print(f"\nprocess start to first result, {threads} threads, median of {cold.STARTS} starts")
    print(cold.HEADER)
    found: dict[str, Any] = {}
    for problem, made, result in entries:
        starts = cold.measure_starts(problem, contestants, made, result, threads=threads)
        print("\n".join(cold.rows(problem.name, starts)), flush=True)
        found[problem.name] = {name: dataclasses.asdict(one) for name, one in starts.items()}
    return found


def present(contestants: Sequence[Contestant]) -> tuple[Contestant, ...]:
    """Those that are installed; the others are named on stderr."""
    found = []
    for contestant in contestants:
        reason = missing(contestant)
        if reason:
            print(reason, file=sys.stderr)
        else:
            found.append(contestant)
    return tuple(found)


def model_files(paths: Sequence[Path]) -> list[Path]:
    """The files, and those in the folders.

    Raises:
        UsageError: There are none, or two networks have one name.
    """
    found: list[Path] = []
    for path in paths:
        found += sorted(path.glob("*.onnx")) if path.is_dir() else [path]
    if not found:
        raise UsageError(
            "There are no networks to measure",
            seen=f"no .onnx file in {', '.join(map(str, paths))}",
            do="python bench/peers/networks.py [FOLDER] makes some",
        )
    names = [path.stem for path in found]
    if len(set(names)) < len(names):
        raise UsageError("Two networks have the same name", seen=", ".join(names))
    return found


def shapes_of(options: Sequence[str], model: Path) -> dict[str, tuple[int, ...]]:
    prefix = model.stem + ":"
    return parse_input_shapes(o.removeprefix(prefix) for o in options if o.startswith(prefix))


def write_json(path: Path | None, report: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def parse_threads(text: str) -> list[int]:
    """`"1,2"` -> `[1, 2]`.

    Raises:
        UsageError: Something in it is not a positive number.
    """
    counts = text.split(",")
    if not all(count.isdigit() and int(count) > 0 for count in counts):
        raise UsageError("--threads takes positive numbers", seen=text, do="for example 1,2")
    return list(dict.fromkeys(map(int, counts)))


if __name__ == "__main__":
    main()
