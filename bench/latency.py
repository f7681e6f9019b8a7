"""Latency of host bundles against ONNX Runtime on the same model: one thread, blocks alternate."""

from __future__ import annotations

import os

os.environ["TVM_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
from models import input_shapes, model_files, parser, write_json
from peer import one_thread_session

import tvm_iovt
from tvm_iovt.errors import IovtError
from tvm_iovt.frontend.network import sample_inputs
from tvm_iovt.frontend.onnx_model import load_onnx
from tvm_iovt.frontend.shapes import fix_shapes

BLOCK_S = 0.1


def block(call: Callable[[], object]) -> float:
    """Mean CPU seconds a call over about 0.1 s, the first two calls dropped.

    One thread: CPU time is the wall time of an idle machine, and stays valid on a busy one.
    """
    call()
    call()
    calls, began_s = 0, time.process_time()
    while calls < 2 or time.process_time() - began_s < BLOCK_S:
        call()
        calls += 1
    return (time.process_time() - began_s) / calls


def measure(model: Path, shapes: dict[str, tuple[int, ...]], rounds: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        result = tvm_iovt.compile(model, output=Path(folder) / "b.iovt", input_shapes=shapes)
        executor = tvm_iovt.load(result.path)
        session = one_thread_session(fix_shapes(load_onnx(model), shapes))
        inputs = sample_inputs(executor.inputs)
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(block(lambda: executor.run(inputs)))
            theirs.append(block(lambda: session.run(None, inputs)))
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    return {
        "tvm_iovt_s": statistics.median(ours),
        "onnxruntime_s": statistics.median(theirs),
        "ratio": statistics.median(ratios),
        "ratio_p10": ratios[len(ratios) // 10],
        "ratio_p90": ratios[-1 - len(ratios) // 10],
    }


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--rounds", type=int, default=15)
    options = arguments.parse_args()
    print("end to end (NumPy in, NumPy out), CPU time of one thread")
    print(f"{'model':32} {'tvm-iovt':>10} {'onnxruntime':>12} {'ratio':>7}  [p10 .. p90]")
    results = {}
    for model in model_files(options.folder):
        shapes = input_shapes(options.input_shape, model)
        try:
            found = measure(model, shapes, options.rounds)
        except IovtError as error:
            print(f"{model.stem:32} {error.what}")
            continue
        results[model.stem] = found
        ours_ms, theirs_ms = found["tvm_iovt_s"] * 1e3, found["onnxruntime_s"] * 1e3
        band = f"[{found['ratio_p10']:.2f} .. {found['ratio_p90']:.2f}]"
        print(
            f"{model.stem:32} {ours_ms:7.2f} ms {theirs_ms:9.2f} ms {found['ratio']:7.2f}  {band}"
        )
    write_json(options.json, {"onnxruntime": onnxruntime.__version__, "models": results})


if __name__ == "__main__":
    main()
