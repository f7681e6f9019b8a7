"""What folding branches brings: fused against unfused, in our host build and in ONNX Runtime.

One thread; blocks of all four contestants alternate in one process. Fused is what `--fuse auto`,
the default of `compile` and `fuse`, makes of the model.
"""

from __future__ import annotations

import os

os.environ["TVM_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from latency import block
from models import input_shapes, model_files, parser, write_json
from peer import one_thread_session

import tvm_iovt
from tvm_iovt import targets
from tvm_iovt.errors import IovtError
from tvm_iovt.frontend.network import sample_inputs
from tvm_iovt.frontend.onnx_model import load_onnx
from tvm_iovt.frontend.shapes import fix_shapes
from tvm_iovt.onnx_fusion import fuse_onnx
from tvm_iovt.roofline import assumed_ceilings

COUNTED = ("Conv", "BatchNormalization", "Add")


def counts(model: onnx.ModelProto) -> dict[str, int]:
    found = Counter(node.op_type for node in model.graph.node)
    return {kind: found[kind] for kind in COUNTED}


def ratio(fused: list[float], unfused: list[float]) -> dict[str, float]:
    ratios = sorted(a / b for a, b in zip(fused, unfused, strict=True))
    return {
        "fused_s": statistics.median(fused),
        "unfused_s": statistics.median(unfused),
        "ratio": statistics.median(ratios),
        "ratio_p10": ratios[len(ratios) // 10],
        "ratio_p90": ratios[-1 - len(ratios) // 10],
    }


def measure(path: Path, shapes: dict[str, tuple[int, ...]], rounds: int) -> dict[str, Any]:
    model = fix_shapes(load_onnx(path), shapes)
    ceilings = assumed_ceilings(targets.load("host"))
    began_s = time.perf_counter()
    fused = fuse_onnx(model, time=ceilings.time_s)
    took_s = time.perf_counter() - began_s
    with tempfile.TemporaryDirectory() as folder:
        executors = []
        for mode in ("auto", "never"):
            output = Path(folder) / f"{mode}.iovt"
            result = tvm_iovt.compile(path, output=output, input_shapes=shapes, fuse=mode)
            executors.append(tvm_iovt.load(result.path))
        inputs = sample_inputs(executors[0].inputs)
        sessions = [one_thread_session(fused), one_thread_session(model)]
        calls: list[Callable[[], object]] = [
            *((lambda e=e: e.run(inputs)) for e in executors),
            *((lambda s=s: s.run(None, inputs)) for s in sessions),
        ]
        times: list[list[float]] = [[] for _ in calls]
        for _ in range(rounds):
            for call, taken in zip(calls, times, strict=True):
                taken.append(block(call))
    return {
        "before": counts(model),
        "after": counts(fused),
        "fusing_s": took_s,
        "tvm_iovt": ratio(times[0], times[1]),
        "onnxruntime": ratio(times[2], times[3]),
    }


def row(found: dict[str, float]) -> str:
    return (
        f"{found['unfused_s'] * 1e3:8.2f} -> {found['fused_s'] * 1e3:7.2f} ms  "
        f"{found['ratio']:.2f} [{found['ratio_p10']:.2f} .. {found['ratio_p90']:.2f}]"
    )


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--rounds", type=int, default=15)
    options = arguments.parse_args()
    print("end to end (NumPy in, NumPy out), CPU time of one thread; ratio fused / unfused")
    results: dict[str, Any] = {}
    for path in model_files(options.folder):
        try:
            found = measure(path, input_shapes(options.input_shape, path), options.rounds)
        except IovtError as error:
            print(f"{path.stem}: {error.what}")
            continue
        results[path.stem] = found
        changed = ", ".join(f"{found['before'][k]} -> {found['after'][k]} {k}" for k in COUNTED)
        print(f"{path.stem}: {changed}; graph fused in {found['fusing_s']:.2f} s")
        print(f"  tvm-iovt     {row(found['tvm_iovt'])}")
        print(f"  onnxruntime  {row(found['onnxruntime'])}", flush=True)
    write_json(options.json, {"onnxruntime": onnxruntime.__version__, "models": results})


if __name__ == "__main__":
    main()
