"""Comparing networks on a board, for the last step of tuning."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvm_iovt import _tvm
from tvm_iovt.boards.connection import connect
from tvm_iovt.boards.rpc_session import RemoteStage
from tvm_iovt.boards.session import BoardRequest, BoardSession
from tvm_iovt.build.link import Linker
from tvm_iovt.build.stage import build_executable
from tvm_iovt.tuning.network_choice import Contest
from tvm_iovt.tuning.network_ranking import Comparison, are_alike, comparison
from tvm_iovt.types import TargetSpec

ROUNDS = 25
"""Samples of each network."""

_SAMPLE_S = 0.05
_MAX_NUMBER = 50


def board_contest(
    request: BoardRequest,
    spec: TargetSpec,
    linker: Linker,
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str],
    note: Callable[[str], None],
) -> Contest:
    """A contest on a board of a key.

    Args:
        request: Which board to get.
        spec: The same as a target.
        linker: For it.
        inputs: Of the network, by name, in order.
        outputs: Their names.
        note: Is told the steps.

    Raises (when it is called):
        DeviceError: No board can be had, or it failed.
    """

    def contest(modules: Sequence[Any]) -> Sequence[Comparison | None]:
        with tempfile.TemporaryDirectory(prefix="tvm-iovt-") as folder:
            stages = [
                RemoteStage(
                    library=_built(module, spec, linker, Path(folder) / f"network{i}.so"),
                    kind=spec.kind,
                    inputs=tuple(inputs),
                    outputs=tuple(outputs),
                )
                for i, module in enumerate(modules)
            ]
            with connect(request, note) as session:
                return _compared(session, stages, inputs, outputs)

    return contest


def _built(module: Any, spec: TargetSpec, linker: Linker, library: Path) -> Path:
    target = _tvm.tvm_target(spec)
    with target:
        executable = build_executable(module, spec, target)
    executable.export_library(str(library), fcompile=linker.fcompile())
    return library


def _compared(
    session: BoardSession,
    stages: Sequence[RemoteStage],
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str],
) -> list[Comparison | None]:
    networks, results = [], []
    for stage in stages:
        network = session.call(f"uploading {stage.library.name}", "load", [stage], list(outputs))
        results.append(session.call("running the network", "run", network, dict(inputs)))
        networks.append(network)
    right = [are_alike(_ordered(r, outputs), _ordered(results[0], outputs)) for r in results]
    once_s = session.call("timing the network", "time_device", networks[0], 1, 1)[0]
    number = min(max(math.ceil(_SAMPLE_S / max(once_s, 1e-6)), 1), _MAX_NUMBER)
    samples: list[list[float]] = [[] for _ in networks]
    for turn in range(ROUNDS):
        for place in range(len(networks)):
            which = (turn + place) % len(networks)
            if right[which]:
                step = ("timing the network", "time_device", networks[which], number, 1)
                samples[which] += session.call(*step)
    return [
        comparison(samples[0], samples[i]) if right[i] else None for i in range(1, len(networks))
    ]


def _ordered(result: Mapping[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
    return [result[name] for name in names]
