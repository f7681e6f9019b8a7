"""How long ONNX Runtime's nodes take inside of the network."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from layer_times.onnx_layers import Layer

_KERNEL = "_kernel_time"
_FUSED = "fused "  # a dense layer with its activation
_BLOCKED = "_nchwc"  # ONNX Runtime's name for its own layout


class ProfiledSession:
    """One thread of ONNX Runtime, once with its profiler and once without.

    Attributes:
        run: Runs the network without the profiler.
    """

    def __init__(self, model: onnx.ModelProto, inputs: Mapping[str, npt.NDArray[Any]]) -> None:
        named = onnx.ModelProto()
        named.CopyFrom(model)
        for node in named.graph.node:  # the profile names nodes, and graphs may have nameless ones
            node.name = node.output[0]
        content = named.SerializeToString()
        self._folder = tempfile.TemporaryDirectory(prefix="tvm-iovt-bench-")
        plain, self._profiled = (self._session(content, profile) for profile in (False, True))
        self.run: Callable[[], object] = lambda: plain.run(None, inputs)
        self._inputs = inputs
        self._runs = 0

    def run_profiled(self) -> int:
        """Run the network with the profiler; returns the number of this run."""
        self._profiled.run(None, self._inputs)
        self._runs += 1
        return self._runs - 1

    def _session(self, content: bytes, profile: bool) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        if profile:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(self._folder.name) / "profile")
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def node_times_s(self, runs: Sequence[int], quantile: float) -> dict[str, float]:
        """End the profile; the time of each node at a quantile of the runs of these numbers."""
        file = Path(self._profiled.end_profiling())
        events = json.loads(file.read_text(encoding="utf-8"))
        self._folder.cleanup()
        times: dict[str, list[float]] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
                name = event["name"].removeprefix(_FUSED).removesuffix(_KERNEL)
                name = name.removesuffix(_BLOCKED)
                times.setdefault(name, []).append(event["dur"] * 1e-6)
        return {
            name: float(np.quantile(np.array(taken).reshape(self._runs, -1).sum(1)[runs], quantile))
            for name, taken in times.items()
        }


def layer_times_s(layers: Sequence[Layer], nodes: Mapping[str, float]) -> list[float | None]:
    """The time of each layer with what is fused into it; None if the profile has no such node."""
    return [next((nodes[name] for name in layer.names if name in nodes), None) for layer in layers]
