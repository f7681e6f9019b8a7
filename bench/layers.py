"""How fast each of our kernels is inside of its network, beside ONNX Runtime's.

One thread. FLOPs are those of the direct convolution, whatever algorithm ran. ONNX Runtime runs the
network as our compiler fuses it, so that both have the same convolutions.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layer_times.layer_table import measure, text
from layer_times.native import fma_peak_flops
from models import input_shapes, model_files, write_json

from tvm_iovt.errors import IovtError, UsageError


def compiled(model: Path, options: str, shapes: list[str], folder: Path) -> Path:
    """A bundle made by a process of its own: the compiler would stay in this one's memory.

    Raises:
        UsageError: It cannot be compiled; its own message is in `seen`.
    """
    out = folder / f"{model.stem}.iovt"
    command = [sys.executable, "-m", "tvm_iovt", "compile", str(model), "-o", str(out)]
    command += [part for shape in shapes for part in ("--input-shape", shape)]
    done = subprocess.run(
        [*command, *shlex.split(options)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UsageError(f"{model} cannot be compiled", seen=done.stderr.strip()[-600:])
    return out


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("models", type=Path, nargs="+", help="ONNX files, or folders of them")
    arguments.add_argument("--rounds", type=int, default=10)
    arguments.add_argument(
        "--compile", default="", metavar="'OPTIONS'", help="further options of `tvm-iovt compile`"
    )
    arguments.add_argument(
        "--bundle", type=Path, help="measure this bundle of the (one) model, instead of compiling"
    )
    arguments.add_argument(
        "--input-shape", action="append", default=[], metavar="FILE:NAME=D0xD1x..."
    )
    arguments.add_argument("--wait", type=float, default=1.0, metavar="SECONDS")
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    options = arguments.parse_args()
    models = [file for path in options.models for file in model_files(path)]
    if options.bundle and len(models) != 1:
        sys.exit("--bundle goes with one model")
    try:
        report = dict(run(models, options))
    except IovtError as error:
        sys.exit(str(error))
    write_json(options.json, report)


def run(models: list[Path], options: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    peak_flops = fma_peak_flops()
    print(f"peak of one core: {peak_flops / 1e9:.1f} GFLOP/s of float32 multiply-adds (measured)")
    yield "peak_flops", peak_flops
    for model in models:
        shapes = input_shapes(options.input_shape, model)
        with tempfile.TemporaryDirectory() as folder:
            prefix = f"{model.stem}:"
            given = [s.removeprefix(prefix) for s in options.input_shape if s.startswith(prefix)]
            bundle = options.bundle or compiled(model, options.compile, given, Path(folder))
            found = measure(model, shapes, bundle, rounds=options.rounds, wait_s=options.wait)
        print(f"\n{model.stem}")
        print("\n".join(text(found, peak_flops)), flush=True)
        yield model.stem, dataclasses.asdict(found)


if __name__ == "__main__":
    main()
