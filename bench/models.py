"""Finding the models to measure, for all benchmarks."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvm_iovt.frontend.shapes import parse_input_shapes


def parser(description: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description)
    made.add_argument("folder", type=Path, help="ONNX file, or folder of them")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    made.add_argument(
        "--input-shape",
        action="append",
        default=[],
        metavar="FILE:NAME=D0xD1x...",
        help="static shape of an input of one model (file name without .onnx); repeat",
    )
    return made


def model_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.onnx")) if folder.is_dir() else [folder]


def input_shapes(options: Sequence[str], model: Path) -> dict[str, tuple[int, ...]]:
    prefix = model.stem + ":"
    return parse_input_shapes(o.removeprefix(prefix) for o in options if o.startswith(prefix))


def write_json(path: Path | None, results: Any) -> None:
    if path is not None:
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
