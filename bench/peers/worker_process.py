"""The measuring process's side of `worker.py`."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from contestants import Contestant
from paired import Block
from problem import Problem
from runtimes import Array, Job

from tvm_iovt.errors import DeviceError

_WORKER = Path(__file__).resolve().parent / "worker.py"
_GOODBYE_S = 10.0


class WorkerError(DeviceError):
    """A runtime cannot load or run a network."""


class Worker:
    """A process that holds one network in one runtime, idle unless it is asked for something.

    Attributes:
        contestant: Whose process it is.
        started: What the process told when it was ready: `load_s`, `first_s`, `precision`,
            `peak_resident_bytes` and `cpu_s`, both of the whole process until then.
        ready_s: From its start until then.
    """

    def __init__(
        self, contestant: Contestant, artifact: Path, problem: Problem, threads: int
    ) -> None:
        self.contestant = contestant
        job = Job(
            runtime=contestant.runtime,
            artifact=str(artifact),
            threads=threads,
            precision=contestant.precision,
            input_names=tuple(spec.name for spec in problem.inputs),
            output_names=problem.output_names,
        )
        label = f"{contestant.name.replace(' ', '-')}-{threads}"
        job_file = problem.folder / f"{label}.json"
        job_file.write_text(json.dumps(dataclasses.asdict(job)), encoding="utf-8")
        self._log_file = problem.folder / f"{label}.log"
        began_s = time.perf_counter()
        with self._log_file.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(_WORKER), str(job_file), str(problem.inputs_file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            self.started = self._answer()
        except WorkerError:
            self.close()
            raise
        self.ready_s = time.perf_counter() - began_s

    def block(self, count: int, skip: int) -> Block:
        """Run `skip` and then `count` inferences; the latter are timed."""
        return Block(**self._ask({"do": "run", "count": count, "skip": skip}))

    def outputs(self) -> list[Array]:
        """The network's outputs, in order."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "outputs.npz"
            self._ask({"do": "save", "file": str(file)})
            with np.load(file) as stored:
                return list(stored.values())

    def close(self) -> None:
        """End the process; an idle one ends when its input does."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(_GOODBYE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._failed("the process ended") from error
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failed("the process ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self._failed(answer["error"])
        return answer

    def _failed(self, seen: str) -> WorkerError:
        return WorkerError(f"{self.contestant.name} failed", seen=seen, do=f"see {self._log_file}")
