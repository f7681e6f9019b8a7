"""Compile every model of a folder and say whether it is right, on each target."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from models import input_shapes, model_files, parser, write_json

import tvm_iovt
from tvm_iovt.errors import IovtError


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--targets", default="host")
    arguments.add_argument("--emulate", action="store_true", help="run ARM code under qemu-user")
    options = arguments.parse_args()
    results = []
    print(f"{'model':32} {'target':10} {'outcome':10} {'max abs':>9} {'cosine':>10} {'seconds':>8}")
    for model in model_files(options.folder):
        with tempfile.TemporaryDirectory() as folder:
            began_s = time.perf_counter()
            try:
                result = tvm_iovt.compile(
                    model,
                    targets=options.targets,
                    output=Path(folder) / "bundle.iovt",
                    input_shapes=input_shapes(options.input_shape, model),
                    emulate=options.emulate,
                )
            except IovtError as error:
                print(f"{model.stem:32} {'':10} exit {error.exit_code}: {error.what}")
                results.append({"model": model.stem, "error": str(error)})
                continue
            seconds = time.perf_counter() - began_s
        for deployment in result.manifest.deployments:
            found = deployment.discrepancy
            outcome = "not run" if found is None else "passed" if found.passed else "FAILED"
            max_abs = max((o.max_abs for o in found.outputs), default=0.0) if found else None
            cosine = min((o.cosine for o in found.outputs), default=1.0) if found else None
            numbers = f"{max_abs:9.1e} {cosine:10.7f}" if found else f"{'':9} {'':10}"
            print(f"{model.stem:32} {deployment.name:10} {outcome:10} {numbers} {seconds:8.1f}")
            results.append(
                {
                    "model": model.stem,
                    "target": deployment.name,
                    "outcome": outcome,
                    "verified": deployment.verified,
                    "max_abs": max_abs,
                    "cosine": cosine,
                    "compile_s": seconds,
                }
            )
    write_json(options.json, results)


if __name__ == "__main__":
    main()
